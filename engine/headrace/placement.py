"""Which worker gets which model.

    shared    many models in a worker: native models, unless they or HEADRACE_ISOLATION say otherwise
    process   a model has its workers to itself, forked when it is loaded and ended when it is unloaded

Models given at start-up get a replica on every shared worker, or as many dedicated workers; models loaded by API get
one replica, or the number asked for.
"""

from collections.abc import Collection, Mapping

from headrace.artifact import Artifact
from headrace.errors import Overloaded


def isolation_of(artifact: Artifact, handler: str | None, configured: str) -> str:
    """`shared` or `process`. handler: named at registration; configured: HEADRACE_ISOLATION.

    What the model's headrace.toml says beats `auto` only.
    """
    if configured != "auto":
        return configured
    return artifact.isolation or ("shared" if artifact.is_native and handler is None else "process")


def replicas_of(artifact: Artifact, asked: int | None, is_startup: bool, isolation: str, shared_workers: int) -> int:
    """How many replicas a model gets, at least 1. asked: for `initial_workers` or the like of a registration."""
    wanted = asked or artifact.replicas or (shared_workers if is_startup else 1)
    return min(wanted, shared_workers) if isolation == "shared" else wanted


def choose_shared(count: int, model_counts: Mapping[int, int]) -> list[int]:
    """The *count* shared workers with the fewest models, ascending; model_counts: worker -> models it has."""
    return sorted(sorted(model_counts, key=lambda worker: (model_counts[worker], worker))[:count])


def free_index(taken: Collection[int], first: int, limit: int) -> int:
    """The lowest worker index from *first* below *limit* that is not taken. Raises Overloaded."""
    for index in range(first, limit):
        if index not in taken:
            return index
    raise Overloaded(f"all {limit} workers are in use; unload a model, or set HEADRACE_ISOLATION=shared")
