"""A worker's end of the shared memory and a hand-written frontend: what goes into the rings is the test's."""

import mmap
import os
import struct
import time
from types import SimpleNamespace

from headrace import media
from headrace._memory import Board, create_board, create_segment
from headrace._worker import Port
from headrace.compression import Codings

# ext/layout.h
SUBMISSION = struct.Struct("<QQQIIIIIIIHBBB7x")
COMPLETION = struct.Struct("<QQQIIIIIIHBBBxHII")
ENTRIES = 1024
RINGS = 4096
SUBMIT_TAIL, COMPLETE_TAIL, COMPLETE_HEAD = RINGS, RINGS + 256, RINGS + 256 + 128
SUBMISSIONS = RINGS + 4096
COMPLETIONS = SUBMISSIONS + ENTRIES * SUBMISSION.size
PAIR = 4096 + 2 * 64 * ENTRIES
ARENA = RINGS + 1024 * PAIR + 327_680 * 16  # marks of the slots lie between
FOREVER_NS = 10**18
SLOT = 4096


def servable(name, size=32, most_bytes=1 << 40, delay_ns=0, tuner=None):
    return SimpleNamespace(
        name=name, max_batch_size=size, max_batch_bytes=most_bytes, max_batch_delay_ns=delay_ns, tuner=tuner
    )


class LocalPort:
    """`port` is what a worker has; submit() is what a frontend does, and answers() what it sees."""

    def __init__(self):
        board, self.segment = create_board(), create_segment(0, 1 << 24, 1 << 20)
        eventfd = os.eventfd(0)
        self.board = Board(board)
        self.port = Port(board, 0, self.render, 1 << 20, 0, Codings(1 << 20, 0))
        self.port.attach(0, self.segment, eventfd)
        self.memory = mmap.mmap(self.segment, os.fstat(self.segment).st_size)
        self.fds = [board, self.segment, eventfd]
        self.count = 0
        self.failed = []

    def close(self):
        self.memory.close()
        for fd in self.fds:
            os.close(fd)

    def render(self, exc, request):
        self.failed.append(exc)
        return 503, media.TEXT, type(exc).__name__.encode(), b""

    def word(self, at):
        return struct.unpack_from("<Q", self.memory, at)[0]

    def submit(self, model, body=b"", age_ns=0, deadline_ns=FOREVER_NS):
        """A request that came `age_ns` ago; its slot is the next of equal slots. Returns its id."""
        assert len(body) <= SLOT // 2
        self.count += 1
        slot = self.count % 512
        start = ARENA + slot * SLOT
        self.memory[start : start + len(body)] = body
        tail = self.word(SUBMIT_TAIL)
        entry = SUBMISSION.pack(
            self.count,
            time.monotonic_ns() - age_ns,
            deadline_ns,
            slot,
            self.count,
            start // 64,
            SLOT // 64,
            len(body),
            0,
            model,
            0,
            0,
            media.NPY,
            media.ANY,
        )
        at = SUBMISSIONS + tail % ENTRIES * SUBMISSION.size
        self.memory[at : at + SUBMISSION.size] = entry
        struct.pack_into("<Q", self.memory, SUBMIT_TAIL, tail + 1)
        return self.count

    def answers(self):
        """(request id, status, body) of what was completed since the last call."""
        found = []
        head = self.word(COMPLETE_HEAD)
        for cursor in range(head, self.word(COMPLETE_TAIL)):
            fields = COMPLETION.unpack_from(self.memory, COMPLETIONS + cursor % ENTRIES * COMPLETION.size)
            start = ARENA + fields[3] * SLOT + fields[7]
            found.append((fields[0], fields[9], self.memory[start : start + fields[8]]))
        struct.pack_into("<Q", self.memory, COMPLETE_HEAD, self.word(COMPLETE_TAIL))
        return found

    def next(self):
        """(model's name, number of members) of the next batch, answered with nothing; None after a second."""
        batch = self.port.next_batch()
        if batch is None:
            return None
        served, requests = batch
        for request in requests:
            request.reply(200, media.TEXT, b"")
        self.port.settle(requests, RuntimeError())
        return served.name, len(requests)
