"""bench_command: words to a plan, a report to text, objectives to the exit status. Nothing is said about how fast."""

import argparse
import io
import json
import re

import numpy as np
import pytest
from load_server import Server

from headrace import bench_command, cli
from headrace._load import Histogram
from headrace.bench_command import generate, make_plan, objective
from headrace.loadgen import FAILURES, Plan, Report, Request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
QUICK = ("--duration", "200ms", "--warmup", "0", "--connections", "2")


@pytest.fixture
def server():
    def serve(connection, request):
        requests.append(request)
        connection.sendall(BUSY if request.startswith(b"POST /busy") else OK)
        return True

    requests = []
    running = Server(serve)
    running.requests = requests
    yield running
    running.close()


@pytest.fixture
def bench(capsys):
    """bench(WORD, ...) -> (exit status, standard output, standard error)."""

    def run(*words):
        status = cli.main(["bench", *words])
        return status, *capsys.readouterr()

    return run


def plan(*words):
    return make_plan(cli.build_parser().parse_args(["bench", *words]))


def report(**words):
    """Ninety answers of 5 ms and ten requests that were never answered."""
    latency = Histogram()
    latency.add(5_000_000, 90)
    values = {
        "plan": Plan("http://127.0.0.1", [Request("/")], rate=10),
        "seconds": 10.0,
        "is_interrupted": False,
        "sent": 100,
        "good": 90,
        "failed": dict.fromkeys(FAILURES, 0) | {"lost": 10},
        "warm_up_failed": 0,
        "unfinished": 0,
        "rate": 9.0,
        "latency": latency,
        "refused": Histogram(),
        "lateness": Histogram(),
        "statuses": {200: 90},
        "by_request": [(100, 90)],
        "connect_errors": 0,
        "connect_error": "",
        "reconnects": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "timeline": [],
    }
    return Report(**(values | words))


def test_a_closed_loop_reports_what_the_server_saw(server, bench, tmp_path):
    body = tmp_path / "body.json"
    body.write_bytes(b'{"instances": [[1]]}')
    status, text, errors = bench(f"{server.url}/a?b=c", "--body", str(body), *QUICK, "--slo", "errors=0")
    assert (status, errors) == (0, "")
    assert "closed loop, 2 connections" in text
    assert re.search(r"^latency    p50 \d+\.\d+ ms", text, re.MULTILINE)
    assert "objective  errors=0 met: 0" in text
    assert int(re.search(r"([\d,]+) good, 0 failed", text)[1].replace(",", "")) == server.seen["/a?b=c"] > 2
    assert b"Content-Type: application/json\r\n" in server.requests[0]
    assert server.requests[0].endswith(b'\r\n\r\n{"instances": [[1]]}')


def test_an_open_loop_sends_what_was_planned_and_writes_it_down(server, bench, tmp_path):
    file = tmp_path / "report.json"
    words = ("--generate", "json:1x4", "--rate", "100", *QUICK, "--json", str(file), "--slo", "p99=60s")
    status, text, _ = bench(f"{server.url}/a", *words)
    assert status == 0
    assert "open loop, 100 requests/s (constant)" in text
    document = json.loads(file.read_text())
    assert document["planned"] == document["good"] == server.seen["/a"] == 20
    assert document["objectives"] == [{"objective": "p99=60s", "met": True, "measured": document["latency_ms"]["p99"]}]


def test_a_missed_objective_is_named_and_ends_with_3(server, bench):
    words = ("--generate", "json:1x4", *QUICK, "--slo", "p50=60s", "--slo", "errors=0", "--slo", "p99=60s")
    status, text, errors = bench(f"{server.url}/busy", *words)
    assert status == 3
    assert "503: " in text
    assert f"refused    {server.seen['/busy']:,} answered with a status of 300 or more" in text
    assert re.fullmatch(
        r"headrace: p50=60s missed: nan ms; errors=0 missed: [\d,]+; p99=60s missed: nan ms\n", errors
    )  # there is no latency without a good answer: that is no success


def test_no_good_answer_and_no_server_end_with_1(server, bench):
    status, _, errors = bench(f"{server.url}/busy", "--generate", "json:1", *QUICK)
    assert (status, errors) == (1, "headrace: not a single answer was good\n")
    server.close()
    status, text, errors = bench(f"{server.url}/a", "--generate", "json:1", *QUICK)
    assert (status, text) == (1, "")
    assert re.search("no connection: Connection refused; is the server running there", errors)


def test_models_are_asked_by_zipf_and_reported_apart(server, bench):
    words = [word for name in ("often", "half", "a third") for word in ("--model", name)]
    status, text, _ = bench(f"{server.url}/m/{{model}}", "--generate", "json:1", "--rate", "1500", *QUICK, *words)
    assert status == 0
    seen = [server.seen[f"/m/{name}"] for name in ("often", "half", "a%20third")]
    assert sum(seen) == 300
    for count, share in zip(seen, (6 / 11, 3 / 11, 2 / 11), strict=True):
        assert abs(count - 300 * share) < 60  # seven standard deviations of the widest
    assert f"model      a third: {seen[2]} sent, {seen[2]} good" in text


def test_models_of_a_file_stand_in_headers_too_and_may_be_wanted_alike(server, bench, tmp_path):
    names = tmp_path / "names"
    names.write_text("first\n\n second \n")
    words = ("--models", str(names), "--zipf", "0", "--header", "X-Target: {model}.tar.gz", "--header", "x-b:c")
    status, _, errors = bench(f"{server.url}/a", "--generate", "json:1", "--rate", "1000", *QUICK, *words)
    assert (status, errors) == (0, "")
    counts = [
        sum(f"X-Target: {name}.tar.gz\r\n".encode() in it for it in server.requests) for name in ("first", "second")
    ]
    assert sum(counts) == len(server.requests) == 200
    assert min(counts) > 60  # of 100: five standard deviations
    assert all(b"x-b: c\r\n" in it for it in server.requests)


def test_a_report_is_a_picture_or_a_page_of_its_own(server, bench, tmp_path):
    pytest.importorskip("matplotlib")
    picture, page = tmp_path / "run.png", tmp_path / "run.html"
    words = ("--generate", "json:1", *QUICK, "--slo", "errors=0", "--slo", "rate=1000000000")
    assert bench(f"{server.url}/a", *words, "--report", str(picture))[0] == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert bench(f"{server.url}/a", *words, "--report", str(page))[0] == 3
    text = page.read_text()
    assert "errors=0 met" in text
    assert "<td class=missed>rate=1000000000 missed" in text
    assert "good answers/s" in text
    assert "<svg" in text
    assert not re.search(r"<script|<link|<img|@import|url\(['\"]?http", text)  # nothing is fetched


def test_a_terminal_is_told_how_it_goes(server, bench, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, errors = bench(f"{server.url}/a", "--generate", "json:1", *QUICK)
    assert "\r\x1b[K" in errors


def test_a_token_and_a_content_type_are_sent(server, bench, tmp_path):
    (tmp_path / "token").write_text("secret-1")
    words = ("--generate", "npy:2x3", "--content-type", "x/y", "--token-file", str(tmp_path / "token"), *QUICK)
    assert bench(f"{server.url}/a", *words)[0] == 0
    assert b"Content-Type: x/y\r\nAuthorization: Bearer secret-1\r\n" in server.requests[0]


def test_generated_bodies_have_the_shape_and_repeat_with_the_seed():
    values = np.load(io.BytesIO(generate("npy", (1, 3, 8, 8), 1)))
    assert (values.shape, values.dtype) == ((1, 3, 8, 8), np.float32)
    assert 0 <= values.min() < values.max() < 1
    rows = np.array(json.loads(generate("json", (2, 5), 1))["instances"])
    assert rows.shape == (2, 5)
    for kind in ("json", "npy"):
        assert generate(kind, (4,), 7) == generate(kind, (4,), 7) != generate(kind, (4,), 8)
    assert plan("http://h", "--generate", "npy:2").requests[0].headers == {"Content-Type": "application/x-npy"}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p90=5", True),
        ("p90=4990us", False),
        ("p91=1h", False),  # never answered is longer than any limit
        ("errors=10", True),
        ("errors=9", False),
        ("errors=10%", True),
        ("errors=9.9%", False),
        ("rate=9", True),
        ("rate=9.1", False),
    ],
)
def test_objectives(text, met):
    assert objective(text).is_met(report()) is met


@pytest.mark.parametrize("text", ["", "p99", "p99=", "p99=fast", "p101=1ms", "errors=-1", "rate=many", "mean=1ms"])
def test_what_is_no_objective_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        objective(text)


def test_an_interrupted_run_reports_and_judges_nothing(server, bench, monkeypatch):
    monkeypatch.setattr("headrace.loadgen.run", lambda plan, on_interval: report(plan=plan, is_interrupted=True))
    status, text, errors = bench(server.url, "--generate", "json:1", "--slo", "errors=0")
    assert (status, errors) == (130, "headrace: interrupted; the report is of what there was by then\n")
    assert "100 due, 90 good, 10 failed" in text
    assert "lost       10 the connection ended" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["http://h/"], "one of the arguments --body --generate is required"),
        (["http://h/", "--generate", "xml:1"], "must be json:SHAPE or npy:SHAPE"),
        (["http://h/", "--generate", "json:0x2"], "must be json:SHAPE or npy:SHAPE"),
        (["http://h/", "--generate", "npy:9999x9999"], "99,980,001 numbers, at most 16,777,216"),
        (["http://h/", "--body", "nowhere.json"], "--body nowhere.json cannot be read: No such file"),
        (["http://h/", "--body", "image"], "say so with --content-type"),
        (["http://h/", "--generate", "json:1", "--rate", "fast"], "'fast' is no number"),
        (["http://h/", "--generate", "json:1", "--rate", "0"], "rate is 0, must be from 0.001"),
        (["http://h/", "--generate", "json:1", "--connections", "0"], "connections is 0, must be from 1"),
        (["http://h/", "--generate", "json:1", "--duration", "soon"], "must be a number with us, ms, s"),
        (["http://h/", "--generate", "json:1", "--arrivals", "poisson"], "give --rate too"),
        (["http://h/", "--generate", "json:1", "--slo", "speed"], "must be such as p99=20ms"),
        (["http://h/", "--generate", "json:1", "--model", "a"], "--model has no place in http://h/"),
        (["http://h/{model}", "--generate", "json:1"], "say which with --model NAME"),
        (["http://h/{model}", "--generate", "json:1", "--model", "a", "--model", "a"], "--model a is given twice"),
        (["http://u:p@h/", "--generate", "json:1"], "--token-file"),
        (["http://[h/", "--generate", "json:1"], "is no URL"),
        (["localhost:8080/a", "--generate", "json:1"], "must be a URL such as http://127.0.0.1:8080"),
        (["https://h/", "--generate", "json:1"], "https is not measured"),
        (["http://h/", "--generate", "json:1", "--json", "no/such/folder"], "no/such/folder cannot be written"),
        (["http://h/", "--generate", "json:1", "--report", "run.pdf"], "its name must end in .html or .png"),
        (["http://h/", "--generate", "json:1", "--models", "none"], "--models none cannot be read"),
        (["http://h/", "--generate", "json:1", "--zipf", "2"], "name two at least"),
        (["http://h/", "--generate", "json:1", "--header", "none"], "must be such as 'X-Amzn"),
        (["http://h/", "--generate", "json:1", "--header", "a:{model}"], "say which with --model NAME"),
        (["http://h/", "--generate", "json:1", "--header", "a:b", "--header", "A:c"], "--header A is given twice"),
        (["http://h/", "--generate", "json:1", "--header", "content-type:a/b"], "give it as --content-type"),
        (["http://h/", "--generate", "json:1", "--header", "host:b"], "the generator sets it"),
        (["http://h/", "--generate", "json:1", "--token-file", "none"], "the token file none cannot be read"),
    ],
)
def test_mistakes_are_explained_and_end_with_2(bench, monkeypatch, tmp_path, words, told):
    monkeypatch.chdir(tmp_path)
    status, text, errors = bench(*words)
    assert (status, text) == (2, "")
    assert told in errors


def test_a_report_that_was_there_survives_a_run_that_was_not(server, bench, tmp_path):
    server.close()
    file = tmp_path / "report.json"
    file.write_text("of yesterday")
    assert bench(server.url, "--generate", "json:1", "--json", str(file))[0] == bench_command.Exit.NOT_MEASURED
    assert file.read_text() == "of yesterday"
