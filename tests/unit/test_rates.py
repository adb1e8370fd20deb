"""What `headrace top` computes from two scrapes."""

import math

import pytest

from headrace.rates import Between, Scrape, ScrapeError

BEFORE = """
# TYPE wanted_total counter
wanted_total{model="a",status="200"} 10
wanted_total{model="a",status="500"} 1
wanted_total{model="b",status="200"} 7
# TYPE took_seconds histogram
took_seconds_bucket{model="a",le="0.1"} 5
took_seconds_bucket{model="a",le="0.2"} 5
took_seconds_bucket{model="a",le="+Inf"} 5
took_seconds_count{model="a"} 5
took_seconds_sum{model="a"} 0.3
"""
AFTER = """
# TYPE wanted_total counter
wanted_total{model="a",status="200"} 30
wanted_total{model="a",status="500"} 5
wanted_total{model="b",status="200"} 2
wanted_total{model="c",status="200"} 4
# TYPE took_seconds histogram
took_seconds_bucket{model="a",le="0.1"} 55
took_seconds_bucket{model="a",le="0.2"} 95
took_seconds_bucket{model="a",le="+Inf"} 105
took_seconds_count{model="a"} 105
took_seconds_sum{model="a"} 12.3
"""


@pytest.fixture
def between():
    return Between(Scrape.parse(BEFORE, 100.0), Scrape.parse(AFTER, 102.0))


def test_a_rate_is_of_the_time_between_the_scrapes(between):
    assert between.rate("wanted_total", model="a") == pytest.approx((20 + 4) / 2)
    assert between.rate("wanted_total", model="a", status="500") == pytest.approx(2)


def test_a_count_that_began_anew_is_new_as_is_a_series_that_was_not_there(between):
    assert between.increases("wanted_total", ("model",)) == {("a",): 24, ("b",): 2, ("c",): 4}


def test_quantiles_are_interpolated_within_their_bucket(between):
    assert between.quantile(0.25, "took_seconds", model="a") == pytest.approx(0.05)  # 25 of 50 in the first bucket
    assert between.quantile(0.7, "took_seconds", model="a") == pytest.approx(0.15)  # 20 of 40 in the second
    assert between.quantile(0.5, "took_seconds", model="a") == pytest.approx(0.1)


def test_beyond_the_last_bound_the_bound_is_all_that_is_known(between):
    assert between.quantile(0.99, "took_seconds", model="a") == pytest.approx(0.2)


def test_a_mean_is_of_what_was_counted_meanwhile(between):
    assert between.mean("took_seconds", model="a") == pytest.approx(0.12)


def test_without_a_count_nothing_is_known(between):
    assert math.isnan(between.quantile(0.5, "took_seconds", model="none"))
    assert math.isnan(between.mean("took_seconds", model="none"))


def test_one_scrape_alone_gives_no_rate():
    between = Between(None, Scrape.parse(AFTER, 1.0))
    assert math.isnan(between.rate("wanted_total"))
    assert between.seconds == 0


def test_a_gauge_is_summed_over_what_is_not_asked_for():
    scrape = Scrape.parse(AFTER, 0.0)
    assert scrape.value("wanted_total", status="200") == 36
    assert scrape.by("wanted_total", ("status",)) == {("200",): 36, ("500",): 5}
    assert scrape.value("unheard_of") == 0


@pytest.mark.parametrize("page", ["<html>no</html>", "a{b=", 'a{b="c"} one'])
def test_a_page_of_something_else_is_refused(page):
    with pytest.raises(ScrapeError, match="not in Prometheus's text format"):
        Scrape.parse(page, 0.0)


def test_a_page_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("headrace.rates.SAMPLES_MOST", 3)
    with pytest.raises(ScrapeError, match="more than 3 series"):
        Scrape.parse(BEFORE, 0.0)
