"""units: each written form means one value, and nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import units


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512", 512),
        ("512B", 512),
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("1.5G", 1_500_000_000),
        ("4Gi", 4 << 30),
        ("512Mi", 512 << 20),
        ("8Ki", 8 << 10),
        ("2Ti", 2 << 40),
        ("500M", 500_000_000),
        ("500k", 500_000),
        ("64 KiB", 64 << 10),
        ("64KB", 64_000),
        ("1TB", 10**12),
        ("0.1KB", 100),
        ("0", 0),
    ],
)
def test_sizes(text, count):
    assert units.parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "+1", "1e9", "1 000", "5MB2", "5XB", "5Bi", "5i", "0x10", "٣", ".5G", "1.", "9" * 40]
)
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="powers of 1024"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "unit", "ms"),
    [
        ("10s", "s", 10_000),
        ("250ms", "s", 250),
        ("2m", "s", 120_000),
        ("1h", "s", 3_600_000),
        ("50us", "ms", 0.05),
        ("10", "s", 10_000),
        ("10", "ms", 10),
        ("0.5", "s", 500),
        (" 7 s ", "ms", 7000),
    ],
)
def test_durations(text, unit, ms):
    assert units.parse_duration_ms(text, unit) == ms


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1S", "1s500ms", "inf", "nan", "1,5s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="bare number: s"):
        units.parse_duration_ms(text, "s")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("ON", True), ("1", True), ("False", False), ("no", False)]
)
def test_booleans(text, value):
    assert units.parse_bool(text) is value


@pytest.mark.parametrize("text", ["", "2", "tru", "none", "enabled"])
def test_what_is_no_boolean(text):
    with pytest.raises(ValueError, match="true or false"):
        units.parse_bool(text)


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "0x1", "１", "1_000", "9" * 30])
def test_what_is_no_whole_number(text):
    with pytest.raises(ValueError, match="whole number"):
        units.parse_int(text)


@given(st.integers(0, 1 << 50))
def test_a_size_written_back_is_the_same_size(count):
    assert units.parse_size(units.format_size(count)) == count


@given(st.integers(0, 10**10))
def test_a_duration_written_back_is_the_same_duration(ms):
    if ms < 10**6 or ms % 1000 == 0:  # `g` keeps six digits, enough for what settings need
        assert units.parse_duration_ms(units.format_duration(ms), "s") == ms
