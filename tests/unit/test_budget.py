"""The books of the budget under any order of loads, ends and measurements, and the choice of victims."""

import mmap
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import artifact, eviction, footprint
from headrace.budget import Budget, Reservation
from headrace.errors import OutOfMemory
from headrace.registry import Model, Registry, Replica, State

MIB = 1 << 20
LIMIT = 1000 * MIB


def test_a_reservation_that_fits_is_taken_and_one_that_does_not_changes_nothing() -> None:
    budget = Budget(LIMIT)
    assert budget.capacity_bytes == LIMIT - 30 * MIB
    first = budget.reserve(900 * MIB)
    with pytest.raises(OutOfMemory, match=r"needs 100\.0 MiB, 70\.0 MiB free"):
        budget.reserve(100 * MIB)
    assert budget.used_bytes == 900 * MIB
    budget.place(first, 0)
    budget.settle(first, 1, 400 * MIB)
    assert (budget.used_bytes, budget.charge_of(1), budget.reserved_bytes) == (400 * MIB, 400 * MIB, 0)
    assert not budget.cancel(first)  # it has ended
    budget.release(0, 1)
    assert budget.used_bytes == 400 * MIB  # until it is seen that the memory is back
    budget.measure({0: 5 * MIB}, 0)
    assert budget.used_bytes == budget.base_of(0) == 5 * MIB


def test_what_was_measured_counts_when_charges_say_less() -> None:
    budget = Budget(LIMIT)
    budget.measure({0: 20 * MIB}, 50 * MIB)
    room = budget.reserve(100 * MIB)
    budget.place(room, 0)
    budget.measure({0: 90 * MIB}, 50 * MIB)  # half of the load is done
    assert (budget.base_of(0), budget.used_bytes) == (20 * MIB, 170 * MIB)
    budget.settle(room, 7, 80 * MIB)
    budget.measure({0: 130 * MIB}, 50 * MIB)  # the model has grown since
    assert (budget.base_of(0), budget.used_bytes, budget.measured_bytes) == (50 * MIB, 180 * MIB, 180 * MIB)
    budget.forget(0)
    assert budget.used_bytes == 50 * MIB


def test_a_load_that_ends_after_its_workers_death_charges_nobody() -> None:
    budget = Budget(LIMIT)
    room = budget.reserve(10 * MIB)
    budget.place(room, 3)
    budget.forget(3)
    again = budget.insist(10 * MIB)
    budget.place(again, 3)
    budget.settle(room, 1, 10 * MIB)
    assert (budget.charge_of(1), budget.reserved_bytes, budget.models_on(3)) == (0, 10 * MIB, 1)


steps = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "place", "settle", "cancel", "release", "forget", "measure")),
        st.integers(0, 3),  # worker
        st.integers(0, 400 * MIB),
        st.integers(0, 30),  # which reservation or model
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_any_history_keeps_the_sum_true(history: list[tuple[str, int, int, int]]) -> None:
    """Against a second set of books that adds everything up anew each time."""
    budget = Budget(LIMIT)
    open_rooms: list[tuple[Reservation, int | None]] = []
    charges: dict[tuple[int, int], int] = {}  # (worker, model) -> bytes
    measured: dict[int, int] = {}
    others = 0
    loaded: dict[int, int] = {}  # by worker, since it was measured
    for step, worker, size, pick in history:
        room, where = open_rooms[pick % len(open_rooms)] if open_rooms else (None, None)
        if step == "reserve":
            fits = budget.used_bytes + size <= budget.capacity_bytes
            try:
                open_rooms.append((budget.reserve(size), None))
            except OutOfMemory:
                assert not fits
            else:
                assert fits
                assert budget.used_bytes <= budget.capacity_bytes
        elif step == "place" and room is not None and where is None:
            budget.place(room, worker)
            open_rooms[open_rooms.index((room, None))] = (room, worker)
        elif step == "settle" and room is not None and where is not None:
            budget.settle(room, pick, size)
            open_rooms.remove((room, where))
            charges[where, pick] = size
            loaded[where] = loaded.get(where, 0) + size
        elif step == "cancel" and room is not None:
            assert budget.cancel(room)
            open_rooms.remove((room, where))
        elif step == "release":
            budget.release(worker, pick)
            charges.pop((worker, pick), None)
        elif step == "forget":
            budget.forget(worker)
            measured.pop(worker, None)
            loaded.pop(worker, None)
            charges = {key: value for key, value in charges.items() if key[0] != worker}
            for lost in [entry for entry in open_rooms if entry[1] == worker]:
                budget.cancel(lost[0])
                open_rooms.remove(lost)
        elif step == "measure":
            measured[worker], others = size, size // 10
            loaded[worker] = 0
            budget.measure({worker: size}, others)
        reserved = sum(entry[0].bytes for entry in open_rooms)
        assert budget.charged_bytes == sum(charges.values())
        assert budget.reserved_bytes == reserved
        assert budget.used_bytes >= others + sum(measured.values())
        assert budget.used_bytes >= others + sum(loaded.values()) + reserved
        if not reserved:
            assert budget.used_bytes <= others + sum(measured.values()) + sum(loaded.values())


def resident(registry: Registry, name: str, used_s: float, loaded_s: float = 0) -> Model:
    model = registry.register(name, "/", name)
    model.become(State.RESIDENT)
    model.replicas[0] = Replica(State.RESIDENT)
    model.used_ns, model.loaded_ns = int(used_s * 1e9), int(loaded_s * 1e9)
    return model


def choose(registry: Registry, needed: int, wanted: int, now_s: float = 100, stay_s: float = 1) -> str:
    chosen = eviction.choose(registry, lambda model: 10, needed, wanted, int(now_s * 1e9), int(stay_s * 1e9))
    return "".join(model.name for model in chosen)


def test_the_least_recently_used_go_first_and_only_as_many_as_wanted() -> None:
    registry = Registry()
    for name, used_s in (("a", 5), ("b", 3), ("c", 9), ("d", 1)):
        resident(registry, name, used_s)
    assert choose(registry, 1, 1) == "d"
    assert choose(registry, 11, 11) == "db"
    assert choose(registry, 1, 25) == "dba"
    assert choose(registry, 40, 1000) == "dbac"
    assert choose(registry, 41, 41) == ""  # it would not be enough, so nobody goes in vain


def test_busy_pinned_and_half_loaded_models_stay() -> None:
    registry = Registry()
    resident(registry, "a", 1).in_flight = 1
    resident(registry, "b", 2).is_pinned = True
    resident(registry, "c", 3).replicas[1] = Replica(State.LOADING)
    resident(registry, "d", 4).become(State.UNLOADING)
    resident(registry, "e", 5).replicas.clear()
    resident(registry, "f", 6)
    assert choose(registry, 10, 100) == "f"


def test_a_model_stays_for_a_while_as_long_as_an_older_one_may_go() -> None:
    registry = Registry()
    resident(registry, "y", used_s=1, loaded_s=99.5)
    resident(registry, "o", used_s=50, loaded_s=50)
    assert choose(registry, 10, 10) == "o"
    assert choose(registry, 10, 20) == "o"  # what is only wanted costs no young model
    assert choose(registry, 20, 20) == "oy"


def test_a_model_that_had_no_request_yet_counts_from_its_load() -> None:
    registry = Registry()
    resident(registry, "n", used_s=0, loaded_s=60)
    resident(registry, "u", used_s=50, loaded_s=10)
    assert choose(registry, 10, 10) == "u"


def test_sizes_of_artifacts(tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "deep" / "b").write_bytes(b"x" * 500)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert 1500 <= artifact.size_bytes(str(tmp_path)) < 1500 + 100_000
    assert artifact.size_bytes(str(tmp_path / "a")) == 1000
    assert artifact.size_bytes(str(tmp_path / "nowhere")) == 0


def test_what_replicas_share_is_charged_once_and_until_it_is_gone() -> None:
    budget = Budget(1000 * MIB)
    for worker in (0, 1):
        room = budget.reserve(10 * MIB)
        budget.place(room, worker)
        budget.settle(room, 7, MIB)
    budget.share(7, 100 * MIB)
    assert budget.charge_of(7) == budget.charged_bytes == budget.used_bytes == 102 * MIB
    assert budget.empty_bytes == budget.capacity_bytes  # nothing of it is there when no model is
    budget.measure({0: 3 * MIB, 1: 3 * MIB}, 0)
    assert budget.measured_bytes == budget.used_bytes == 106 * MIB
    budget.release(0, 7)
    budget.forget(1)  # its successor will find the weights
    assert budget.shared_of(7) == budget.charge_of(7) == 100 * MIB
    budget.share(7, 0)
    assert budget.charge_of(7) == 0


def test_footprints_see_what_a_process_takes_and_memfds_hold() -> None:
    before = footprint.anonymous_bytes(os.getpid())
    with mmap.mmap(-1, 32 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:  # malloc may have free pages at hand
        block.write(bytes(32 * MIB))
        assert abs(footprint.anonymous_bytes(os.getpid()) - before - 32 * MIB) < 4 * MIB
    fd = os.memfd_create("test")
    os.write(fd, bytes(3 * MIB))
    assert footprint.of_others([], [fd]) == 3 * MIB
    os.close(fd)
    assert footprint.of_others([], [fd]) == 0
    assert footprint.anonymous_bytes(2**22 + 1) == 0


def test_a_forked_worker_is_not_charged_what_it_shares() -> None:
    shared = np.ones(24 * MIB, np.uint8)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ours, 1)
        os._exit(0)
    try:
        prints = footprint.Footprints()
        assert prints.of_workers({0: pid})[0] < 4 * MIB < shared.nbytes
        assert footprint.anonymous_bytes(pid) > shared.nbytes
    finally:
        os.write(theirs, b"x")
        os.waitpid(pid, 0)
        os.close(ours)
        os.close(theirs)
