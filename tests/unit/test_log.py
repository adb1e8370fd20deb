"""log: one event is one line, whatever is in it and whoever logs it."""

import json
import logging
import logging.config
import os
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import log


@pytest.fixture
def lines():
    """Configures logging into a pipe; calling the fixture gives the lines written so far."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    root = logging.getLogger()
    before = log._handler, root.handlers[:], root.level, warnings.showwarning

    def read() -> list[str]:
        try:
            return os.read(reader, 1 << 16).decode().splitlines()
        except BlockingIOError:
            return []

    read.fd = writer
    yield read
    log._handler, root.handlers[:], _, _ = before
    root.setLevel(before[2])
    logging.captureWarnings(False)
    os.close(reader)
    os.close(writer)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_text_line_reads_as_documented(lines):
    log.configure("INFO", "text", "supervisor", lines.fd)
    log.get("supervisor").info("worker.lost", worker=2, signal="SIGKILL")
    (line,) = lines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO supervisor worker\.lost worker=2 signal=SIGKILL", line
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain/path-1.0:x", "plain/path-1.0:x"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("two\nlines\r\n", '"two\\nlines\\r\\n"'),
        ("\x1b[31mred\x9b\u2028", '"\\x1b[31mred\\x9b\\u2028"'),
        ("é", "é"),
        (None, "none"),
        (True, "true"),
        (0.1 + 0.2, "0.3"),
        ((2, 3), "2,3"),
        (ValueError("bad value"), '"ValueError: bad value"'),
    ],
)
def test_a_value_is_quoted_only_when_it_must_be(lines, value, text):
    log.configure("INFO", "text", "p", lines.fd)
    log.get("p").info("event", key=value)
    (line,) = lines()
    assert line.split(" ", 4)[4] == f"key={text}"


def test_a_json_line_is_one_object_and_fields_cannot_pose_as_ours(lines):
    log.configure("INFO", "json", "worker-1", lines.fd)
    log.get("loaders").warning("model.slow", model="m\nn", level=3, ms=1.5, big=1 << 70, odd="\udcff")
    (line,) = lines()
    record = json.loads(line)
    assert re.fullmatch(r"[\d-]{10}T[\d:.]{12}Z", record.pop("time"))
    assert (record["level"], record["process"], record["part"]) == ("WARNING", "worker-1", "loaders")
    assert (record["event"], record["model"], record["level_"]) == ("model.slow", "m\nn", "3")
    assert record["big"] == str(1 << 70)


def test_levels_below_the_chosen_one_are_silent(lines):
    log.configure("warning", "text", "p", lines.fd)
    parts = log.get("p")
    parts.debug("a")
    parts.info("b")
    parts.warning("c")
    parts.error("d")
    logging.getLogger("library").info("e")
    assert [line.split()[3] for line in lines()] == ["c", "d"]
    assert not parts.is_enabled("INFO")
    assert parts.is_enabled("WARNING")


@pytest.mark.parametrize("form", log.FORMATS)
def test_a_library_record_looks_like_ours(lines, form):
    log.configure("INFO", form, "p", lines.fd)
    logging.getLogger("some.package").warning("lost %d\nof %d", 1, 2)
    (line,) = lines()
    if form == "json":
        assert (json.loads(line)["logger"], json.loads(line)["message"]) == ("some.package", "lost 1\nof 2")
    else:
        assert line.split(" ", 2)[2] == 'p log logger=some.package message="lost 1\\nof 2"'


def test_python_warnings_come_out_as_lines(lines):
    log.configure("INFO", "text", "p", lines.fd)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
    (line,) = lines()
    assert "logger=py.warnings" in line
    assert "old name" in line


def test_a_traceback_stays_on_its_line(lines):
    log.configure("INFO", "text", "p", lines.fd)
    try:
        raise ValueError("x\ny")
    except ValueError:
        log.get("p").exception("model.failed", model="m")
    (line,) = lines()
    assert 'model=m traceback="Traceback (most recent call last):\\n' in line
    assert line.endswith('ValueError: x\\ny"')


@pytest.mark.parametrize("form", log.FORMATS)
def test_a_record_that_cannot_be_formatted_says_so(lines, form):
    log.configure("INFO", form, "p", lines.fd)
    log._handler.handle(logging.LogRecord("library", logging.INFO, "", 0, "%d", ("no number",), None))
    log.get("p").info("event", key=Unprintable())
    assert ["log.broken" in line for line in lines()] == [True, True]


def test_a_model_that_rearranges_logging_does_not_silence_us(lines):
    log.configure("INFO", "text", "p", lines.fd)
    ours = log.get("worker")
    enabled = [other for other in logging.Logger.manager.loggerDict.values() if not getattr(other, "disabled", True)]
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True, "root": {"handlers": []}})
    logging.disable(logging.CRITICAL)
    try:
        ours.info("still.here")
    finally:
        logging.disable(logging.NOTSET)
        for other in enabled:
            other.disabled = False
    assert len(lines()) == 1


def test_configuring_twice_does_not_print_twice(lines):
    log.configure("INFO", "text", "template", lines.fd)
    log.configure("INFO", "text", "worker-3", lines.fd)
    logging.getLogger("library").info("x")
    (line,) = lines()
    assert " worker-3 log " in line


def test_a_closed_descriptor_is_no_error(lines):
    fd = os.open(os.devnull, os.O_WRONLY)
    log.configure("INFO", "text", "p", fd)
    os.close(fd)
    log.get("p").info("nobody.listens")
    assert lines() == []


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="DEBUG, INFO, WARNING, ERROR"):
        log.configure("LOUD", "text", "p")
    with pytest.raises(ValueError, match="text, json"):
        log.configure("INFO", "xml", "p")


@given(st.text())
def test_quoted_text_never_breaks_a_line(text):
    quoted = log.quote(text)
    assert quoted.isprintable()
    assert len(quoted.splitlines()) == 1
    assert quoted == text or quoted[0] == quoted[-1] == '"'
