"""properties: Java's properties grammar, by the examples of its documentation and the corners of real files."""

import pytest

from headrace import properties
from headrace.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=b", {"a": "b"}),
        ("a = b ", {"a": "b"}),
        ("a: b", {"a": "b"}),
        ("a b", {"a": "b"}),
        ("Truth:Beauty\nTruth = Beauty", {"Truth": "Beauty"}),
        ("cheeses", {"cheeses": ""}),
        ("fruits  apple, banana, \\\n    cherry", {"fruits": "apple, banana, cherry"}),
        ("# a=b\n  ! c=d\n\n \t\ne=f", {"e": "f"}),
        ("a=1\na=2", {"a": "2"}),
        ("a\\=b=c", {"a=b": "c"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=C:\\\\d", {"a": "C:\\d"}),
        ("a=\\u0041\\t\\z", {"a": "A\tz"}),
        ("a=x\\\\\nb=y", {"a": "x\\", "b": "y"}),
        ("a=b\r\nc=d\re=f", {"a": "b", "c": "d", "e": "f"}),
        ("a=x\\\n# no comment here", {"a": "x# no comment here"}),
        ("a=x\\", {"a": "x"}),
        ("url=http://0.0.0.0:8080", {"url": "http://0.0.0.0:8080"}),
    ],
)
def test_the_grammar(text, found):
    assert properties.parse(text) == found


def test_an_escape_that_is_none():
    with pytest.raises(ConfigError, match="four hexadecimal digits"):
        properties.parse("a=\\u12")


def test_variables_are_substituted():
    found = properties.substitute({"a": "$$X$$/$$Y$$", "b": "$X $$", "c": "$$$$"}, {"X": "1", "Y": "$$X$$"})
    assert found == {"a": "1/$$X$$", "b": "$X $$", "c": "$$$$"}


def test_variables_that_are_not_set_stop_the_start_and_are_all_named():
    with pytest.raises(ConfigError) as caught:
        properties.substitute({"a": "$$X$$", "b": "$$Y$$"}, {})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["a", "b"]
