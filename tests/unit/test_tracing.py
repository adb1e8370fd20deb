"""What OTEL_* ask for, and that nothing of OpenTelemetry is there until they do."""

import subprocess
import sys

import pytest

from headrace import log, tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("sampler", "argument", "sampling"),
    [
        (None, None, (True, 1.0)),
        ("always_on", None, (False, 1.0)),
        ("always_off", None, (False, 0.0)),
        ("traceidratio", "0.25", (False, 0.25)),
        ("traceidratio", None, (False, 1.0)),
        ("parentbased_always_on", None, (True, 1.0)),
        ("parentbased_always_off", "0.5", (True, 0.0)),
        ("parentbased_traceidratio", "0.001", (True, 0.001)),
    ],
)
def test_a_sampler_says_whose_decision_stands_and_what_share_is_sampled(capfd, sampler, argument, sampling):
    environ = {"OTEL_TRACES_SAMPLER": sampler or "", "OTEL_TRACES_SAMPLER_ARG": argument or ""}
    assert tracing.read_sampling(environ, log.get("t")) == sampling
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("sampler", "argument", "sampling", "said"),
    [
        ("sometimes", "", (True, 1.0), "OTEL_TRACES_SAMPLER=sometimes is none of always_on, "),
        ("traceidratio", "half", (False, 1.0), "OTEL_TRACES_SAMPLER_ARG=half is no number from 0 to 1"),
        ("parentbased_traceidratio", "1.5", (True, 1.0), "OTEL_TRACES_SAMPLER_ARG=1.5 is no number from 0 to 1"),
        ("traceidratio", "nan", (False, 1.0), "OTEL_TRACES_SAMPLER_ARG=nan is no number from 0 to 1"),
    ],
)
def test_a_sampler_that_cannot_be_is_warned_of_and_ignored(capfd, sampler, argument, sampling, said):
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert tracing.read_sampling(environ, log.get("t")) == sampling
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_imported_nor_said_unless_traces_are_asked_for(environ):
    code = (
        "import sys; from headrace import log, tracing; import headrace.frontend\n"
        f"assert tracing.start({environ!r}, log.get('t')) is None\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'requests'))]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_extra_is_told_of_with_what_installs_it(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)  # as not installed
    assert tracing.start(ENDPOINT, log.get("t")) is None
    said = capfd.readouterr().err
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra that exports traces is not installed" in said
    assert "pip install 'headrace[otel]'" in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not spoken here"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is not spoken here"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OpenTelemetry refuses what its variables say"),
    ],
)
def test_what_is_not_spoken_here_is_told_of(capfd, monkeypatch, setting, said):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert tracing.start(ENDPOINT | setting, log.get("t")) is None
    assert said in capfd.readouterr().err
