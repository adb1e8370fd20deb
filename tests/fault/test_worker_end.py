"""A worker's end that is fed submissions which no frontend would make: none of them ends the worker, keeps a neighbour
from its answer, or has a byte outside of its slot touched."""

import mmap
import os
import time
from types import SimpleNamespace

import pytest
from wire import (
    COMPLETE_HEAD,
    COMPLETE_TAIL,
    COMPLETION,
    COMPLETIONS,
    GRANT,
    HELD,
    MARKS_OFFSET,
    NEED,
    RELEASE,
    RING_ENTRIES,
    RINGS_OFFSET,
    RUN,
    SUBMISSION,
    SUBMISSIONS,
    SUBMIT_TAIL,
)

from headrace import media
from headrace._memory import Board, create_board, create_segment
from headrace._worker import Port

ARENA = 1 << 20
ARENA_OFFSET = MARKS_OFFSET + 327_680 * 16
BIG = (1 << 32) - 1
HEAD = b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\n\r\n"
CAPACITY = 4096


class FrontendEnd:
    """The other end of a Port's rings, with slots of 4 KiB from the start of the arena on."""

    def __init__(self) -> None:
        board_fd, self.segment_fd = create_board(), create_segment(0, ARENA, 1 << 18)
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.board = Board(board_fd)
        self.memory = mmap.mmap(self.segment_fd, 0)
        self.port = Port(board_fd, 0, render, 1 << 18, 0)
        self.port.attach(0, self.segment_fd, self.eventfd)
        self.servable = SimpleNamespace(
            name="m", max_batch_size=8, max_batch_bytes=1 << 20, max_batch_delay_ns=0, tuner=None, decode=None
        )
        self.port.serve(1, self.servable)
        self.submitted = self.completed = 0
        os.close(board_fd)

    def submit(self, place: int, body: bytes = b"body", **changes: int) -> None:
        start = ARENA_OFFSET + place * CAPACITY
        self.memory[start : start + len(body)] = body
        head_at = start + CAPACITY - (len(HEAD) + 63) // 64 * 64
        self.memory[head_at : head_at + len(HEAD)] = HEAD
        now = time.monotonic_ns()
        fields = {
            "request_id": place + 1,
            "arrival_ns": now,
            "deadline_ns": now + 60_000_000_000,
            "slot": place,
            "generation": 0,
            "offset64": start // 64,
            "capacity64": CAPACITY // 64,
            "body_length": len(body),
            "head_length": len(HEAD),
            "model": 1,
            "attempt": 0,
            "op": RUN,
            "kind": media.JSON,
            "accept": media.JSON,
            "codings": 0,
            "flags": 0,
        } | changes
        at = RINGS_OFFSET + SUBMISSIONS + self.submitted % RING_ENTRIES * 64
        SUBMISSION.pack_into(self.memory, at, *fields.values())
        self.submitted += 1
        self.memory[RINGS_OFFSET + SUBMIT_TAIL : RINGS_OFFSET + SUBMIT_TAIL + 8] = self.submitted.to_bytes(8, "little")

    def completions(self) -> list[SimpleNamespace]:
        """What the worker has published since the last look."""
        names = (
            "request_id started finished slot generation offset fields_length body_offset body_length status op flags "
            "kind batch_rows waited_us copied_bytes"
        )
        tail = int.from_bytes(self.memory[RINGS_OFFSET + COMPLETE_TAIL : RINGS_OFFSET + COMPLETE_TAIL + 8], "little")
        found = []
        for number in range(self.completed, tail):
            at = RINGS_OFFSET + COMPLETIONS + number % RING_ENTRIES * 64
            values = COMPLETION.unpack_from(self.memory, at)
            found.append(SimpleNamespace(**dict(zip(names.split(), values, strict=False))))
        self.completed = tail
        self.memory[RINGS_OFFSET + COMPLETE_HEAD : RINGS_OFFSET + COMPLETE_HEAD + 8] = tail.to_bytes(8, "little")
        return found

    def body(self, completion: SimpleNamespace) -> bytes:
        start = ARENA_OFFSET + completion.slot * CAPACITY + completion.body_offset
        return self.memory[start : start + completion.body_length]

    def run(self, heed_control: bool = False) -> list[bytes]:
        """Runs one batch of an echo; the bodies that the model saw."""
        batch = self.port.next_batch(heed_control)
        if batch is None:
            return []
        seen = []
        for request in batch[1]:
            seen.append(bytes(request.body))
            request.reply(200, media.JSON, bytes(request.body))
        self.port.settle(batch[1], RuntimeError("unanswered"))
        return seen

    def succeed(self) -> None:
        """The frontend has died: its successor has a segment of its own."""
        self.memory.close()
        os.close(self.segment_fd)
        self.segment_fd = create_segment(0, ARENA, 1 << 18)
        self.memory = mmap.mmap(self.segment_fd, 0)
        self.submitted = self.completed = 0
        self.port.attach(0, self.segment_fd, self.eventfd)

    def close(self) -> None:
        self.memory.close()
        os.close(self.segment_fd)
        os.close(self.eventfd)


def render(exc, request):
    return 503, media.JSON, type(exc).__name__.encode(), b""


@pytest.fixture
def end():
    end = FrontendEnd()
    yield end
    end.completions()
    end.submit(9, b"still here")
    assert end.run() == [b"still here"]
    (completion,) = end.completions()
    assert (completion.status, end.body(completion)) == (200, b"still here")
    end.close()


@pytest.mark.parametrize(
    "change",
    [
        {"offset64": BIG},
        {"offset64": 0},
        {"offset64": RINGS_OFFSET // 64},
        {"offset64": ARENA_OFFSET // 64 - 1},
        {"capacity64": BIG},
        {"capacity64": 0},
        {"body_length": BIG},
        {"body_length": CAPACITY},
        {"head_length": BIG},
        {"head_length": CAPACITY + 1},
        {"slot": 327_680},
        {"slot": BIG},
        {"op": 2},
        {"op": 255},
    ],
)
def test_should_give_back_untouched_what_cannot_be_a_request(end, change):
    end.submit(0, b"neighbour")
    end.submit(1, b"", **change)
    end.submit(2, b"other")
    before = end.memory[ARENA_OFFSET + CAPACITY : ARENA_OFFSET + 2 * CAPACITY]
    assert end.run() == [b"neighbour", b"other"]
    answers = {completion.request_id: completion for completion in end.completions()}
    assert sorted(answers) == [1, 2, 3]
    spoilt = answers[2]
    assert (spoilt.status, spoilt.fields_length, spoilt.body_length) == (500, 0, 0)
    assert end.board.page(0)["invalid_submissions"] == 1
    assert end.memory[ARENA_OFFSET + CAPACITY : ARENA_OFFSET + 2 * CAPACITY] == before


def test_should_answer_for_a_model_that_is_not_here(end):
    end.submit(0, model=77)
    assert end.run() == []
    (completion,) = end.completions()
    assert (completion.status, end.body(completion)) == (503, b"LookupError")


def test_should_not_begin_what_nobody_waits_for(end):
    end.submit(0, b"cancelled")
    end.submit(1, b"late", deadline_ns=1)
    end.submit(2, b"wanted")
    end.memory[MARKS_OFFSET : MARKS_OFFSET + 8] = (1).to_bytes(8, "little")  # request 1, in slot 0
    end.memory[MARKS_OFFSET + 32 : MARKS_OFFSET + 40] = (77).to_bytes(8, "little")  # an earlier one in slot 2
    assert end.run() == [b"wanted"]
    answers = {completion.request_id: completion.status for completion in end.completions()}
    assert answers == {1: 503, 2: 503, 3: 200}
    assert end.board.page(0)["dropped"] == 2
    begun = [
        int.from_bytes(end.memory[at + 8 : at + 16], "little") for at in range(MARKS_OFFSET, MARKS_OFFSET + 48, 16)
    ]
    assert begun == [0, 0, 3]


def test_should_drop_what_a_dead_frontend_asked_for(end):
    end.submit(0, b"begun")
    _, (begun,) = end.port.next_batch(False)
    end.submit(1, b"waits")
    assert end.port.waiting(1) == 1
    assert not begun.is_abandoned
    end.succeed()
    assert begun.is_abandoned
    begun.reply(200, media.JSON, b"into nothing")
    end.port.settle([begun], RuntimeError("unanswered"))
    end.submit(1, b"wanted")
    assert end.run() == [b"wanted"]
    assert end.board.page(0)["dropped"] == 1


def test_should_keep_a_view_of_a_dead_frontend_s_segment_and_then_let_it_go(end):
    def mappings() -> int:
        with open("/proc/self/maps") as maps:
            return sum("headrace-segment" in line for line in maps)

    before = mappings()
    end.submit(0, b"held")
    _, (request,) = end.port.next_batch(False)
    view = request.body
    request.reply(200, media.JSON, b"answer")
    end.port.settle([request], RuntimeError("unanswered"))
    del request
    end.succeed()
    end.submit(0, b"another's")  # in the same place of the new segment
    assert end.run() == [b"another's"]
    assert (bytes(view), mappings()) == (b"held", before + 2)
    view.release()
    del view
    assert mappings() == before


def test_should_tell_a_model_that_its_client_left(end):
    end.submit(0)
    _, (request,) = end.port.next_batch(False)
    assert not request.is_abandoned
    assert 0 < request.time_left() <= 60
    end.memory[MARKS_OFFSET : MARKS_OFFSET + 8] = (1).to_bytes(8, "little")
    assert request.is_abandoned
    end.port.settle([request], RuntimeError("unanswered"))


def test_should_run_a_suspect_alone(end):
    for slot, flags in enumerate([0, 0, 1, 0, 1, 1, 0]):
        end.submit(slot, b"%d" % slot, flags=flags)
    batches = [end.run() for _ in range(6)]
    assert batches == [[b"0", b"1"], [b"2"], [b"3"], [b"4"], [b"5"], [b"6"]]


def test_should_have_nobody_wait_for_company_where_a_suspect_is_to_run(end):
    """A redelivered request waited for the delay of its model's batches once more, for a batch of one."""
    end.servable.max_batch_delay_ns = 3_600_000_000_000
    end.port.serve(1, end.servable)
    for slot, flags in enumerate([0, 0, 1, 1]):
        end.submit(slot, b"%d" % slot, flags=flags)
    assert [end.run(heed_control=True) for _ in range(3)] == [[b"0", b"1"], [b"2"], [b"3"]]


def need_room(end: FrontendEnd, slot: int = 0) -> None:
    """Has a request answered with more than its slot holds."""
    end.submit(slot)
    _, (request,) = end.port.next_batch(False)
    request.reply(200, media.JSON, b"x" * 2 * CAPACITY)
    end.port.settle([request], RuntimeError("unanswered"))
    (need,) = end.completions()
    assert (need.op, need.body_length) == (NEED, 2 * CAPACITY)


def test_should_use_a_granted_slot(end):
    need_room(end)
    end.submit(1, request_id=1, op=GRANT, capacity64=3 * CAPACITY // 64, body_length=0, head_length=0)
    assert end.run() == []
    (completion,) = end.completions()
    assert (completion.slot, completion.status, end.body(completion)) == (1, 200, b"x" * 2 * CAPACITY)


@pytest.mark.parametrize(
    "change", [{"capacity64": 0}, {"capacity64": 1}, {"offset64": 0}, {"offset64": BIG}, {"capacity64": BIG}]
)
def test_should_answer_with_an_error_when_the_room_is_refused_or_impossible(end, change):
    need_room(end)
    before = end.memory[:64]
    end.submit(1, b"", **{"request_id": 1, "op": GRANT, "capacity64": 3 * CAPACITY // 64} | change)
    assert end.run() == []
    (completion,) = end.completions()
    assert (completion.slot, completion.status, end.body(completion)) == (0, 503, b"BufferError")
    assert end.memory[:64] == before


def test_should_give_back_a_grant_that_nobody_asked_for(end):
    end.submit(3, request_id=1234, op=GRANT)
    end.submit(4, request_id=1235, op=GRANT, capacity64=0)  # a refusal: there is nothing to give back
    assert end.run() == []
    (completion,) = end.completions()
    assert (completion.request_id, completion.slot, completion.status) == (1234, 3, 500)


@pytest.mark.parametrize("what", ["body", "room"])
def test_should_hold_the_slot_for_as_long_as_a_model_looks_at_it(end, what):
    end.submit(0, b"held")
    _, (request,) = end.port.next_batch(False)
    view = request.body if what == "body" else request.response_buffer(100)
    request.reply(200, media.JSON, b"answer")
    end.port.settle([request], RuntimeError("unanswered"))
    (done,) = end.completions()
    assert (done.flags & HELD, end.body(done)) == (HELD, b"answer")
    del request
    assert end.completions() == []
    view.release()
    (release,) = end.completions()
    assert (release.op, release.request_id, release.slot) == (RELEASE, 1, 0)


def test_should_wait_with_completions_that_find_the_ring_full(end):
    """The frontend takes nothing until the ring is full and beyond."""
    total = RING_ENTRIES + 100
    seen = 0
    for number in range(total):
        end.submit(number % 8, b"%d" % number, request_id=number + 1)
        seen += len(end.run())
    assert seen == total
    first = end.completions()
    assert len(first) == RING_ENTRIES
    end.run()  # a look at the rings: the backlog goes out
    assert [completion.request_id for completion in first + end.completions()] == list(range(1, total + 1))


def test_should_say_what_it_copied_and_how_long_the_request_waited_in_its_queue(end):
    end.submit(0, b"12345")
    assert end.port.waiting(1) == 1  # taken
    until_ns = time.monotonic_ns() + 5_000_000
    while time.monotonic_ns() < until_ns:
        pass
    _, (request,) = end.port.next_batch(False)
    request.count_copy(10)
    request.reply(200, media.JSON, b"123")
    (completion,) = end.completions()
    assert completion.copied_bytes == 10 + 3
    assert completion.waited_us >= 5_000
    assert completion.batch_rows == 1
