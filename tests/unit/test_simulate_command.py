"""The flags of `headrace simulate`: a mistake is a sentence, and nothing has been started."""

import pytest

from headrace.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "either a command after `--`, or --url"),
        (["--url", "http://h:1", "--", "x"], "either a command after `--`, or --url"),
        (["--url", "https://h"], "must be that of a container"),
        (["--url", "http://h:1", "--env", "A=1"], "are for a command"),
        (["--env", "A", "--", "x"], "must be NAME=VALUE"),
        (["--endpoint", "a_b", "--", "x"], "letters, digits and single dashes"),
        (["--packages", "/no/such", "--", "x"], "is no folder"),
        (["--package", "/no/such", "--", "x"], "is no file"),
        (["--packages", "/", "--package", "/no", "--", "x"], "not allowed with"),
        (["--port", "70000", "--", "x"], "no port"),
        (["--disk-limit", "0", "--", "x"], "more than nothing"),
        (["--ping-interval", "soon", "--", "x"], "must be a number with us, ms"),
        (["--ping-failures", "0", "--", "x"], "no whole number from 1"),
        (["--trace", "/no/such/file", "--", "x"], "--trace /no/such/file cannot be written"),
        (["--disk", "/proc", "--", "x"], "not empty"),
    ],
)
def test_mistakes_in_the_arguments(words, says, capsys):
    assert main(["simulate", "--port", "0", *words]) in (1, 2)
    assert says in capsys.readouterr().err


def test_without_aiohttp(monkeypatch, capsys):
    monkeypatch.setattr("headrace.simulate.command.find_spec", lambda name: None)
    assert main(["simulate", "--", "x"]) == 2
    assert "pip install 'headrace[simulate]'" in capsys.readouterr().err
