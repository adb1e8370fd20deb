"""The arena's books: table of size classes, which slot a lease gets, what a trim takes away."""

import ctypes
import os
from itertools import pairwise

import pytest

from headrace._arena import Arena

GIB = 1 << 30
MIB = 1 << 20
PAGE = 4096
OFFSETS_END = 256 * GIB  # offsets of 64-byte units fit 32 bits
SPILL = 6  # classes above the right one that may stand in for it


@pytest.mark.parametrize("largest", [0, 1, 2048, 2112, 2113, 65536, 100 * MIB, 1 * GIB])
def test_strides_grow_by_quarters_and_are_no_powers_of_two(largest):
    strides = [k["stride"] for k in Arena(4 * GIB, largest).classes]
    assert strides[0] == 2048 + 64
    assert strides[-1] >= largest
    assert len(strides) == 1 or strides[-2] < largest
    for stride in strides:
        assert stride % 64 == 0
        assert stride & (stride - 1)
        assert stride % PAGE  # equal places of neighbours lie in different L1 sets
    for small, large in pairwise(strides):
        assert 1 < large / small <= 1.25


def test_a_lease_of_any_size_gets_the_smallest_class_that_holds_it():
    arena = Arena(8 * GIB, GIB)
    strides = [k["stride"] for k in arena.classes]
    edges = {edge + step for edge in strides for step in (-65, -64, -63, -1, 0, 1, 63, 64, 65)}
    powers = {(1 << n) + step for n in range(31) for step in (-1, 0, 1, 63, 64, 65)}
    for size in sorted(edges | powers | {0}):
        if size <= strides[-1]:
            slot = arena.lease(size)
            assert arena.place(slot)[1] == next(stride for stride in strides if stride >= size), size
            arena.release(slot)


@pytest.mark.parametrize("size", [(1 << 31) + 1, 1 << 40, (1 << 64) - 1])
def test_a_size_beyond_the_largest_class_is_refused_and_counted(size):
    arena = Arena(8 * GIB, GIB)
    assert arena.lease(size) is None
    assert arena.exhausted == 1
    assert arena.committed_bytes == 0


@pytest.mark.parametrize("limit", [0, 1, 2111, 64 * MIB, 3 * GIB, 2 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("largest", [0, 100 * MIB, (1 << 64) - 1])
def test_classes_lie_one_behind_the_other_within_32_bits_of_64_byte_units(limit, largest):
    arena = Arena(limit, largest)
    end = first = 0
    for k in arena.classes:
        assert 1 <= k["count"] <= 4096
        assert k["free"] == k["count"]
        assert (k["offset"], k["first"]) == ((end + PAGE - 1) // PAGE * PAGE, first)
        end, first = k["offset"] + k["count"] * k["stride"], first + k["count"]
    assert end <= arena.bytes < OFFSETS_END - GIB  # rings lie before it
    assert arena.bytes % PAGE == 0


@pytest.mark.parametrize("limit", [0, 2111])
def test_an_arena_smaller_than_its_smallest_slot_leases_nothing(limit):
    arena = Arena(limit, 10_000)
    assert arena.lease(1) is None
    assert arena.committed_bytes == 0


def test_the_last_byte_of_the_limit_can_be_leased_and_not_one_more():
    arena = Arena(3 * 2112, 2112)
    assert [arena.lease(1) for _ in range(4)] == [0, 1, 2, None]
    assert arena.committed_bytes == 3 * 2112
    exact = Arena(3 * 2112 - 1, 2112)
    assert [exact.lease(1) for _ in range(3)] == [0, 1, None]


def test_neighbours_lie_at_one_stride_and_the_lowest_free_slot_goes_first():
    arena = Arena(64 * MIB, MIB)
    slots = [arena.lease(600_000) for _ in range(8)]
    places = [arena.place(slot) for slot in slots]
    assert [offset - places[0][0] for offset, _ in places] == [i * places[0][1] for i in range(8)]
    for index in (6, 2, 4):
        arena.release(slots[index])
    assert [arena.lease(600_000) for _ in range(4)] == [slots[2], slots[4], slots[6], slots[7] + 1]


def test_every_slot_of_a_full_class_has_its_number():
    """4096 slots: 64 words of bits and the word that summarises them."""
    arena = Arena(GIB, 2112)
    assert [arena.lease(1) for _ in range(4097)] == [*range(4096), None]
    for slot in (4095, 64, 63, 0):
        arena.release(slot)
    assert [arena.lease(1) for _ in range(5)] == [0, 63, 64, 4095, None]


def test_a_class_that_is_full_spills_upwards_but_not_beyond_three_times_the_size():
    arena = Arena(GIB, 40_000)
    strides = [k["stride"] for k in arena.classes]
    right = 4
    capacities = []
    while (slot := arena.lease(strides[right])) is not None:
        capacities.append(arena.place(slot)[1])
    assert capacities == [stride for stride in strides[right : right + SPILL + 1] for _ in range(4096)]
    assert max(capacities) <= 3 * strides[right]
    assert [k["leased"] for k in arena.classes] == [4096 * (right <= c <= right + SPILL) for c in range(len(strides))]


@pytest.mark.parametrize("slot", [0, 1, 5, 10**6, (1 << 32) - 1])
def test_what_is_not_leased_cannot_be_released(slot):
    arena = Arena(MIB, 4096)
    leased = arena.lease(1)
    arena.release(leased)
    before = arena.classes
    with pytest.raises(ValueError, match=f"slot {slot} is not leased"):
        arena.release(slot)
    assert arena.classes == before


def test_slots_and_classes_that_do_not_exist_are_named():
    arena = Arena(MIB, 4096)
    with pytest.raises(ValueError, match="slot 99999999 is not below"):
        arena.place(99_999_999)
    for call in (arena.trim, arena.trimmed):
        with pytest.raises(ValueError, match="class 5 is not below 5"):
            call(5)


def test_a_trim_spares_leased_slots_and_what_the_last_two_periods_needed():
    arena = Arena(MIB, 2112)
    slots = [arena.lease(1) for _ in range(20)]
    for slot in slots[3:]:
        arena.release(slot)
    assert arena.trim(0)[1] == 0  # this period needed all of them
    assert arena.trim(0)[1] == 0  # and so did the one before
    offset, length = arena.trim(0)
    assert (offset, offset + length) == (
        2 * PAGE,
        11 * PAGE,
    )  # slot 2 ends at 6336, slot 19 at 42240
    k = arena.classes[0]
    assert (k["leased"], k["warm"], k["trimming"]) == (3, 3, 17)
    assert arena.committed_bytes == 3 * 2112
    assert arena.lease(1) is None  # the rest is being trimmed
    arena.trimmed(0)
    assert arena.lease(1) == 3


def test_slots_held_since_an_earlier_period_were_needed_in_this_one():
    arena = Arena(MIB, 2112)
    slots = [arena.lease(1) for _ in range(20)]
    for _ in range(5):
        assert arena.trim(0) == (0, 0)
    for slot in slots:
        arena.release(slot)
    assert [arena.trim(0)[1] > 0 for _ in range(3)] == [False, False, True]


def test_a_slot_that_is_being_trimmed_is_not_leased():
    arena = Arena(MIB, 2112)
    slots = [arena.lease(1) for _ in range(20)]
    for slot in slots:
        arena.release(slot)
    arena.trim(0, 10)
    with pytest.raises(ValueError, match="slot 15 is not leased"):
        arena.release(15)


def test_one_trim_of_a_class_at_a_time():
    arena = Arena(MIB, 2112)
    slots = [arena.lease(1) for _ in range(20)]
    for slot in slots:
        arena.release(slot)
    assert arena.trim(0, 10)[1] > 0
    assert arena.trim(0, 0) == (0, 0)
    arena.trimmed(0)
    assert arena.trim(0, 0)[1] > 0


def test_after_the_last_trim_no_page_is_left():
    """With real memory behind the books: every byte of every slot was written."""
    arena = Arena(4 * MIB, 300_000)
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    fd = os.memfd_create("arena")
    try:
        os.ftruncate(fd, arena.bytes)
        slots = []
        for size in [1, 2112, 3000, 5000, 5000, 70_000, 300_000, 1, 9000, 9000, 9000] * 3:
            slots.append(arena.lease(size))
            offset, capacity = arena.place(slots[-1])
            os.pwrite(fd, b"\xff" * capacity, offset)
        for kept in (slots[::2], []):
            for slot in set(slots) - set(kept):
                arena.release(slot)
            slots = kept
            for index in range(len(arena.classes)):
                offset, length = arena.trim(index, 0)
                if length:
                    assert fallocate(fd, 0x03, offset, length) == 0, os.strerror(ctypes.get_errno())
                arena.trimmed(index)
            for slot in slots:
                offset, capacity = arena.place(slot)
                assert os.pread(fd, capacity, offset) == b"\xff" * capacity
            pages = os.fstat(fd).st_blocks * 512
            assert arena.committed_bytes <= pages + PAGE  # slots that share a page
            assert pages <= sum((k["warm"] * k["stride"] + PAGE - 1) // PAGE * PAGE for k in arena.classes)
        assert arena.committed_bytes == pages == 0
    finally:
        os.close(fd)
