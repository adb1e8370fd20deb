"""Which worker gets which model.

    shared    many models in a worker: native models, unless they or HEADRACE_ISOLATION say otherwise
    process   a model has its workers to itself, forked when it is loaded and ended when it is unloaded

Models given at start-up get a replica on every shared worker, or as many dedicated workers. Models loaded by API get
the number asked for, else what their settings say; else those that share workers begin with one and follow their load,
and one with a process of its own keeps to one.
"""

from collections.abc import Collection, Mapping

from headrace.artifact import Artifact
from headrace.errors import Overloaded


def isolation_of(artifact: Artifact, handler: str | None, configured: str) -> str:
    """`shared` or `process`. handler: named at registration; configured: HEADRACE_ISOLATION.

    What the model says, in its headrace.toml or its class, beats `auto` only.
    """
    if configured != "auto":
        return configured
    return artifact.isolation or ("shared" if artifact.is_native and handler is None else "process")


def replicas_of(
    artifact: Artifact, asked: tuple[int, int] | None, is_startup: bool, isolation: str, shared_workers: int
) -> tuple[int, int]:
    """(least, most) replicas of a model, 1 or more. asked: for `initial_workers` or the like of a registration."""
    least = shared_workers if is_startup else 1
    least, most = asked or artifact.replicas or (least, max(least, shared_workers if isolation == "shared" else 1))
    return (min(least, shared_workers), min(most, shared_workers)) if isolation == "shared" else (least, most)


def choose_shared(count: int, model_counts: Mapping[int, int]) -> list[int]:
    """The *count* shared workers with the fewest models, ascending; model_counts: worker -> models it has."""
    return sorted(sorted(model_counts, key=lambda worker: (model_counts[worker], worker))[:count])


def choose_to_leave(workers: Collection[int], model_counts: Mapping[int, int]) -> int:
    """Of the workers that have a replica the one that is to give it up: with the most models, then the last."""
    return max(workers, key=lambda worker: (model_counts[worker], worker))


def free_index(taken: Collection[int], first: int, limit: int) -> int:
    """The lowest worker index from *first* below *limit* that is not taken. Raises Overloaded."""
    for index in range(first, limit):
        if index not in taken:
            return index
    raise Overloaded(f"all {limit} workers are in use; unload a model, or set HEADRACE_ISOLATION=shared")
