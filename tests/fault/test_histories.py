"""All short histories of two requests, of a worker that may hold, ask for room and die at any time, and of clients that
may leave: after each step the frontend leases the slots that somebody still has a right to and no other, every body is
as it came, and in the end each client that stayed has had one answer, its own.

HISTORIES_DEPTH: steps of a history, by default 5. It is the books themselves that are driven, not a model of them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from driven import Driven, Transport, bodies, post
from wire import GRANT, HELD, NEED, RELEASE, Submission

DEPTH = int(os.environ.get("HISTORIES_DEPTH", "5"))
RETRIES = 1
ROOM = 20_000
OURS = "abc"


@dataclass
class Ask:
    """A request, and what each side has of it."""

    body: bytes
    transport: Transport
    entry: Submission | None = None  # what the worker has to answer
    grant: Submission | None = None
    has_asked: bool = False  # for a larger slot
    has_begun: bool = False
    held: Submission | None = None  # answered, and its model still looks on
    deaths: int = 0
    is_waiting: bool = True  # its client waits for an answer
    wanted: list[tuple[int, bytes]] = field(default_factory=list)
    is_gone: bool = False


class World:
    def __init__(self, driven: Driven) -> None:
        self.driven, self.path, self.peer = driven, driven.path, driven.peer
        self.asks: list[Ask] = []

    def options(self) -> list[tuple[str, int]]:
        """What may happen now: (step, number of the request)."""
        found = [("ask", len(self.asks))] if len(self.asks) < 2 else []
        for number, ask in enumerate(self.asks):
            if ask.entry is not None:
                found += [("answer", number), ("answer_and_hold", number)]
                found += [] if ask.has_begun else [("begin", number)]
                found += [] if ask.has_asked else [("need", number)]
                found += [("answer_in_room", number)] if ask.grant is not None else []
            found += [("release", number)] if ask.held is not None else []
            found += [] if ask.is_gone else [("leave", number)]
        return found + ([("die", 0)] if any(ask.entry is not None or ask.held is not None for ask in self.asks) else [])

    def step(self, what: str, number: int) -> None:
        getattr(self, what)(number)
        self.path.wake()
        self.driven.loop.due.clear()
        if what == "need":
            self.take_grant(self.asks[number])
        self.check()

    def ask(self, number: int) -> None:
        transport = Transport(self.path)
        transport.protocol.connection_made(transport)
        ask = Ask(OURS[number].encode() * (100 + number), transport)
        self.asks.append(ask)
        transport.feed(post(ask.body))
        ask.entry = self.peer.take()

    def begin(self, number: int) -> None:
        ask = self.asks[number]
        assert ask.entry is not None
        self.peer.mark_begun(ask.entry)
        ask.has_begun = True

    def answer(self, number: int, flags: int = 0) -> None:
        ask = self.asks[number]
        assert ask.entry is not None
        self.peer.publish(ask.entry, body_length=len(ask.body), flags=flags)
        self.over(ask, 200, ask.body)

    def answer_and_hold(self, number: int) -> None:
        entry = self.asks[number].entry
        self.answer(number, HELD)
        self.asks[number].held = entry

    def answer_in_room(self, number: int) -> None:
        ask = self.asks[number]
        assert ask.grant is not None
        self.peer.write(ask.grant, 0, ask.body * 100)
        self.peer.publish(ask.grant, body_length=len(ask.body) * 100)
        self.over(ask, 200, ask.body * 100)

    def need(self, number: int) -> None:
        ask = self.asks[number]
        assert ask.entry is not None
        self.peer.publish(ask.entry, op=NEED, body_length=ROOM)
        ask.has_asked = True

    def take_grant(self, ask: Ask) -> None:
        grant = self.peer.take()
        assert ask.entry is not None
        assert (grant.op, grant.request_id) == (GRANT, ask.entry.request_id)
        assert (grant.capacity > 0) == ask.is_waiting, "room for an answer that nobody waits for"
        ask.grant = grant if grant.capacity else None

    def release(self, number: int) -> None:
        ask = self.asks[number]
        assert ask.held is not None
        self.peer.publish(ask.held, op=RELEASE)
        ask.held = None

    def leave(self, number: int) -> None:
        ask = self.asks[number]
        ask.transport.protocol.connection_lost(None)
        ask.is_gone, ask.is_waiting = True, False

    def die(self, number: int) -> None:
        self.path.worker_down(0)
        self.path.worker_up(0)
        again = []
        for ask in self.asks:
            had, ask.entry, ask.grant, ask.held, ask.has_asked = ask.entry, None, None, None, False
            if had is None or not ask.is_waiting:
                continue
            ask.deaths += ask.has_begun
            ask.has_begun = False
            if ask.deaths > RETRIES:
                self.over(ask, 503, b'{"code": 503}')
            else:
                again.append((had.request_id, ask))
        for _ in range(len(again)):
            entry = self.peer.take()
            ask = dict(again)[entry.request_id]
            ask.entry = entry
            assert (entry.attempt, entry.flags) == (ask.deaths, int(ask.deaths > 0))
        assert self.peer.waiting() == 0

    def over(self, ask: Ask, status: int, body: bytes) -> None:
        """The request has its answer, which goes out if its client waits for it."""
        if ask.is_waiting:
            ask.wanted.append((status, body))
        ask.entry, ask.grant, ask.is_waiting = None, None, False

    def check(self) -> None:
        slots = []
        for ask in self.asks:
            held = ask.held or ask.entry
            slots += [entry.slot for entry in (held, ask.grant) if entry is not None]
            assert held is None or self.peer.body(held) == ask.body, "a body is not as it came"
            assert ask.entry is None or self.peer.is_cancelled(ask.entry) == ask.is_gone
        assert len(set(slots)) == len(slots), "one slot for two"
        stats = self.path.stats()
        assert stats["slots_leased"] == len(slots)
        assert stats["invalid_completions"] == 0

    def end(self) -> None:
        """Whatever is open comes to its end."""
        for number, ask in enumerate(self.asks):
            if ask.entry is not None:
                self.step("answer", number)
            if ask.held is not None:
                self.step("release", number)
            if not ask.is_gone:
                self.step("leave", number)
            assert bodies(ask.transport.received()) == ask.wanted
            assert len(ask.wanted) <= 1
        stats = self.path.stats()
        assert (stats["slots_leased"], stats["connections"], stats["unanswered"]) == (0, 0, 0)


def histories(driven: Driven) -> Iterator[list[tuple[str, int]]]:
    """Lives through every history of DEPTH steps, one after another."""
    choices: list[int] = []
    while True:
        world, taken, counts = World(driven), [], []
        for at in range(DEPTH):
            options = world.options()
            if not options:
                break  # nobody is left
            if at == len(choices):
                choices.append(0)
            counts.append(len(options))
            taken.append(options[choices[at]])
            try:
                world.step(*taken[-1])
            except AssertionError as error:
                raise AssertionError(f"{error}, after {taken}") from error
        try:
            world.end()
        except AssertionError as error:
            raise AssertionError(f"{error}, at the end of {taken}") from error
        yield taken
        while choices and choices[-1] + 1 == counts[len(choices) - 1]:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1


def test_should_keep_its_books_right_through_every_history():
    driven = Driven(retries=RETRIES)
    seen = 0
    steps = set()
    for taken in histories(driven):
        seen += 1
        steps.update(what for what, _ in taken)
    driven.close()
    assert steps == {"ask", "begin", "answer", "answer_and_hold", "answer_in_room", "need", "release", "leave", "die"}
    assert seen > 1000
