"""Any history of leases, releases and trims keeps the arena's books right (invariants 1 and 2 of arena.h)."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace._arena import Arena

PAGE = 4096
SPILL = 6


class ArenaHistory(RuleBasedStateMachine):
    """The books against plain sets and searches."""

    @initialize(limit=st.integers(20_000, 300_000), largest=st.integers(0, 10_000))
    def begin(self, limit, largest):
        self.arena = Arena(limit, largest)
        self.limit = limit
        self.strides = [k["stride"] for k in self.arena.classes]
        self.leased = {}  # slot -> (offset, capacity)
        self.punched = {}  # class -> (offset, length), while its trim lasts

    def due(self, size):
        """The slot that a lease must get: lowest free one of the first class that has one within the limit."""
        right = next((c for c, stride in enumerate(self.strides) if stride >= size), len(self.strides))
        for k in self.arena.classes[right : right + SPILL + 1]:
            unusable = range(k["warm"], k["warm"] + k["trimming"])
            free = (i for i in range(k["count"]) if k["first"] + i not in self.leased and i not in unusable)
            index = next(free, None)
            if index is None:
                continue
            if index < k["warm"]:
                return k["first"] + index
            if not k["trimming"] and self.arena.committed_bytes + k["stride"] <= self.limit:
                return k["first"] + index
        return None

    @rule(size=st.integers(0, 11_000))
    def lease(self, size):
        due, exhausted = self.due(size), self.arena.exhausted
        slot = self.arena.lease(size)
        assert slot == due
        assert self.arena.exhausted == exhausted + (slot is None)
        if slot is not None:
            offset, capacity = self.arena.place(slot)
            right = next(stride for stride in self.strides if stride >= size)
            assert size <= capacity <= 3 * right
            assert slot not in self.leased
            self.leased[slot] = offset, capacity

    @rule(size=st.integers(1, 10_000), count=st.integers(2, 40))
    def burst(self, size, count):
        """Requests that arrive together."""
        for _ in range(count):
            self.lease(size)

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def release(self, data):
        slot = data.draw(st.sampled_from(sorted(self.leased)))
        self.arena.release(slot)
        del self.leased[slot]
        with pytest.raises(ValueError, match="is not leased"):
            self.arena.release(slot)

    @precondition(lambda self: len(self.leased) > 3)
    @rule(keep=st.integers(0, 3))
    def calm(self, keep):
        """Most requests end."""
        for slot in sorted(self.leased)[keep:]:
            self.arena.release(slot)
            del self.leased[slot]

    @rule(data=st.data())
    def release_what_is_not_ours(self, data):
        """Free, being trimmed, of another class, of none."""
        k = data.draw(st.sampled_from(self.arena.classes))
        slot = k["first"] + data.draw(st.integers(0, k["warm"] + k["trimming"] + 1))
        if slot not in self.leased:
            with pytest.raises(ValueError, match="is not leased"):
                self.arena.release(slot)

    @precondition(lambda self: self.arena.committed_bytes)
    @rule(data=st.data(), keep=st.none() | st.integers(0, 5))
    def trim(self, data, keep):
        index = data.draw(st.sampled_from([i for i, k in enumerate(self.arena.classes) if k["warm"]]))
        before = self.arena.classes[index]
        offset, length = self.arena.trim(index, keep)
        after = self.arena.classes[index]
        if before["trimming"]:
            assert length == 0
            assert after == before
            return
        assert before["warm"] == after["warm"] + after["trimming"]
        if keep is not None:
            top = max((s - before["first"] + 1 for s in self.leased if self.owner(s) == index), default=0)
            assert after["warm"] == min(before["warm"], max(top, keep))
        if length:
            self.punched[index] = offset, length

    @rule()
    def end_trims(self):
        for index in range(len(self.strides)):
            self.arena.trimmed(index)
        self.punched.clear()

    def owner(self, slot):
        return next(i for i, k in enumerate(self.arena.classes) if k["first"] <= slot < k["first"] + k["count"])

    @invariant()
    def every_slot_is_in_one_state(self):
        for index, k in enumerate(self.arena.classes):
            assert k["leased"] + k["free"] + k["trimming"] == k["count"]
            assert k["leased"] == sum(1 for slot in self.leased if self.owner(slot) == index)
            assert k["warm"] + k["trimming"] <= k["count"]

    @invariant()
    def committed_is_what_is_warm_and_within_the_limit(self):
        warm = sum(k["warm"] * k["stride"] for k in self.arena.classes)
        assert self.arena.committed_bytes == warm <= self.limit

    @invariant()
    def leased_slots_lie_apart_inside_and_aligned(self):
        end = 0
        for offset, capacity in sorted(self.leased.values()):
            assert offset >= end
            assert offset % 64 == 0
            end = offset + capacity
        assert end <= self.arena.bytes

    @invariant()
    def no_page_goes_that_somebody_uses(self):
        for index, (offset, length) in self.punched.items():
            assert offset % PAGE == length % PAGE == 0
            end = offset + length
            assert end <= self.arena.bytes
            for at, capacity in self.leased.values():
                assert at + capacity <= offset or at >= end
            for other, k in enumerate(self.arena.classes):
                last = k["offset"] + k["warm"] * k["stride"]
                last += -last % PAGE
                assert last <= offset if other == index else last <= offset or k["offset"] >= end

    def teardown(self):
        if not hasattr(self, "arena"):
            return
        for slot in self.leased:
            self.arena.release(slot)
        for index in range(len(self.strides)):
            self.arena.trimmed(index)
            self.arena.trim(index, 0)
            self.arena.trimmed(index)
        assert self.arena.committed_bytes == 0
        assert all(k["free"] == k["count"] for k in self.arena.classes)


TestArenaHistory = ArenaHistory.TestCase
TestArenaHistory.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, database=None)
