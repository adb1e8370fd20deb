"""The registry: names, indices, pages, replicas."""

import pytest

from headrace.errors import Conflict, ModelNotFound, RequestError
from headrace.registry import Registry, Replica, State


def fill(count: int) -> Registry:
    registry = Registry()
    for number in range(count):
        registry.register(f"m{number:03}", f"/models/{number}", f"url-{number}")
    return registry


def test_a_name_is_taken_until_it_is_removed() -> None:
    registry = Registry()
    first = registry.register("a", "/a", "a")
    with pytest.raises(Conflict, match="Model a is already registered"):
        registry.register("a", "/b", "b")
    registry.remove(first)
    assert "a" not in registry
    second = registry.register("a", "/b", "b")
    assert registry.get("a") is second
    registry.remove(first)  # late: another has the name by now
    assert registry.get("a") is second


def test_a_failed_model_gives_way() -> None:
    registry = Registry()
    failed = registry.register("a", "/a", "a")
    failed.fail("no such module")
    assert (failed.state, failed.reason) == (State.FAILED, "no such module")
    assert registry.register("a", "/a", "a") is registry.get("a")
    assert len(registry) == 1


def test_indices_are_never_used_again() -> None:
    registry = Registry()
    seen = set()
    for _ in range(100):
        model = registry.register("a", "/a", "a")
        seen.add(model.index)
        registry.remove(model)
    assert len(seen) == 100
    assert 0 not in seen  # workers of no model in particular bear it


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ü", "a\n", "x" * 256, "a%20b", "a\0"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(RequestError, match="1 to 255 letters"):
        Registry().register(name, "/a", "a")


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 255, "...", "-"])
def test_names_that_can_be(name: str) -> None:
    assert Registry().register(name, "/a", "a").name == name


def test_an_unknown_name_says_so() -> None:
    with pytest.raises(ModelNotFound, match="Model not found: ghost"):
        Registry().get("ghost")


def test_pages_are_sorted_and_a_token_means_more() -> None:
    registry = Registry()
    for name in ("c", "a", "b"):
        registry.register(name, "/", "url")
    models, token = registry.page("2", None)
    assert ([model.name for model in models], token) == (["a", "b"], "2")
    models, token = registry.page("2", token)
    assert ([model.name for model in models], token) == (["c"], None)
    assert registry.page("3", None)[1] is None  # it fits exactly


@pytest.mark.parametrize(
    ("limit", "token", "count", "more"),
    [
        (None, None, 100, "100"),
        ("0", None, 100, "100"),
        ("-3", None, 100, "100"),
        ("101", None, 100, "100"),
        ("9" * 30, None, 100, "100"),
        ("many", "junk", 100, "100"),
        ("1", None, 1, "1"),
        ("100", "100", 5, None),
        ("10", "-7", 10, "10"),
        ("10", "105", 0, None),
        ("10", "999999999", 0, None),
    ],
)
def test_odd_limits_and_tokens(limit: str | None, token: str | None, count: int, more: str | None) -> None:
    models, next_token = fill(105).page(limit, token)
    assert (len(models), next_token) == (count, more)


def test_only_resident_replicas_take_requests() -> None:
    registry = fill(2)
    model = registry.get("m000")
    model.replicas = {3: Replica(State.RESIDENT), 1: Replica(State.RESIDENT), 2: Replica(State.LOADING)}
    assert model.residents() == [1, 3]
    model.replicas[1].become(State.UNLOADING)
    assert model.residents() == [3]
    assert registry.on_worker(2) == [model]
    assert registry.on_worker(4) == []
