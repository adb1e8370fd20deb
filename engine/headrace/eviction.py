"""Which models have to go when room is needed. Plain choice: no I/O, no clock of its own."""

from collections.abc import Callable, Iterable

from headrace.registry import Model, State


def is_evictable(model: Model) -> bool:
    """Resident with all its replicas, not pinned, and no request under way when frontends were last asked."""
    return (
        model.state is State.RESIDENT
        and not model.is_pinned
        and not model.in_flight
        and not model.work.locked()
        and bool(model.replicas)
        and all(replica.state is State.RESIDENT for replica in model.replicas.values())
    )


def order(models: Iterable[Model], now_ns: int, min_resident_ns: int) -> list[Model]:
    """Those that may go, in the order in which they would: least recently used first, those that are young last."""
    return sorted(
        filter(is_evictable, models),
        key=lambda model: (now_ns - model.loaded_ns < min_resident_ns, max(model.used_ns, model.loaded_ns)),
    )


def choose(
    models: Iterable[Model],
    charge_of: Callable[[Model], int],
    needed_bytes: int,
    wanted_bytes: int,
    now_ns: int,
    min_resident_ns: int,
) -> list[Model]:
    """The models to evict, least recently used first; [] when all that may go would not free *needed_bytes*.

    wanted_bytes: what is freed where that costs no model its minimum stay: some more than needed, so that not every
    load has to evict. A model loaded less than min_resident_ns before now_ns (CLOCK_MONOTONIC) goes only when no older
    one is left: a working set that is a little too large then loses few models often rather than all of them always.
    """
    chosen, freed = [], 0
    for model in order(models, now_ns, min_resident_ns):
        is_young = now_ns - model.loaded_ns < min_resident_ns
        if freed >= (needed_bytes if is_young else wanted_bytes):
            break
        chosen.append(model)
        freed += charge_of(model)
    return chosen if freed >= needed_bytes else []
