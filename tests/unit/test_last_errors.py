"""last_errors: what is kept is bounded whatever comes, equal errors are one, and no worker floods the channel."""

import sys

from headrace import last_errors, log
from headrace.last_errors import LastErrors, Reporter, describe


class Clock:
    def __init__(self):
        self.s = 100.0

    def __call__(self):
        return self.s


def raised(text):
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_an_event_that_names_no_model_is_nobody_s_error():
    assert describe("worker.lost", {"worker": 2}, None) is None
    assert describe("models.failed", {"model": ["a", "b"]}, None) is None


def test_the_error_is_what_the_event_says_or_the_traceback_s_last_line():
    said = describe("model.failed", {"model": "m", "error": ValueError("no"), "request": "17"}, None)
    assert said == {"model": "m", "event": "model.failed", "error": "ValueError: no", "request": "17", "traceback": ""}
    assert describe("model.failed", {"model": "m", "reason": "too large"}, None)["error"] == "too large"
    broke = describe("model.broke", {"model": "m"}, raised("why"))
    assert broke["error"] == "ValueError: why"
    assert broke["traceback"].startswith("Traceback")
    assert describe("handler.result", {"model": "m", "got": 1, "want": 2}, None)["error"] == "got=1 want=2"


def test_equal_errors_are_one_that_keeps_its_traceback_and_counts():
    errors = LastErrors()
    errors.note(0, {"model": "m", "event": "e", "error": "first", "traceback": "where"})
    errors.note(0, {"model": "m", "event": "e", "error": "second"})
    errors.note(1, {"model": "m", "event": "e", "error": "first", "request": "9", "missed": 5})
    (latest, other) = errors.of("m")
    assert (latest["error"], latest["count"], latest["traceback"], latest["worker"]) == ("first", 7, "where", 1)
    assert (other["error"], other["count"]) == ("second", 1)


def test_what_is_kept_is_bounded_and_the_end_of_a_traceback_stays():
    errors = LastErrors()
    for i in range(last_errors.MODELS_MOST + 10):
        for j in range(last_errors.KEPT + 3):
            errors.note(0, {"model": f"m{i}", "event": "e", "error": str(j), "traceback": "x" * 99_999 + "end"})
    assert errors.of("m0") == []
    kept = errors.of(f"m{last_errors.MODELS_MOST}")
    assert [record["error"] for record in kept] == [str(j) for j in range(last_errors.KEPT + 2, 2, -1)]
    assert {len(record["traceback"]) for record in kept} == {last_errors.TEXT_MOST}
    assert kept[0]["traceback"].endswith("end")


def test_a_worker_s_message_of_the_wrong_types_does_no_harm():
    errors = LastErrors()
    errors.note(0, {"model": "m", "event": 7, "error": None, "traceback": ["x"], "missed": -3})
    errors.note(0, {"model": "m", "event": "e", "missed": "many"})
    assert [record["count"] for record in errors.of("m")] == [1, 1]


def test_a_model_that_fails_all_the_time_is_told_of_now_and_then_and_all_are_counted():
    clock, sent = Clock(), []
    reporter = Reporter(sent.append, clock)
    for _ in range(1000):
        reporter.observe("model.failed", {"model": "noisy", "error": "no"}, None)
    reporter.observe("model.failed", {"model": "quiet", "error": "no"}, None)
    assert [message["model"] for message in sent] == ["noisy"] * last_errors.BURST + ["quiet"]
    clock.s += 1.0
    reporter.observe("model.failed", {"model": "noisy", "error": "no"}, None)
    assert sum(1 + message["missed"] for message in sent if message["model"] == "noisy") == 1001


def test_the_log_tells_its_observer_of_errors_only_and_survives_one_that_raises():
    seen = []
    log.observe(lambda event, fields, exc_info: seen.append((event, dict(fields))))
    try:
        log.get("part").warning("calm", model="m")
        log.get("part").error("bad", model="m")
        assert seen == [("bad", {"model": "m"})]
        log.observe(lambda event, fields, exc_info: 1 / 0)
        log.get("part").error("worse", model="m")
    finally:
        log.observe(None)
