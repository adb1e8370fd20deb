"""ring.h as programs for the model checker: same functions, same operations in the same order, same labels.

test_ring_model.py compares the two texts. Below them the callers, which ring.h leaves to others: the worker (sleeps
in a futex), the frontend (sleeps in epoll on its eventfd), the supervisor (news without a ring).
"""

from typing import Any, NamedTuple

from interleave import Goto, Machine, Op, Steps, Violation

TURN = 1 << 64
START = TURN - 1  # cursors begin where they wrap


class End(NamedTuple):
    """RingEnd. entries: capacity; a power of two."""

    ring: str
    entries: int
    cursor: int = START
    seen: int = START


def ring_push(end: End, entry: Any) -> Steps:
    tail = end.cursor
    if (tail - end.seen) % TURN >= end.entries:
        end = end._replace(seen=(yield Op("load_acquire", f"{end.ring}.head", site="ring_push [retire]")))
        if (tail - end.seen) % TURN >= end.entries:
            return end, False
    yield Op("plain_write", f"{end.ring}.entry{tail & (end.entries - 1)}", entry, site="ring_push memcpy")
    end = end._replace(cursor=(tail + 1) % TURN)
    yield Op("store_release", f"{end.ring}.tail", end.cursor, site="ring_push [publish]")
    return end, True


def ring_pop(end: End) -> Steps:
    head = end.cursor
    if head == end.seen:
        tail = yield Op("load_acquire", f"{end.ring}.tail", site="ring_pop [publish]")
        if (tail - head) % TURN > end.entries:
            return end, None
        end = end._replace(seen=tail)
        if head == tail:
            return end, None
    entry = yield Op("plain_read", f"{end.ring}.entry{head & (end.entries - 1)}", site="ring_pop memcpy")
    end = end._replace(cursor=(head + 1) % TURN)
    yield Op("store_release", f"{end.ring}.head", end.cursor, site="ring_pop [retire]")
    return end, entry


def ring_is_empty(end: End) -> Steps:
    if end.cursor != end.seen:
        return False
    tail = yield Op("load_acquire", f"{end.ring}.tail", site="ring_is_empty")
    return (tail - end.cursor - 1) % TURN >= end.entries


def doorbell_must_ring(bell: str) -> Steps:
    yield Op("fence_seq_cst", site="doorbell_must_ring [park]")
    if (yield Op("load_relaxed32", bell, site="doorbell_must_ring look")) == 0:
        return False
    return (yield Op("exchange32", bell, 0, site="doorbell_must_ring take")) != 0


def doorbell_park(bell: str) -> Steps:
    yield Op("store_relaxed32", bell, 1, site="doorbell_park announce")
    yield Op("fence_seq_cst", site="doorbell_park [park]")


def doorbell_unpark(bell: str) -> Steps:
    yield Op("store_relaxed32", bell, 0, site="doorbell_unpark")


# The callers.


def producer(wake: str, end: End, count: int, every: int = 1, pushed: int = 0, rung: int = 0) -> Steps:
    """Pushes (ring, 0), (ring, 1), ...; after `every` of them rings, by the call `wake` if any; tells how often."""
    if pushed == count:
        return {"rung": rung}
    end, done = yield from ring_push(end, (end.ring, pushed))
    if done and wake and (pushed + 1) % every == 0 and (yield from doorbell_must_ring("parked")):
        yield Op(wake, "parked", site="producer wake")
        rung += 1
    return Goto(producer, (wake, end, count, every, pushed + done, rung))


def notify(wake: str = "if parked", after: int | None = None) -> Steps:
    """Board.notify: a control message lies in the worker's socket. after: when that process is gone."""
    if after is not None:
        yield Op("reap", value=after, site="notify")
    yield Op("store_release", "control_sent", 1, site="notify [publish]")
    asleep = yield from doorbell_must_ring("parked")
    if asleep or wake == "always":
        yield Op("futex_wake", "parked", site="notify wake")
    return {"rung": int(asleep)}


class Wants(NamedTuple):
    """When a consumer is done: entries of each ring, and the last control message."""

    entries: tuple[int, ...]
    control: int = 0


def take(end: End, taken: int) -> Steps:
    end, entry = yield from ring_pop(end)
    if entry is None:
        return end, taken
    if entry != (end.ring, taken):
        raise Violation(f"took {entry} where entry {taken} of {end.ring} was due")
    return end, taken + 1


def consumer(
    sleep: str, wants: Wants, ends: tuple[End, ...], taken: tuple[int, ...], control: int = 0, parks: int = 0
) -> Steps:
    """Takes what is there; when nothing is, parks and sleeps by "futex" or "eventfd", or spins. Tells its parks."""

    def go_on(parks: int) -> Goto:
        return Goto(consumer, (sleep, wants, ends, taken, control, parks))

    results: list[tuple[End, int]] = []
    for end, count in zip(ends, taken, strict=True):
        results.append((yield from take(end, count)))
    if wants.control:
        control = yield Op("load_acquire", "control_sent", site="consumer control")
    found = tuple(count for _, count in results)
    news = found != taken
    ends, taken = tuple(end for end, _ in results), found
    if control == wants.control and all(count >= want for count, want in zip(taken, wants.entries, strict=True)):
        return {"parks": parks}
    if news or not sleep:
        return go_on(parks)
    yield from doorbell_park("parked")
    if (yield from is_quiet(ends, control if wants.control else None)):
        if sleep == "futex":
            yield Op("futex_wait", "parked", 1, site="consumer sleep")
        else:
            yield Op("eventfd_poll", "parked", site="consumer sleep")
            yield Op("eventfd_clear", "parked", site="consumer clear")
    yield from doorbell_unpark("parked")
    return go_on(parks + 1)


def is_quiet(ends: tuple[End, ...], control: int | None) -> Steps:
    """The last look at everything one waits for."""
    for end in ends:
        if not (yield from ring_is_empty(end)):
            return False
    return control is None or (yield Op("load_acquire", "control_sent", site="is_quiet control")) == control


def at_most_one_call_a_park(results: list[Any]) -> None:
    tallies = [result for result in results if result != "killed"]
    rung, parks = (sum(tally.get(name, 0) for tally in tallies) for name in ("rung", "parks"))
    if rung > parks:
        raise Violation(f"{rung} wake-up calls for {parks} parks")


def machine(rings: dict[str, int], **more: Any) -> Machine:
    """Shared memory with these rings (name -> entries), a doorbell and a control word."""
    words = {f"{ring}.{cursor}": START for ring in rings for cursor in ("tail", "head")}
    plain = {f"{ring}.entry{i}": None for ring, entries in rings.items() for i in range(entries)}
    return Machine({**words, "parked": 0, "control_sent": 0}, plain, **more)


def streaming(entries: int, count: int, **more: Any) -> int:
    """One producer, one consumer, both spin."""
    programs = [
        Goto(producer, ("", End("r", entries), count)),
        Goto(consumer, ("", Wants((count,)), (End("r", entries),), (0,))),
    ]
    return machine({"r": entries}, **more).explore(programs, at_most_one_call_a_park)


def sleeping(
    sleep: str, counts: tuple[int, ...], entries: int = 2, control: int = 0, every: int = 1, **more: Any
) -> int:
    """A producer for each of `counts` and, with control=1, a notifying supervisor, against one consumer that sleeps."""
    rings = {f"r{i}": entries for i in range(len(counts))}
    wake = {"futex": "futex_wake", "eventfd": "eventfd_bump"}[sleep]
    ends = tuple(End(ring, entries) for ring in rings)
    programs = [Goto(producer, (wake, end, count, every)) for end, count in zip(ends, counts, strict=True)]
    if control:
        programs.append(Goto(notify))
    programs.append(Goto(consumer, (sleep, Wants(counts, control), ends, (0,) * len(ends))))
    return machine(rings, **more).explore(programs, at_most_one_call_a_park)


def bereaved(wake: str, **more: Any) -> int:
    """A frontend that may be killed anywhere pushes and rings; the supervisor reaps it and notifies the worker."""
    end = End("r", 1)
    programs = [
        Goto(producer, ("futex_wake", end, 1)),
        Goto(notify, (wake, 0)),
        Goto(consumer, ("futex", Wants((0,), 1), (end,), (0,))),
    ]
    return machine({"r": 1}, mortal=(0,), **more).explore(programs, at_most_one_call_a_park)
