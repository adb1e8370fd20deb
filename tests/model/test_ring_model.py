"""Every interleaving of the rings and of the doorbell on weakly ordered memory: nothing is lost, torn, doubled or read
too early, nobody sleeps through news, and each barrier in ring.h is needed for it."""

import re
from pathlib import Path

import pytest
import ring_model
from interleave import ORDERS, Goto, Op, Steps, Violation
from ring_model import End, bereaved, sleeping, streaming

EXT = Path(__file__).parents[2] / "ext"


@pytest.mark.parametrize(("entries", "count"), [(1, 4), (2, 6)])
def test_a_stream_arrives_whole_and_in_order(entries, count):
    assert streaming(entries, count) > count


@pytest.mark.parametrize("sleep", ["futex", "eventfd"])
@pytest.mark.parametrize(
    ("counts", "entries"), [((2,), 1), ((2,), 2), ((1, 1), 1)], ids=["one, full", "one", "two producers"]
)
def test_no_wake_up_is_lost(sleep, counts, entries):
    assert sleeping(sleep, counts, entries) > 500


@pytest.mark.parametrize("sleep", ["futex", "eventfd"])
def test_one_ring_of_the_bell_for_several_entries_will_do(sleep):
    assert sleeping(sleep, (2,), 2, every=2) > 100
    with pytest.raises(Violation, match="asleep for ever"):
        sleeping(sleep, (3,), 4, every=2)  # but not none for the last


def test_a_control_message_is_news_too():
    assert sleeping("futex", (1,), 1, control=1) > 500


def test_a_waker_that_is_killed_leaves_a_sleeper_whom_the_supervisor_wakes():
    assert bereaved("always") > 500
    with pytest.raises(Violation, match="asleep for ever: thread 2 in futex_wait"):
        bereaved("if parked")


# Without it ... (site in ring.h, what stands there instead, scenario, what goes wrong)
NEEDED = [
    ("ring_push [publish]", "store_relaxed", lambda **w: streaming(1, 2, **w), "data race: thread 1 in plain_read"),
    ("ring_pop [publish]", "load_relaxed", lambda **w: streaming(1, 2, **w), "data race: thread 1 in plain_read"),
    ("ring_pop [retire]", "store_relaxed", lambda **w: streaming(1, 2, **w), "data race: thread 0 in plain_write"),
    ("ring_push [retire]", "load_relaxed", lambda **w: streaming(1, 2, **w), "data race: thread 0 in plain_write"),
    ("doorbell_must_ring [park]", "", lambda **w: sleeping("futex", (1,), **w), "asleep for ever: thread 1"),
    ("doorbell_park [park]", "", lambda **w: sleeping("futex", (1,), **w), "asleep for ever: thread 1"),
    ("doorbell_must_ring [park]", "", lambda **w: sleeping("eventfd", (1,), **w), "asleep for ever: thread 1"),
    ("doorbell_park [park]", "", lambda **w: sleeping("eventfd", (1,), **w), "asleep for ever: thread 1"),
    ("doorbell_must_ring [park]", "", lambda **w: bereaved("if parked", **w), "asleep for ever: thread 2"),
    ("doorbell_must_ring take", "store_relaxed32", lambda **w: sleeping("futex", (1, 1), 1, **w), "wake-up calls for"),
]


@pytest.mark.parametrize(
    ("site", "instead", "scenario", "harm"), NEEDED, ids=[f"{row[0]}, {row[3].split(':')[0]}" for row in NEEDED]
)
def test_each_barrier_is_needed(site, instead, scenario, harm):
    with pytest.raises(Violation, match=harm) as caught:
        scenario(weaken={site: instead})
    assert site in str(caught.value)  # the trail shows the weak spot


def test_the_last_look_is_needed(monkeypatch):
    def takes_it_for_granted(ends: tuple[End, ...], control: int | None) -> Steps:
        return True
        yield

    monkeypatch.setattr(ring_model, "is_quiet", takes_it_for_granted)
    with pytest.raises(Violation, match="asleep for ever"):
        sleeping("futex", (1,))


def test_an_eventfd_must_not_be_cleared_between_parking_and_sleeping(monkeypatch):
    look = ring_model.is_quiet

    def clears_then(ends: tuple[End, ...], control: int | None) -> Steps:
        quiet = yield from look(ends, control)
        yield Op("eventfd_clear", "parked")
        return quiet

    monkeypatch.setattr(ring_model, "is_quiet", clears_then)
    with pytest.raises(Violation, match="asleep for ever"):
        sleeping("eventfd", (1,))


# The model is ring.h.


def c_operations(function: str) -> list[tuple[str, str, str]]:
    """(operation, field, label) in the order of the C text; label: of the comment that ends the line, or ""."""
    text = (EXT / "ring.h").read_text()
    body = re.search(rf"^static inline \w+ {function}\([^{{]*\{{(.*?\}}\n|\n(?s:.*?)^\}}\n)", text, re.M)
    assert body, f"ring.h has no {function}"
    found = []
    for line in body[1].splitlines():
        label = re.search(r"/\* (\[\w+\])", line)
        for name, argument in re.findall(rf"\b({'|'.join(ORDERS)}|memcpy)\((.*?)[,)]", line):
            field = "entry" if name == "memcpy" else argument.rpartition("->")[2]
            found.append((name, field, label[1] if label else ""))
    return found


def model_operations(start: Goto, answers: list[object]) -> list[tuple[str, str, str]]:
    """The same of a model's program, when its loads return `answers`."""
    program = start.program(*start.args)
    found = []
    op = next(program)
    try:
        while True:
            name = "memcpy" if op.name.startswith("plain") else op.name
            field = re.sub(r"\d+$", "", op.word.rpartition(".")[2])
            label = re.search(r"\[\w+\]", op.site)
            assert op.site.startswith(start.program.__name__)
            found.append((name, field, label[0] if label else ""))
            op = program.send(answers.pop(0) if name.startswith(("load", "exchange")) else None)
    except StopIteration:
        return found


@pytest.mark.parametrize(
    ("start", "answers"),
    [
        (Goto(ring_model.ring_push, (End("r", 1, 1, 0), "entry")), [1]),
        (Goto(ring_model.ring_pop, (End("r", 1, 0, 0),)), [1]),
        (Goto(ring_model.ring_is_empty, (End("r", 1, 0, 0),)), [0]),
        (Goto(ring_model.doorbell_must_ring, ("parked",)), [1, 1]),
        (Goto(ring_model.doorbell_park, ("parked",)), []),
        (Goto(ring_model.doorbell_unpark, ("parked",)), []),
    ],
    ids=lambda value: value.program.__name__ if isinstance(value, Goto) else "",
)
def test_ring_h_does_what_the_model_does(start, answers):
    modelled = model_operations(start, answers)
    assert modelled
    assert c_operations(start.program.__name__) == modelled


def test_atomics_h_means_what_the_model_means():
    text = (EXT / "atomics.h").read_text()
    for name, order in ORDERS.items():
        body = re.search(rf"\b{name}\([^{{]*\{{(.*?)\}}$", text, re.M | re.S)
        assert body, f"atomics.h has no {name}"
        assert set(re.findall(r"__ATOMIC_(\w+)", body[1])) == {order}, name


def test_notify_publishes_then_rings_then_always_wakes():
    body = (EXT / "memory.pyx").read_text().partition("def notify(")[2].partition("\n    def ")[0]
    calls = re.findall(r"^        (store_release|doorbell_must_ring|futex_wake)\(&page\.", body, re.M)
    assert calls == ["store_release", "doorbell_must_ring", "futex_wake"]
