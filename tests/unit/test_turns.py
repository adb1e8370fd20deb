"""Whose turn it is to get a slot: the rule by itself, and what becomes of an arena that follows it."""

import random
from collections import deque

import pytest

from headrace._arena import LARGE, SMALL, WHOLE, Arena, is_due

MIB = 1 << 20
LIFE = 20  # turns that a request keeps its slot at most


def due(heads, line, place, needed=1000, **held):
    return is_due(heads, line, place, needed, arena=MIB, **held)


@pytest.mark.parametrize("line", [WHOLE, SMALL, LARGE])
def test_in_a_line_nobody_overtakes(line):
    assert due({}, line, 7)
    assert due({line: (7, 1000)}, line, 7)
    assert not due({line: (6, 1000)}, line, 7)
    assert due({line: (8, 1000)}, line, 7)  # a chunked body that began before the other waited


@pytest.mark.parametrize(("first", "second"), [(WHOLE, SMALL), (SMALL, WHOLE), (WHOLE, LARGE), (SMALL, LARGE)])
def test_between_lines_the_older_goes_first(first, second):
    assert due({first: (5, 1000)}, first, 5)
    assert not due({first: (5, 1000)}, second, 6)


@pytest.mark.parametrize("line", [WHOLE, SMALL])
def test_small_ones_overtake_a_large_one_within_the_reserve_only(line):
    heads = {LARGE: (5, MIB // 2)}
    assert due(heads, line, 6, small=MIB // 8 - 1000)
    assert not due(heads, line, 6, small=MIB // 8 - 999)
    assert due(heads, line, 4, small=MIB // 2)  # it was there before
    assert due({}, line, 6, small=MIB)


def test_who_waits_for_a_share_of_incomplete_bodies_holds_nobody_up_who_needs_none():
    uploads = {"incomplete_large": MIB // 2}
    assert not due({LARGE: (5, 300_000)}, LARGE, 5, 300_000, **uploads)
    assert due({LARGE: (5, 300_000)}, WHOLE, 6, small=MIB // 2, **uploads)
    tricklers = {"incomplete_small": 3 * MIB // 4}
    assert not due({SMALL: (5, 1000)}, SMALL, 5, **tricklers)
    assert due({SMALL: (5, 1000)}, WHOLE, 6, **tricklers)
    assert not due({SMALL: (5, 1000)}, WHOLE, 6)  # it has its share: it wants a slot, and is older


def test_small_bodies_that_arrive_leave_a_waiting_large_one_its_share():
    """They may take three quarters, but beside a large one that waits no more than a quarter."""
    heads = {LARGE: (5, 400_000)}
    assert not due(heads, LARGE, 5, 400_000, incomplete_small=MIB // 2)
    assert not due(heads, SMALL, 6, small=MIB // 2, incomplete_small=MIB // 2)
    assert due(heads, LARGE, 5, 400_000, incomplete_small=MIB // 4)


def test_a_single_large_body_may_be_larger_than_the_share():
    assert due({}, LARGE, 1, 600_000)
    assert not due({}, LARGE, 1, 600_000, incomplete_large=1)
    assert due({}, SMALL, 1, MIB)
    assert not due({}, SMALL, 1, MIB, incomplete_small=1)


class Crowd:
    """Requests on an arena, turn by turn: some come, each finds a slot or waits, keeps it for a while, and ends."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.arena = Arena(16 * MIB, 9 * MIB)
        self.lines = {line: deque() for line in (WHOLE, LARGE)}  # (place, needed)
        self.held = {}  # slot -> (turn of its end, small bytes)
        self.now = self.places = 0
        self.waited = {WHOLE: [], LARGE: []}  # turns, of each that got its slot

    def ask(self, line: int, needed: int) -> None:
        self.places += 1
        if not self.take(line, self.places, needed, self.now):
            self.lines[line].append((self.places, needed, self.now))

    def take(self, line: int, place: int, needed: int, since: int) -> bool:
        heads = {each: waiting[0][:2] for each, waiting in self.lines.items() if waiting}
        small = sum(small for _, small in self.held.values())
        if not is_due(heads, line, place, needed, arena=16 * MIB, small=small):
            return False
        slot = self.arena.lease(needed)
        if slot is None:
            for index in range(len(self.arena.classes)):
                self.arena.trim(index, 0)
                self.arena.trimmed(index)
            slot = self.arena.lease(needed)
        if slot is None:
            return False
        capacity = self.arena.place(slot)[1]
        self.held[slot] = self.now + self.dice.randint(1, LIFE), capacity if line == WHOLE else 0
        self.waited[line].append(self.now - since)
        return True

    def turn(self) -> None:
        self.now += 1
        for slot in [slot for slot, (end, _) in self.held.items() if end <= self.now]:
            del self.held[slot]
            self.arena.release(slot)
        for line in sorted(self.lines, key=lambda line: self.lines[line][0] if self.lines[line] else (1 << 60,)):
            waiting = self.lines[line]
            while waiting and self.take(line, *waiting[0]):
                waiting.popleft()


@pytest.mark.parametrize("seed", range(3))
def test_a_large_one_outlives_only_those_before_it_however_many_small_ones_follow(seed):
    crowd = Crowd(seed)
    for _ in range(400):
        for _ in range(40 - len(crowd.lines[WHOLE])):  # more than there is room for, without an end
            crowd.ask(WHOLE, crowd.dice.randint(1000, 66_000))
        if not crowd.lines[LARGE]:
            crowd.ask(LARGE, crowd.dice.randint(MIB, 8 * MIB))
        crowd.turn()
    assert len(crowd.waited[LARGE]) > 400 // (2 * LIFE)
    assert max(crowd.waited[LARGE]) <= 2 * LIFE
    assert len(crowd.waited[WHOLE]) > 1000
