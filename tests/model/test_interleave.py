"""The checker's memory, against the litmus tests that textbooks give for C11, x86 and aarch64: what may be seen is
found, what may not be seen is not."""

from typing import Any

import pytest
from interleave import Goto, Machine, Op, Steps, Violation


def thread(*ops: tuple[Any, ...]) -> Goto:
    """A program of these operations whose result is what its loads and exchanges returned."""
    return Goto(run, (ops,))


def run(ops: tuple[tuple[Any, ...], ...]) -> Steps:
    seen = []
    for op in ops:
        answer = yield Op(*op)
        if op[0].startswith(("load", "exchange", "plain_read")):
            seen.append(answer)
    return tuple(seen)


def outcomes(*threads: Goto, plain: tuple[str, ...] = ()) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = set()
    Machine({"x": 0, "y": 0}, dict.fromkeys(plain, 0)).explore(threads, lambda ends: found.add(tuple(ends)))
    return found


FENCE = ("fence_seq_cst",)


@pytest.mark.parametrize(("fences", "both_old"), [((0, 0), True), ((1, 0), True), ((0, 1), True), ((1, 1), False)])
def test_store_buffering_needs_both_fences(fences, both_old):
    """Each stores one word and looks at the other's: a doorbell."""
    one = [("store_release", "x", 1), *[FENCE] * fences[0], ("load_acquire", "y")]
    two = [("store_release", "y", 1), *[FENCE] * fences[1], ("load_acquire", "x")]
    found = outcomes(thread(*one), thread(*two))
    assert (((0,), (0,)) in found) == both_old
    assert found >= {((0,), (1,)), ((1,), (0,)), ((1,), (1,))}


@pytest.mark.parametrize("store", ["store_relaxed", "store_release"])
@pytest.mark.parametrize("load", ["load_relaxed", "load_acquire"])
def test_message_passing_needs_release_and_acquire(store, load):
    found = outcomes(
        thread(("store_relaxed", "x", 1), (store, "y", 1)),
        thread((load, "y"), ("load_relaxed", "x")),
    )
    ordered = store == "store_release" and load == "load_acquire"
    assert (((), (1, 0)) in found) == (not ordered)


def test_message_passing_by_fences_around_relaxed_accesses():
    found = outcomes(
        thread(("store_relaxed", "x", 1), FENCE, ("store_relaxed", "y", 1)),
        thread(("load_relaxed", "y"), FENCE, ("load_relaxed", "x")),
    )
    assert ((), (1, 0)) not in found
    assert ((), (0, 1)) in found


def test_one_word_never_goes_back():
    found = outcomes(
        thread(("store_relaxed", "x", 1), ("store_relaxed", "x", 2)),
        thread(("load_relaxed", "x"), ("load_relaxed", "x")),
    )
    assert {seen for _, seen in found} == {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)}


def test_stores_of_two_threads_may_settle_in_either_order():
    """2+2W: each thread's first store comes last in its word."""
    found = outcomes(
        thread(("store_relaxed", "x", 1), ("store_relaxed", "y", 2), ("load_relaxed", "y")),
        thread(("store_relaxed", "y", 1), ("store_relaxed", "x", 2), ("load_relaxed", "x")),
    )
    assert ((1,), (1,)) in found


@pytest.mark.parametrize("fenced", [False, True])
def test_two_readers_may_disagree_about_independent_writers_unless_fenced(fenced):
    between = [FENCE] if fenced else []
    found = outcomes(
        thread(("store_release", "x", 1)),
        thread(("store_release", "y", 1)),
        thread(("load_acquire", "x"), *between, ("load_acquire", "y")),
        thread(("load_acquire", "y"), *between, ("load_acquire", "x")),
    )
    assert (((), (), (1, 0), (1, 0)) in found) == (not fenced)


def test_of_two_exchanges_one_takes_the_value():
    found = outcomes(
        thread(("store_relaxed32", "x", 1)), thread(("exchange32", "x", 0)), thread(("exchange32", "x", 0))
    )
    assert {took + other for _, took, other in found} == {(0, 0), (0, 1), (1, 0)}


@pytest.mark.parametrize("look", ["load_acquire", "load_relaxed"])
def test_plain_words_are_handed_over_or_race(look):
    """The reader touches the plain word only when it saw the flag."""

    def reader() -> Steps:
        return (yield Op("plain_read", "p")) if (yield Op(look, "x")) else None

    programs = [thread(("plain_write", "p", 7), ("store_release", "x", 1)), Goto(reader)]
    if look == "load_acquire":
        assert outcomes(*programs, plain=("p",)) == {((), None), ((), 7)}
    else:
        with pytest.raises(Violation, match="data race: thread 1 in plain_read p"):
            outcomes(*programs, plain=("p",))


def test_a_full_fence_alone_hands_over_no_plain_word():
    with pytest.raises(Violation, match="data race"):
        outcomes(thread(("plain_write", "p", 1), FENCE), thread(FENCE, ("plain_read", "p")), plain=("p",))


def test_a_futex_sleeps_only_on_the_expected_value_and_an_eventfd_remembers():
    assert outcomes(thread(("futex_wait", "x", 1))) == {((),)}
    with pytest.raises(Violation, match="asleep for ever: thread 0 in futex_wait"):
        outcomes(thread(("futex_wait", "x", 0)))
    with pytest.raises(Violation, match="asleep for ever: thread 1 in futex_wait"):  # the wake-up may come too early
        outcomes(thread(("futex_wake", "x")), thread(("futex_wait", "x", 0)))
    assert outcomes(thread(("eventfd_bump", "x")), thread(("eventfd_poll", "x"))) == {((), ())}
