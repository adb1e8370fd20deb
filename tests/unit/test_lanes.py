"""What is known of loads, and whose turn it is. Times are given and one thread takes all turns: nothing is luck."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from headrace import artifact, lanes
from headrace.errors import Conflict
from headrace.lanes import CHEAP_MS, Lanes
from headrace.registry import Model

SLOW_MS, FAST_MS = CHEAP_MS + 1, CHEAP_MS - 1


def model(directory: Path, code: str = "x = 1", index: int = 1, size: int = 0) -> Model:
    directory.mkdir(exist_ok=True)
    (directory / "model.py").write_text(code)
    (directory / "weights").write_bytes(bytes(size))
    return Model(directory.name, str(directory), str(directory), index)


def test_nothing_is_known_to_be_cheap_before_it_was_measured(tmp_path: Path) -> None:
    known = Lanes(1)
    first = model(tmp_path / "a")
    assert not known.is_cheap(first)
    known.learn(first, FAST_MS, is_first=True)
    assert known.is_cheap(first)
    assert known.is_cheap(model(tmp_path / "b", index=2)), "it has the same code"
    assert not known.is_cheap(model(tmp_path / "c", "x = 2", index=3)), "it has another code"
    assert not known.is_cheap(model(tmp_path / "d", index=4, size=10_000)), "it has more to read"


def test_a_worker_that_has_loaded_before_proves_a_load_slow_but_not_cheap(tmp_path: Path) -> None:
    known = Lanes(1)
    it = model(tmp_path / "a")
    known.learn(it, FAST_MS, is_first=False)
    assert not known.is_cheap(it), "what it imports may have been there already"
    known.learn(it, FAST_MS, is_first=True)
    known.learn(it, SLOW_MS, is_first=False)
    assert not known.is_cheap(it)


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "KINDS_MOST", 2)
    known = Lanes(1)
    kinds = [model(tmp_path / str(i), f"x = {i}", i) for i in range(3)]
    for each in kinds:
        known.learn(each, FAST_MS, is_first=True)
    assert [known.is_cheap(each) for each in kinds] == [False, True, True]


def test_code_that_is_too_large_or_missing_is_of_no_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = model(tmp_path / "a", "x" * 100)
    assert artifact.code_digest(it.path) != b""
    monkeypatch.setattr(artifact, "CODE_BYTES_MAX", 99)
    assert artifact.code_digest(it.path) == b""
    known = Lanes(1)
    known.learn(it, FAST_MS, is_first=True)
    assert not known.is_cheap(it)
    assert artifact.code_digest(str(tmp_path / "nowhere")) == b""


def test_the_names_of_files_are_part_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "a" / "code").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "code" / "utils.py").write_text("x")
    (tmp_path / "b" / "utils.py").write_text("x")
    assert artifact.code_digest(str(tmp_path / "a")) != artifact.code_digest(str(tmp_path / "b"))


def test_loads_take_turns_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async def main() -> None:
        turns, order, gate = Lanes(2), [], asyncio.Event()
        models = [model(tmp_path / str(i), index=i) for i in range(5)]

        async def load(it: Model) -> None:
            async with turns.turn(it):
                order.append(it.index)
                await gate.wait()

        tasks = [asyncio.create_task(load(it)) for it in models]
        await asyncio.sleep(0)
        assert order == [0, 1]
        assert "2 loads are under way (HEADRACE_LOADS=2), 1 wait before it" in models[3].reason
        turns.dismiss(models[2])
        turns.dismiss(models[0])  # which has its turn already
        with pytest.raises(Conflict):
            await tasks[2]
        assert "0 wait before it" in models[3].reason
        tasks[3].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[3]
        gate.set()
        await asyncio.gather(tasks[0], tasks[1], tasks[4])
        assert order == [0, 1, 4]
        assert [it.reason for it in models] == [""] * 5
        async with turns.turn(models[0]), turns.turn(models[1]):  # both places are free again
            pass

    asyncio.run(main())


def test_a_turn_that_is_cancelled_as_it_comes_goes_to_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Lanes(1)
        one, two, three = (model(tmp_path / str(i), index=i) for i in range(3))

        async def load(it: Model) -> int:
            async with turns.turn(it):
                return it.index

        async with turns.turn(one):
            second, third = asyncio.create_task(load(two)), asyncio.create_task(load(three))
            await asyncio.sleep(0)
        second.cancel()  # its turn has come, and it has not seen that yet
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await third == 2

    asyncio.run(main())
