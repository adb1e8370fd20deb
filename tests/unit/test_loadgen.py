"""loadgen against servers that answer late, never, wrongly or not at all: every request is accounted for.

Time is judged only from below: what was stalled must show. Nothing is said about how fast anything is.
"""

import contextlib
import math
import os
import re
import signal
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_server import Server

from headrace import loadgen
from headrace._load import read_answers
from headrace.loadgen import LoadError, Plan, Request, alias_table, run

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def serving():
    servers = []

    def start(serve):
        servers.append(Server(serve))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def send_ok(connection, _request):
    connection.sendall(OK)
    return True


def plan(server, *requests, **words):
    return Plan(server.url, requests or [Request("/a", b"body")], **{"connections": 2, "duration_s": 0.2, **words})


def check_adds_up(report):
    assert report.sent + report.failed["unsent"] == report.planned
    assert report.good == report.latency.count
    assert sum(sent for sent, _ in report.by_request) == report.sent
    assert sum(good for _, good in report.by_request) == report.good


def test_closed_loop_sends_whenever_an_answer_has_come(serving):
    server = serving(send_ok)
    report = run(plan(server))
    assert report.good > 10
    assert (report.failures, report.unfinished, report.reconnects, report.connect_errors) == (0, 0, 0, 0)
    assert report.statuses == {200: report.good}
    assert server.seen["/a"] == report.good
    assert 0 < report.percentile_ms(50) <= report.percentile_ms(99) <= report.latency.max_ns / 1e6
    check_adds_up(report)


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_open_loop_sends_as_planned(serving, arrivals):
    server = serving(send_ok)
    report = run(plan(server, rate=1000, duration_s=0.5, arrivals=arrivals, connections=8))
    spread = 1 if arrivals == "constant" else 6 * math.sqrt(500)
    assert abs(report.planned - 500) <= spread
    assert report.good + report.failed["unsent"] == report.planned
    check_adds_up(report)


def test_the_same_seed_plans_the_same(serving):
    server = serving(send_ok)
    reports = [run(plan(server, rate=500, arrivals="poisson", seed=seed)) for seed in (7, 7, 8)]
    assert reports[0].planned == reports[1].planned
    assert reports[0].planned != reports[2].planned or reports[0].by_request != reports[2].by_request


def test_a_stall_shows_in_every_request_that_it_kept_waiting(serving):
    """Coordinated omission: the server does nothing for a second, in which two hundred requests were due."""
    stalled = threading.Event()

    def stall_once(connection, _request):
        if not stalled.is_set():
            stalled.set()
            time.sleep(1.0)
        connection.sendall(OK)
        return True

    server = serving(stall_once)
    report = run(plan(server, rate=200, connections=1, duration_s=1.5))
    assert report.planned == 300
    assert report.failures == report.failed["unsent"]
    late = sum(count for least, _, count in report.latency.buckets() if least >= 500_000_000)
    assert late >= 90  # planned within the first half of the stall: each of them waited half a second or more
    assert report.percentile_ms(75) >= 500

    stalled.clear()
    report = run(plan(server, connections=1, duration_s=0.5))  # closed loop hides it: a single long latency
    assert sum(count for least, _, count in report.latency.buckets() if least >= 500_000_000) == 1


def test_what_was_never_sent_took_forever(serving):
    release = threading.Event()

    def wait(connection, _request):
        release.wait(30)
        connection.sendall(OK)
        return True

    server = serving(wait)
    timer = threading.Timer(0.5, release.set)
    timer.start()
    report = run(plan(server, rate=100, connections=1, duration_s=0.3, grace_s=0))
    timer.join()
    assert (report.planned, report.good, report.failed["unsent"]) == (30, 1, 29)
    assert report.percentile_ms(3) >= 200
    assert report.percentile_ms(50) == math.inf
    assert report.to_json()["latency_ms"]["p50"] is None
    check_adds_up(report)


def test_no_answer_within_the_time_out(serving):
    release = threading.Event()
    server = serving(lambda connection, _request: release.wait(30) and False)
    report = run(plan(server, rate=10, connections=4, duration_s=0.4, timeout_s=0.1))
    release.set()
    assert (report.planned, report.failed["late"]) == (4, 4)
    assert report.percentile_ms(1) == math.inf
    check_adds_up(report)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", "lost"),
        (OK[:-1], "lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "lost"),
        (b"SMTP ready, say hello\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "malformed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", "malformed"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "refused"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "wrong"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nokk", "wrong"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\no", "wrong"),
        (b"HTTP/1.1 204 None\r\n\r\n", "wrong"),
    ],
)
def test_each_failure_has_its_name(serving, answer, failure):
    def serve(connection, _request):
        connection.sendall(answer)
        return False

    report = run(plan(serving(serve), Request("/a", expected=b"ok"), rate=100, duration_s=0.05, connections=8))
    assert report.planned == 5
    assert report.good == 0
    assert report.failed[failure] + report.failed["unsent"] == 5
    assert report.failed[failure] >= 1
    check_adds_up(report)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: v\r\n\r\n",
    ],
)
def test_answers_of_every_framing_keep_the_connection(serving, answer):
    def byte_by_byte(connection, _request):
        for at in range(len(answer)):
            connection.send(answer[at : at + 1])
        return True

    server = serving(byte_by_byte)
    report = run(plan(server, Request("/a", expected=b"ok")))
    assert report.good > 0
    assert (report.failures, report.reconnects) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok"],
)
def test_connections_that_the_server_ends_are_made_again(serving, answer):
    def serve(connection, _request):
        connection.sendall(answer)
        return False

    server = serving(serve)
    report = run(plan(server, Request("/a", expected=b"ok")))
    assert report.good > 2
    assert report.failures == 0
    assert report.reconnects >= report.good
    assert server.connections > report.good - 2


def test_a_server_that_comes_back_is_found_again(serving):
    """All connections end in the middle of the run, and for a while there is nobody to connect to."""
    server = serving(send_ok)
    port = server.listener.getsockname()[1]
    done = []
    thread = threading.Thread(target=lambda: done.append(run(plan(server, rate=200, duration_s=0.8, connections=1))))
    gone = threading.Event()
    server.serve = lambda connection, request: send_ok(connection, request) and not gone.is_set()
    thread.start()
    while server.seen["/a"] < 20:
        time.sleep(0.001)
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    gone.set()
    seen = server.seen["/a"]
    time.sleep(0.2)
    again = socket.create_server(("127.0.0.1", port), backlog=128)
    server.listener = again
    gone.clear()
    server.threads.append(threading.Thread(target=server._accept))
    server.threads[-1].start()
    thread.join(30)
    (report,) = done
    assert server.seen["/a"] > seen + 20
    assert report.connect_errors >= 1
    assert report.connect_error == os.strerror(111)
    assert report.failures == report.failed["lost"] + report.failed["unsent"]
    assert report.percentile_ms(90) >= 50  # those that were due meanwhile waited
    check_adds_up(report)


def test_an_early_answer_to_a_body_that_is_not_read_to_its_end(serving):
    def refuse(connection, _request):
        raise AssertionError("not reached: the body never ends")

    server = serving(refuse)

    def talk(connection):
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            with contextlib.suppress(OSError):  # the client goes as soon as it has its answer
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):
                    pass

    server._talk = talk
    report = run(plan(server, Request("/a", bytes(20 << 20)), rate=10, duration_s=0.1, connections=1))
    assert report.statuses == {413: 1}
    assert report.failed["refused"] == 1


def test_large_bodies_go_and_come_whole(serving):
    body = os.urandom(3 << 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    def echo(connection, request):
        connection.sendall(head + request[-len(body) :])
        return True

    shown = []
    server = serving(echo)
    report = run(
        plan(
            server,
            Request("/a", body, expected=body),
            connections=1,
            rate=20,
            duration_s=0.2,
            check=lambda index, status, got: shown.append((index, status)) or got == body,
        )
    )
    assert (report.good, report.failures) == (report.planned, 0)
    assert shown == [(0, 200)] * report.good


def test_check_sees_each_nth_answer_and_its_word_counts(serving):
    server = serving(send_ok)
    seen = []
    report = run(plan(server, check=lambda *words: seen.append(words) or len(seen) % 2, check_every=3))
    assert set(seen) == {(0, 200, b"ok")}
    assert abs(len(seen) - report.planned / 3) <= 2
    assert report.failed["wrong"] == len(seen) // 2
    check_adds_up(report)


def test_an_answer_too_large_to_be_checked_is_wrong(serving):
    report = run(plan(serving(send_ok), rate=20, check=lambda *_: True, check_max_bytes=1))
    assert report.failed["wrong"] == report.planned == 4


def test_what_check_raises_comes_out(serving):
    def refuse(index, status, body):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(plan(serving(send_ok), check=refuse))


def test_requests_are_drawn_by_weight(serving):
    server = serving(send_ok)
    weights = loadgen.zipf(4)
    requests = [Request(f"/{index}", weight=weight) for index, weight in enumerate(weights)]
    report = run(plan(server, *requests, duration_s=0.4, connections=4))
    total = report.sent
    for (sent, _), weight in zip(report.by_request, weights, strict=True):
        share = weight / sum(weights)
        assert abs(sent - total * share) <= 6 * math.sqrt(total * share) + 1
    assert {f"/{index}": sent for index, (sent, _) in enumerate(report.by_request)} == dict(server.seen)
    check_adds_up(report)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_alias_table_keeps_every_weight(weights):
    shares = [0.0] * len(weights)
    for index, (keep, alias) in enumerate(alias_table(weights)):
        assert -1e-9 <= keep <= 1 + 1e-9
        shares[index] += keep / len(weights)
        shares[alias] += (1 - keep) / len(weights)
    for share, weight in zip(shares, weights, strict=True):
        assert math.isclose(share, weight / sum(weights), rel_tol=1e-6, abs_tol=1e-9)


def test_the_warm_up_is_not_measured(serving):
    refused = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    began = []

    def cold_at_first(connection, _request):
        began.append(time.monotonic())
        connection.sendall(refused if len(began) <= 5 else OK)
        return True

    report = run(plan(serving(cold_at_first), rate=100, warm_up_s=0.1, duration_s=0.1, connections=1))
    assert report.planned == 10
    assert (report.failures, report.warm_up_failed) == (0, 5)


def test_intervals_tell_of_all_answers(serving):
    seen = []
    report = run(plan(serving(send_ok), duration_s=0.5), on_interval=seen.append, interval_s=0.1)
    assert seen == report.timeline
    assert sum(interval.good for interval in seen) == report.good
    assert len(seen) >= 3


def test_an_interrupt_ends_the_run_with_a_report(serving):
    server = serving(send_ok)
    main = threading.main_thread().ident

    def interrupt():
        while server.seen["/a"] < 20:
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    report = run(plan(server, duration_s=30))
    thread.join()
    assert report.is_interrupted
    assert report.seconds < 30
    assert report.good >= 20
    assert report.planned == report.good + report.unfinished


def test_no_descriptor_stays_behind(serving):
    server = serving(send_ok)
    run(plan(server, duration_s=0.05))
    before = len(os.listdir("/proc/self/fd"))
    run(plan(server, duration_s=0.05, connections=30))
    server.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(LoadError, match=f"{url}: no connection: Connection refused; is the server running there"):
        run(Plan(url, [Request("/")]))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"url": "https://127.0.0.1:1"}, "https is not measured"),
        ({"url": "127.0.0.1:8080"}, "must be a URL such as"),
        ({"url": "http://127.0.0.1:99999"}, "Port out of range"),
        ({"connections": 0}, "connections is 0, must be from 1 to 50000"),
        ({"rate": 0}, "rate is 0, must be from 0.001"),
        ({"rate": math.nan}, "rate is nan"),
        ({"rate": 1e7, "duration_s": 10_000}, "100,000,000,000 requests are planned"),
        ({"duration_s": 0}, "duration_s is 0"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"arrivals": "sometimes"}, "must be constant or poisson"),
        ({"requests": []}, "no request to send"),
        ({"requests": [Request("/", weight=0)]}, "weight 0 must be a number above 0"),
        ({"requests": [Request("a")]}, "must begin with a slash"),
        ({"requests": [Request("/a b")]}, "percent-encoded"),
        ({"requests": [Request("/", method="HEAD")]}, "method 'HEAD'"),
        ({"requests": [Request("/", headers={"Content-Length": "1"})]}, "header Content-Length"),
        ({"requests": [Request("/", headers={"X": "a\r\nY: b"})]}, "without control characters"),
        ({"requests": [Request("/", headers={"X": "☃"})]}, "without control characters"),
    ],
)
def test_a_plan_that_cannot_be_says_why(words, says):
    with pytest.raises(LoadError, match=re.escape(says)):
        run(Plan(**{"url": "http://127.0.0.1:1", "requests": [Request("/")], **words}))


class TestAnswers:
    CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
    PLAIN = b"HTTP/1.1 404 Not Found\r\nconnection: Keep-Alive, Close\r\nContent-Length: 3\r\n\r\nxyz"
    INTERIM = b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 204 \r\n\r\n"
    STREAM = CHUNKED + PLAIN + INTERIM + b"HTTP/1.0 200\r\n\r\nto the end"
    FOUND = ((200, b"abcde", False), (404, b"xyz", True), (204, b"", False), (200, b"to the end", True))

    def test_every_split_reads_the_same(self):
        for at in range(len(self.STREAM) + 1):
            assert read_answers([self.STREAM[:at], self.STREAM[at:]]) == list(self.FOUND), at

    def test_byte_by_byte(self):
        assert read_answers([self.STREAM[at : at + 1] for at in range(len(self.STREAM))]) == list(self.FOUND)

    @given(st.lists(st.binary(max_size=80), max_size=8))
    def test_any_bytes_are_read_or_refused(self, pieces):
        for start in (b"", b"HTTP/1.1 200 OK\r\n", self.CHUNKED[:48], self.PLAIN[:40]):
            try:
                found = read_answers([start, *pieces])
            except ValueError:
                continue
            assert all(100 <= status <= 999 for status, _, _ in found)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 101 Switch\r\n\r\n",
            b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        ],
    )
    def test_what_is_no_answer_is_refused(self, answer):
        with pytest.raises(ValueError, match="no HTTP answer"):
            read_answers([answer])
