"""Explores every interleaving of a few small programs on a weakly ordered memory.

The memory is the C11 one in its operational, view-based form: a word is the history of what was stored to it, and a
thread may read anything there that is not older than what it already knows of (its view). A release store hands its
view on, an acquire load takes it over, a full fence exchanges views with all other full fences. That covers the store
buffers of x86 (a load that misses a store still in another core's buffer reads an older value) and looser machines
(stores become visible in any order, loads are satisfied early); a store may also land in the middle of a history, as
one does that waited in its buffer. Plain memory is stricter: an access that does not come AFTER every earlier one, by
what acquire and release say, is a data race, hence an error, whatever the values. Fences and system calls alone order
no plain access.

Not produced: a load that sees what a later store of its own thread led to. Where a store follows a load in the
programs, either the load is acquire, or the store is release, or the load is plain and so checked for races; each
rules that out.

A program is a generator that yields Op and is sent what the operation returned. It ends by returning its result, or
goes on as another program by returning Goto (loops do so: what went before is forgotten, and equal states meet).

Reduction: stores and plain accesses run as soon as they are next. Nobody has to read a store because it is there, so
an early one adds choices and takes none away.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

#: What the C helpers of the same name promise (__ATOMIC_*); a test compares this with atomics.h.
ORDERS = {
    "load_relaxed": "RELAXED", "load_relaxed32": "RELAXED", "load_acquire": "ACQUIRE", "store_relaxed": "RELAXED",
    "store_relaxed32": "RELAXED", "store_release": "RELEASE", "exchange32": "ACQ_REL", "fence_seq_cst": "SEQ_CST",
}  # fmt: skip

View = tuple[int, ...]  # of each word: the number of the oldest message that may still be read


class Violation(Exception):
    """A property does not hold; the text says which, and by which steps one comes there."""


class Op(NamedTuple):
    name: str
    word: str = ""
    value: Any = None
    site: str = ""  # where in the C text: function and label


Steps = Generator[Op, Any, Any]


class Goto(NamedTuple):
    program: Callable[..., Steps]
    args: tuple[Any, ...] = ()


class Message(NamedTuple):
    value: Any
    view: View
    is_rmw: bool = False  # then nothing can come between it and the message before


class Thread(NamedTuple):
    start: Goto
    heard: tuple[Any, ...]  # what its operations returned so far
    view: View
    loaded: View  # what relaxed loads came across: an acquire fence would make it ours
    fenced: View  # our view at the last fence: what relaxed stores hand on
    asleep: str = ""  # the futex word it sleeps on


class State(NamedTuple):
    words: tuple[tuple[Message, ...], ...]
    threads: tuple[Thread, ...]
    fences: tuple[View, View]  # left behind by full fences, and by the kernel's futex lock
    rung: frozenset[str] = frozenset()  # eventfds that are readable


@cache
def resume(start: Goto, heard: tuple[Any, ...]) -> Any:
    """What a program does next: an Op; or, when it is over, (result,)."""
    program = start.program(*start.args)
    try:
        op = next(program)
        for answer in heard:
            op = program.send(answer)
    except StopIteration as end:
        return end.value if isinstance(end.value, Goto) else (end.value,)
    return op


def join(a: View, b: View) -> View:
    return a if a == b else tuple(map(max, a, b))


def advance(view: View, w: int, at: int) -> View:
    return view if view[w] >= at else (*view[:w], at, *view[w + 1 :])


class Machine:
    """words, plain: initial values of atomic and of plain words. weaken: site of an operation -> the operation that is
    done there instead, "" for none. mortal: threads that may be killed before any step."""

    def __init__(
        self, words: Mapping[str, Any], plain: Mapping[str, Any], weaken: Mapping[str, str] | None = None,
        mortal: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.initial = [*words.values(), *plain.values()]
        self.place = {name: index for index, name in enumerate([*words, *plain])}
        self.atomic_count = len(words)
        self.weaken, self.mortal = weaken or {}, mortal

    def explore(self, programs: Sequence[Goto], final: Callable[[list[Any]], None]) -> int:
        """Number of states; `final` is called with the threads' results at each end. Raises Violation."""
        zero = (0,) * len(self.initial)
        words = tuple((Message(value, zero),) for value in self.initial)
        resume.cache_clear()
        first = self.settle(State(words, tuple(Thread(p, (), zero, zero, zero) for p in programs), (zero, zero)))
        came_from: dict[State, Any] = {first: None}
        todo = [first]
        while todo:
            state = todo.pop()
            step = ""
            try:
                found = self.successors(state)
                for step, follower in found:
                    if (follower := self.settle(follower)) not in came_from:
                        came_from[follower] = state, step
                        todo.append(follower)
                step = ""
                if not found:
                    ends = [resume(t.start, t.heard) for t in state.threads]
                    if stuck := [f"thread {i} in {end.name}" for i, end in enumerate(ends) if isinstance(end, Op)]:
                        raise Violation(f"asleep for ever: {', '.join(stuck)}")
                    final([end[0] for end in ends])
            except Violation as reason:
                trail = [step] if step else []
                while (origin := came_from[state]) is not None:
                    state = origin[0]
                    trail.append(origin[1])
                raise Violation(f"{reason}\n  " + "\n  ".join(reversed(trail))) from None
        return len(came_from)

    def settle(self, state: State) -> State:
        """The normal form: programs that ended go on as the next, and what nobody can read any more is gone."""
        zero = (0,) * len(self.initial)
        live = []
        for i, thread in enumerate(state.threads):
            while isinstance(after := resume(thread.start, thread.heard), Goto):
                thread = thread._replace(start=after, heard=())
            if isinstance(after, Op):
                live.append(thread.view)
            else:
                thread = thread._replace(view=zero, loaded=zero, fenced=zero)
            if thread is not state.threads[i]:
                state = self.put(state, i, thread)
        live = live or [zero]
        floor = tuple(map(min, *live)) if len(live) > 1 else live[0]
        if not any(floor):
            return state

        def lower(view: View) -> View:
            return tuple([at - low if at > low else 0 for at, low in zip(view, floor, strict=True)])

        words = tuple([history[low:] for history, low in zip(state.words, floor, strict=True)])
        return shifted(state._replace(words=words), lower)

    @staticmethod
    def put(state: State, i: int, thread: Thread, **more: Any) -> State:
        return state._replace(threads=(*state.threads[:i], thread, *state.threads[i + 1 :]), **more)

    def successors(self, state: State) -> list[tuple[str, State]]:
        found: list[tuple[str, State]] = []
        for i, thread in enumerate(state.threads):
            op = resume(thread.start, thread.heard)
            if not isinstance(op, Op) or thread.asleep:
                continue
            op = op._replace(name=self.weaken.get(op.site, op.name))
            steps = list(self.perform(state, i, thread, op))
            named = [(f"thread {i}: {op.name} {op.word} {what}  {op.site}", after) for what, after in steps]
            if op.name.startswith(("store", "plain")) or not op.name:
                return named
            found += named
            if i in self.mortal:
                found.append((f"thread {i}: killed", self.put(state, i, thread._replace(start=KILLED, heard=()))))
        return found

    def perform(self, state: State, i: int, thread: Thread, op: Op) -> Iterator[tuple[str, State]]:
        """The states that one step of thread i can lead to, each with a word on what happened."""
        w = self.place.get(op.word, -1)
        history, seen = (state.words[w], thread.view[w]) if w >= 0 else ((), 0)

        def done(result: Any, **new: Any) -> Thread:
            return thread._replace(heard=(*thread.heard, result), **new)

        def write(at: int, message: Message, after: Thread) -> State:
            written = self.insert(self.put(state, i, after), w, at, message)
            after = written.threads[i]
            return self.put(written, i, after._replace(view=advance(after.view, w, at)))

        def has_room(at: int) -> bool:
            return at == len(history) or not history[at].is_rmw

        if op.name.startswith("load"):
            whose = "view" if ORDERS[op.name] == "ACQUIRE" else "loaded"
            for at, message in enumerate(history[seen:], seen):
                after = done(message.value, **{whose: join(getattr(thread, whose), message.view)})
                yield f"= {message.value}", self.put(state, i, after._replace(view=advance(after.view, w, at)))
        elif op.name.startswith("store"):
            handed_on = thread.view if ORDERS[op.name] == "RELEASE" else thread.fenced
            for at in filter(has_room, range(seen + 1, len(history) + 1)):
                yield f"= {op.value}", write(at, Message(op.value, handed_on), done(None))
        elif op.name == "exchange32":
            for at in filter(has_room, range(seen + 1, len(history) + 1)):
                old = history[at - 1]
                view = join(thread.view, old.view)
                yield (
                    f"= {old.value} -> {op.value}",
                    write(at, Message(op.value, view, True), done(old.value, view=view)),
                )
        elif op.name.startswith("plain"):
            if seen != len(history) - 1:
                raise Violation(f"data race: thread {i} in {op.name} {op.word} {op.site}")
            value = history[-1].value if op.value is None else op.value
            yield f"= {value}", write(len(history), Message(value, thread.fenced), done(value))
        elif op.name == "fence_seq_cst":
            view, left = self.meet(join(thread.view, thread.loaded), state.fences[0])
            yield "", self.put(state, i, done(None, view=view, fenced=view), fences=(left, state.fences[1]))
        elif op.name == "reap":
            if not isinstance(resume(state.threads[op.value].start, state.threads[op.value].heard), Op):
                yield "", self.put(state, i, done(None))
        elif op.name == "":
            yield "left out", self.put(state, i, done(None))
        else:
            yield from self.call(state, i, thread, op, w)

    def call(self, state: State, i: int, thread: Thread, op: Op, w: int) -> Iterator[tuple[str, State]]:
        """System calls on a word. In the kernel a lock orders them (and nothing that is plain)."""
        view, left = self.meet(thread.view, state.fences[1])
        state = self.put(state, i, thread._replace(view=view), fences=(state.fences[0], left))

        def awake(state: State, j: int) -> State:
            other = state.threads[j]
            return self.put(state, j, other._replace(asleep="", heard=(*other.heard, None)))

        if op.name == "futex_wait":
            for message in state.words[w][view[w] :]:
                asleep = self.put(state, i, state.threads[i]._replace(asleep=op.word))
                yield f"saw {message.value}", asleep if message.value == op.value else awake(state, i)
        elif op.name == "futex_wake":
            for j, other in enumerate(state.threads):
                state = awake(state, j) if other.asleep == op.word or j == i else state
            yield "", state
        elif op.name == "eventfd_poll":
            if op.word in state.rung:
                yield "readable", awake(state, i)
        elif op.name in ("eventfd_bump", "eventfd_clear"):
            rung = state.rung | {op.word} if op.name == "eventfd_bump" else state.rung - {op.word}
            yield "", awake(state, i)._replace(rung=rung)
        else:
            raise ValueError(f"no operation {op.name!r}")

    def meet(self, view: View, left: View) -> tuple[View, View]:
        """Both know what either knew of the atomic words: what two fences, one after the other, do."""
        n = self.atomic_count
        atomic = join(view[:n], left[:n])
        return atomic + view[n:], atomic + left[n:]

    @staticmethod
    def insert(state: State, w: int, at: int, message: Message) -> State:
        """The message becomes number `at` in the history of word w; views of what lies behind it move on by one."""
        history = state.words[w]
        if at < len(history):

            def shift(view: View) -> View:
                return (*view[:w], view[w] + (view[w] >= at), *view[w + 1 :])

            state = shifted(state, shift)
            history = state.words[w]
        history = (*history[:at], message._replace(view=advance(message.view, w, at)), *history[at:])
        return state._replace(words=(*state.words[:w], history, *state.words[w + 1 :]))


def shifted(state: State, shift: Callable[[View], View]) -> State:
    """The state with all its views renumbered."""
    return State(
        tuple([tuple([m._replace(view=shift(m.view)) for m in history]) for history in state.words]),
        tuple([t._replace(view=shift(t.view), loaded=shift(t.loaded), fenced=shift(t.fenced)) for t in state.threads]),
        (shift(state.fences[0]), shift(state.fences[1])),
        state.rung,
    )


def killed() -> Steps:
    return "killed"
    yield


KILLED = Goto(killed)
