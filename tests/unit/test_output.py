"""output: lines out of pieces, how many may be said, and a log whose reader is gone for a while."""

import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import log
from headrace.output import Allowance, take_lines, text


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20)), st.integers(1, 7))
def test_lines_are_the_same_in_whatever_pieces_they_come(lines, step):
    data = "".join(line + "\n" for line in lines).encode()
    found, rest = [], bytearray()
    for at in range(0, len(data), step):
        rest += data[at : at + step]
        found += map(text, take_lines(rest))
    assert found == [line for line in lines if line.encode().strip()]
    assert rest == b""


def test_what_never_ends_is_a_line_at_some_point_and_broken_text_is_shown():
    rest = bytearray(b"x" * 1_000_000)
    assert take_lines(rest) == [b"x" * 1_000_000]
    assert rest == b""
    (line,) = take_lines(bytearray(b"caf\xe9\r\n\n \n"))
    assert text(line) == "caf\ufffd"


def test_a_second_s_worth_at_once_and_then_by_the_clock():
    allowance = Allowance()
    assert [allowance.take(3, 10.0) for _ in range(5)] == [True, True, True, False, False]
    assert allowance.missed == 2
    assert [allowance.take(3, 10.4) for _ in range(2)] == [True, False]
    assert [allowance.take(3, 99.0) for _ in range(4)] == [True, True, True, False]  # a silence saves no more than that
    assert not any(allowance.take(0, 200.0 + second) for second in range(3))


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drain(reader) -> bytes:
    found = b""
    try:
        while data := os.read(reader, 1 << 16):
            found += data
    except BlockingIOError:
        pass
    return found


def test_no_line_waits_for_a_reader_that_is_gone_and_none_is_torn(pipe, monkeypatch):
    reader, writer = pipe
    monkeypatch.setattr(log, "STALL_MS", 1)
    handler = log.LineHandler(writer, logging.Formatter("%(message)s"), logging.INFO)
    handler.format = lambda record: record.getMessage()  # type: ignore[method-assign]

    def write(text):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))

    count = 400
    for number in range(count):
        write(f"{number:04d}" + "." * 1000)
    first = drain(reader).decode().splitlines()
    write("again")
    rest = drain(reader).decode().splitlines()
    lines = first + rest
    whole = [line for line in lines if line.endswith("." * 1000)]
    assert 0 < len(whole) < count
    assert [line[:4] for line in whole] == [f"{number:04d}" for number in range(len(whole))]
    assert lines[len(whole) :] == ["log.dropped", "again"]


def test_a_line_longer_than_the_pipe_comes_whole_before_any_other(pipe, monkeypatch):
    reader, writer = pipe
    monkeypatch.setattr(log, "STALL_MS", 1)
    handler = log.LineHandler(writer, logging.Formatter("%(message)s"), logging.INFO)
    handler.format = lambda record: record.getMessage()  # type: ignore[method-assign]
    for line in ("a" * 200_000, "b", "c"):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, line, None, None))
    found = b""
    for _ in range(20):
        found += drain(reader)
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "d", None, None))
    lines = (found + drain(reader)).decode().splitlines()
    assert lines[0] == "a" * 200_000
    assert lines[1] == "log.dropped"
    assert set(lines[2:]) == {"d"}
