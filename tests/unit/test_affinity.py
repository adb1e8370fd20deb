"""Who runs where: the plan for given machines, and what apply() does to a process (a real one, forked for it)."""

import os
import subprocess
import sys

import pytest

from headrace import affinity
from headrace.affinity import plan_for


def test_workers_take_cpus_from_the_end_and_frontends_keep_the_rest() -> None:
    plan = plan_for("auto", 3, 1, tuple(range(8)), 8, {})
    assert plan.workers == ((2, 3), (4, 5), (6, 7))
    assert plan.frontends == (0, 1)
    assert plan.dedicated == (2, 3, 4, 5, 6, 7)
    assert plan.threads == (2, 2, 2)
    assert plan.dedicated_threads == 1


def test_two_cores_and_one_worker() -> None:
    plan = plan_for("auto", 1, 1, (0, 1), 2, {})
    assert (plan.workers, plan.frontends, plan.threads) == (((1,),), (0,), (1,))


def test_cpu_numbers_need_not_begin_at_zero() -> None:
    assert plan_for("auto", 2, 1, (3, 5, 9), 3, {}).workers == ((5,), (9,))


@pytest.mark.parametrize(
    ("pin", "workers", "frontends", "cpus", "cores"),
    [
        ("off", 2, 1, (0, 1, 2, 3), 4),
        ("auto", 1, 1, (0,), 1),  # one core
        ("auto", 2, 1, (0, 1), 2),  # more processes than cores
        ("auto", 1, 1, (0, 1, 2, 3), 2),  # a quota: the CPUs are not ours alone
    ],
)
def test_nothing_is_pinned_where_it_would_hurt(
    pin: str, workers: int, frontends: int, cpus: tuple[int, ...], cores: int
) -> None:
    plan = plan_for(pin, workers, frontends, cpus, cores, {})
    assert plan.workers == (None,) * workers
    assert plan.frontends is None
    assert plan.dedicated is None
    assert plan.threads == (max(1, cores // workers),) * workers


def test_explicit_lists() -> None:
    plan = plan_for("2-3;4,6", 2, 1, tuple(range(8)), 8, {})
    assert plan.workers == ((2, 3), (4, 6))
    assert plan.frontends == (0, 1, 5, 7)
    assert plan_for("0;1", 2, 1, (0, 1), 2, {}).frontends is None
    with pytest.raises(ValueError, match="1 CPU lists for 2 workers"):
        plan_for("0-1", 2, 1, (0, 1), 2, {})


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("4,2", 4), ("0", 2), ("many", 2), ("", 2), ("²", 2)])
def test_the_users_thread_count_wins_where_it_is_one(asked: str, threads: int) -> None:
    plan = plan_for("auto", 1, 2, (0, 1, 2, 3), 4, {"OMP_NUM_THREADS": asked})
    assert plan.threads == (threads,)
    assert plan.dedicated_threads == (1 if threads == 2 else threads)


def test_the_plan_of_this_machine_uses_usable_cpus_only() -> None:
    plan = affinity.plan("auto", 1, 1)
    used = {cpu for cpus in (*plan.workers, plan.frontends, plan.dedicated) for cpu in cpus or ()}
    assert used <= os.sched_getaffinity(0)


def test_apply_pins_sizes_pools_and_sets_what_later_libraries_read() -> None:
    script = """if True:
        import os
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import numpy
        import threadpoolctl
        from headrace import affinity
        cpu = max(os.sched_getaffinity(0))
        affinity.apply([cpu], 2)
        assert os.sched_getaffinity(0) == {cpu}
        assert {os.environ[name] for name in affinity.THREAD_VARIABLES} == {"2"}
        print({pool["num_threads"] for pool in threadpoolctl.threadpool_info()} <= {2})
    """
    pytest.importorskip("threadpoolctl")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")
