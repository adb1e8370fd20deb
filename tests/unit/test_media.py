"""Media types: the numbers are those of ext/layout.h, the field lines cannot be broken."""

import re
from pathlib import Path

import pytest

from headrace import media

LAYOUT = Path(__file__).parents[2] / "ext" / "layout.h"
RESPONSE = Path(__file__).parents[2] / "ext" / "response.h"


def test_numbers_are_those_of_the_layout():
    numbers = {name: int(number) for name, number in re.findall(r"MEDIA_(\w+) = (\d+),", LAYOUT.read_text())}
    assert numbers
    assert numbers == {name: value for name, value in vars(media).items() if name in numbers}


def test_exact_types_are_what_a_response_head_says():
    texts = dict(re.findall(r'case MEDIA_(\w+): return "([^"]+)";', RESPONSE.read_text()))
    assert {texts[name]: getattr(media, name) for name in texts if texts[name] in media.EXACT} == media.EXACT


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("b", b"x-a: b\r\n"),
        (" b\tc ", b"x-a: b\tc\r\n"),
        ("é", b"x-a: \xe9\r\n"),
        ("", b"x-a: \r\n"),
        (5, b"x-a: 5\r\n"),
    ],
)
def test_field_line(value, line):
    assert media.field_line("x-a", value) == line


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é"])
def test_bad_field_name_is_refused(name):
    with pytest.raises(ValueError, match="not a token"):
        media.field_line(name, "x")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("b\r\nc: d", "U+000D"),
        ("b\nc", "U+000A"),
        ("\0", "U+0000"),
        ("b\x0bc", "U+000B"),
        ("\x7f", "U+007F"),
        ("5 €", "U+20AC"),
    ],
)
def test_value_that_cannot_be_sent_is_refused_and_not_shown(value, found):
    with pytest.raises(ValueError, match="the value of header x-a has") as refused:
        media.field_line("x-a", value)
    assert found in str(refused.value)
    assert value not in str(refused.value)


def test_fields_of_an_answer():
    assert media.fields("text/csv", []) == (media.CSV, b"")
    assert media.fields(None, []) == (media.NONE, b"")
    assert media.fields(None, [("Content-Type", "a/b"), ("X", "y")]) == (media.OTHER, b"X: y\r\ncontent-type: a/b\r\n")
    assert media.fields("a/b", [("Content-Type", "c/d")]) == (media.OTHER, b"content-type: a/b\r\n")
    assert media.fields(None, [("Content-Length", "5"), ("Transfer-Encoding", "chunked")]) == (media.NONE, b"")
