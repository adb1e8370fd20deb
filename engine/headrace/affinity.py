"""Which CPUs each process runs on, and how many threads a worker's numeric libraries may start.

Workers take CPUs from the end of what the container really has, frontends keep the rest (interrupts tend to be on the
first ones). With `auto` nothing is pinned where pinning would hurt: on one CPU, with more processes than CPUs, and
under a CPU quota, where the CPUs are shared with other containers that would all choose the same ones.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace import machine

#: What OpenMP and the BLAS libraries read when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

Cpus = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """CPUs by role; None: not pinned. threads: for each shared worker. Dedicated workers share all workers' CPUs."""

    workers: tuple[Cpus | None, ...]
    frontends: Cpus | None
    dedicated: Cpus | None
    threads: tuple[int, ...]
    dedicated_threads: int


def plan(pin: str, workers: int, frontends: int, environ: Mapping[str, str] = os.environ) -> Plan:
    """The plan for HEADRACE_PIN=*pin* on this machine. Raises ValueError for an unreadable list or its length."""
    return plan_for(pin, workers, frontends, machine.usable_cpus(), machine.usable_cores(), environ)


def plan_for(pin: str, workers: int, frontends: int, cpus: Cpus, cores: int, environ: Mapping[str, str]) -> Plan:
    """As plan(). cpus: usable CPU numbers, ascending; cores: how many of them the quota lets be busy.

    A worker's thread count is OMP_NUM_THREADS where the user set it, else the size of its pin, else its share of
    *cores*. A dedicated worker, one of many, gets one thread unless the user says otherwise.
    """
    pins = _pins(pin, workers, frontends, cpus, cores)
    asked = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    fixed = int(asked) if asked.isascii() and asked.isdigit() and int(asked) > 0 else None
    if not pins:
        threads = fixed or max(1, cores // workers)
        return Plan((None,) * workers, None, None, (threads,) * workers, fixed or 1)
    taken = tuple(sorted({cpu for worker in pins for cpu in worker}))
    rest = tuple(cpu for cpu in cpus if cpu not in taken)
    return Plan(pins, rest or None, taken, tuple(fixed or len(worker) for worker in pins), fixed or 1)


def _pins(pin: str, workers: int, frontends: int, cpus: Cpus, cores: int) -> tuple[Cpus, ...]:
    """CPUs of each shared worker; () when none is to be pinned."""
    if pin == "off":
        return ()
    if pin != "auto":
        lists = machine.parse_cpu_lists(pin)
        if len(lists) != workers:
            raise ValueError(f"HEADRACE_PIN={pin} has {len(lists)} CPU lists for {workers} workers; give one a worker")
        return lists
    if cores < len(cpus) or workers + frontends > len(cpus):
        return ()
    each = (len(cpus) - frontends) // workers
    first = len(cpus) - workers * each
    return tuple(cpus[first + worker * each : first + (worker + 1) * each] for worker in range(workers))


def thread_environment(threads: int) -> dict[str, str]:
    """Variables that hold numeric libraries, loaded from now on, to so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def pin(pid: int, cpus: Iterable[int] | None) -> None:
    """Move a process with all its threads to these CPUs; None: to all. One that has just ended is no error."""
    wanted = machine.usable_cpus() if cpus is None else tuple(cpus)
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.sched_setaffinity(int(thread), wanted)


def apply(cpus: Iterable[int] | None, threads: int) -> None:
    """Pin this process and size its thread pools; for a worker just forked, whose libraries still have one thread.

    Libraries loaded later read the environment. Raises OSError when a CPU is not usable.
    """
    if cpus is not None:
        os.sched_setaffinity(0, cpus)
    set_threads(threads, 1)


def set_threads(threads: int, before: int) -> None:
    """Size the thread pools of this process's numeric libraries, those that are loaded and those to come.

    before: what they were told last.
    """
    os.environ.update(thread_environment(threads))
    if threads != before:
        import threadpoolctl  # here, since most workers have one thread for all their life and need not pay for it

        threadpoolctl.threadpool_limits(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
