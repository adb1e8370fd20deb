"""What a frontend tells of single requests; an access log that nobody reads delays nobody, and counts its losses."""

import fcntl
import os
import threading
import time

import orjson
import pytest
from rig import Rig, rigged, wait_until

from headrace.access_log import AccessLog


def exchange(rig: Rig, count: int) -> None:
    client, peer = rig.connect(), rig.peers[0]
    for _ in range(count):
        client.post(b"12345")
        peer.echo(peer.take())
        assert client.answer()[0] == 200


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])  # others share standard error, and its flags
def test_a_stalled_reader_delays_no_request_and_its_losses_are_counted(monkeypatch, flags: int) -> None:
    monkeypatch.setattr("headrace.access_log.BUFFER_BYTES", 20_000)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETFL, flags | os.O_WRONLY)
    access = AccessLog("json", "frontend-0", writing)
    try:
        with rigged() as rig:
            rig.call(rig.path.watch, access.tell, 1.0, None, 1)
            exchange(rig, 600)  # some 250 bytes each: more than a pipe and the buffer hold
            wait_until(lambda: access.dropped, "nothing was dropped")
            received = bytearray()
            reader = threading.Thread(
                target=lambda: [received.extend(piece) for piece in iter(lambda: os.read(reading, 65536), b"")]
            )
            reader.start()
            wait_until(lambda: received.count(b"\n") + access.dropped == 600, "lines are lost without being counted")
            exchange(rig, 1)
        access.close(30)
    finally:
        os.close(writing)
    reader.join(30)
    lines = [orjson.loads(line) for line in received.splitlines()]
    assert len(lines) == 602 - access.dropped  # and the one of the rig's own check
    assert len({line["id"] for line in lines}) == len(lines)
    os.close(reading)


def test_a_client_that_goes_away_is_told_of_as_gone() -> None:
    notes = []
    with rigged() as rig:
        rig.call(rig.path.watch, notes.extend, 1.0, None, 1)
        client, peer = rig.connect(), rig.peers[0]
        client.post(b"12345", "x-amzn-sagemaker-target-model: real.tar.gz")
        entry = peer.take()
        client.reset()
        (note,) = wait_until(lambda: list(notes), "not told of")
        assert (note.status, note.model, note.target_model) == (499, "m", "real.tar.gz")
        assert (note.request_bytes, note.response_bytes, note.finished_ns) == (5, 0, 0)
        peer.echo(entry)


def test_times_that_cannot_be_true_are_not_told() -> None:
    notes = []
    with rigged() as rig:
        rig.call(rig.path.watch, notes.extend, 1.0, None, 1)
        client, peer = rig.connect(), rig.peers[0]
        client.post(b"12345")
        peer.publish(peer.take(), started_ns=1, finished_ns=2)
        assert client.answer()[0] == 200
        (note,) = wait_until(lambda: list(notes), "not told of")
        assert (note.status, note.started_ns, note.finished_ns, note.batch_rows) == (200, 0, 0, 0)
        assert 0 < note.arrival_ns <= note.whole_ns <= note.sent_ns


def test_a_wait_is_told_apart_by_what_the_worker_says_of_it_if_that_can_be_true() -> None:
    notes = []
    with rigged() as rig:
        rig.call(rig.path.watch, notes.extend, 1.0, None, 1)
        client, peer = rig.connect(), rig.peers[0]
        for waited_us in (3_000, 0xFFFFFFFF):
            client.post(b"12345")
            entry = peer.take()
            started_ns = entry.arrival_ns + 5_000_000
            wait_until(lambda: time.monotonic_ns() > started_ns, "no time goes by")  # noqa: B023
            peer.publish(entry, started_ns=started_ns, finished_ns=started_ns, waited_us=waited_us, batch_rows=7)
            assert client.answer()[0] == 200
        told, untrue = wait_until(lambda: len(notes) == 2 and notes, "not told of")
        assert (told.started_ns - told.taken_ns, told.batch_rows) == (3_000_000, 7)
        assert (untrue.taken_ns, untrue.batch_rows) == (untrue.whole_ns, 7)
