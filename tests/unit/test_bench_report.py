"""The bench's arithmetic: what is read from wrk and the kernel, medians, ratios within a round, the page."""

import json
import os
import subprocess
import sys

import pytest

from bench import procfs, report
from bench.errors import BenchError
from bench.scenarios import ECHO, all_scenarios
from bench.wrk import Load

LINE = (
    'RESULT {"requests": 1000, "duration_us": 2000000, "bytes": 135000, "p50_us": 76, "p99_us": 120, "p999_us": 900, '
    '"max_us": 1500, "errors": {"connect": 0, "read": 0, "write": 0, "status": 2, "timeout": 0}}'
)


def run(server: str, index: int, scenario: str = "echo", connections: int = 1, **figures: float) -> report.Run:
    metrics = {"requests_per_s": 100.0, "p50_us": 50, "p99_us": 60, "p999_us": 70, "cpu_us_per_request": 8.0}
    return {
        "round": index,
        "server": server,
        "scenario": scenario,
        "connections": connections,
        "errors": {"read": 0, "status": 0},
        "pss_bytes": 15e6,
        "start_ms": 20.0,
        **metrics,
        **figures,
    }


def rest(server: str, index: int, **figures: float) -> report.Run:
    metrics = {"idle_cpu_percent": 0.5, "pss_bytes": 15e6, "bytes_per_connection": 1500.0, "start_ms": 20.0}
    kind = {"round": index, "server": server, "scenario": report.IDLE, "connections": 2000, "errors": {}}
    return {**kind, **metrics, **figures}


def test_wrk_line_is_found_among_its_own_output():
    load = Load.parse(f"Running 2s test\n  Latency 1ms\n{LINE}\n")
    assert (load.requests, load.p50_us, load.p99_us, load.p999_us, load.max_us) == (1000, 76, 120, 900, 1500)
    assert load.errors["status"] == 2


@pytest.mark.parametrize("output", ["", "Running 2s test", f"{LINE}\n{LINE}"])
def test_wrk_without_one_result_is_an_error(output):
    with pytest.raises(BenchError, match="result lines, not one"):
        Load.parse(output)


def test_spread_is_median_and_both_ends():
    assert report.spread([5, 1, 9, 2]) == {"median": 3.5, "low": 1, "high": 9}
    assert report.spread([4]) == {"median": 4, "low": 4, "high": 4}


def test_ratios_pair_runs_of_one_round_whatever_their_order():
    ours = [run("headrace", 1, p50_us=30), run("headrace", 2, p50_us=80), run("headrace", 3, p50_us=1)]
    theirs = [run("bare", 2, p50_us=100), run("bare", 1, p50_us=60)]
    assert report.ratios(ours, theirs, "p50_us") == [0.5, 0.8]


def test_ratio_over_nothing_is_left_out():
    assert report.ratios([run("headrace", 1)], [run("bare", 1, p50_us=0)], "p50_us") == []


def test_summary_has_a_row_for_each_point_and_server():
    runs = [
        run("bare", 1, requests_per_s=200.0),
        run("headrace", 1, requests_per_s=150.0),
        run("headrace", 2, requests_per_s=90.0),
        run("bare", 2, requests_per_s=100.0),
        run("bare", 1, connections=64),
        rest("bare", 1),
    ]
    rows = report.summarize(runs, ["bare"])
    assert [(row["server"], row["scenario"], row["connections"], row["rounds"]) for row in rows] == [
        ("bare", "echo", 1, 2),
        ("headrace", "echo", 1, 2),
        ("bare", "echo", 64, 1),
        ("bare", "idle", 2000, 1),
    ]
    assert rows[1]["requests_per_s"] == {"median": 120.0, "low": 90.0, "high": 150.0}
    assert rows[1]["over_bare"]["requests_per_s"] == {"median": 0.825, "low": 0.75, "high": 0.9}
    assert "over_bare" not in rows[0]
    assert "requests_per_s" not in rows[3]


def test_summary_adds_up_errors_of_all_rounds():
    runs = [{**run("bare", 1), "errors": {"read": 1, "status": 2}}, {**run("bare", 2), "errors": {"read": 4}}]
    assert report.summarize(runs, [])[0]["errors"] == 7


@pytest.mark.parametrize(
    ("figure", "scale", "digits", "text"),
    [
        ({"median": 121000.4, "low": 118000.0, "high": 123000.0}, 1, 0, "121,000 (118,000..123,000)"),
        ({"median": 0.75, "low": 0.7, "high": 0.8}, 1, 2, "0.75 (0.70..0.80)"),
        ({"median": 15.5e6, "low": 15.5e6, "high": 15.5e6}, 1e6, 1, "15.5"),
        (None, 1, 0, "-"),
    ],
)
def test_figures_are_shown_with_their_range(figure, scale, digits, text):
    assert report.shown(figure, scale, digits) == text


def test_page_is_rendered_from_the_result_alone(tmp_path, capsys):
    runs = [run("bare", 1), run("headrace", 1, requests_per_s=75.0), rest("bare", 1), rest("headrace", 1)]
    path = tmp_path / "result.json"
    path.write_text(
        json.dumps(
            {
                "environment": {
                    "commit": "0123456789abcdef",
                    "is_modified": True,
                    "command": ["python", "-m", "bench.overhead"],
                    "cpu": "A CPU",
                    "cpus": 2,
                    "governor": None,
                    "system": "Linux",
                    "python": "3.11",
                    "packages": {"numpy": "2", "headrace": None},
                    "wrk": "4.1.0",
                },
                "settings": {"rounds": 1, "seconds": 4, "yardsticks": ["bare"]},
                "summary": report.summarize(runs, ["bare"]),
            }
        )
    )
    assert report.main([str(path)]) == 0
    page = capsys.readouterr().out
    assert "Commit 0123456789ab with changes." in page
    assert "| 1 | headrace | 75 | 50 | 60 | 70 | 8.0 | 15.0 | 0 |" in page
    assert "### over bare, round by round" in page
    assert "| echo | 1 | headrace | 0.75 | 1.00 | 1.00 |" in page
    assert "| headrace | 20 | 0.50 | 15.0 | 1,500 |" in page
    tables = [block.split("\n") for block in page.strip().split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1


def test_a_tree_holds_grandchildren_and_their_memory():
    inner = "import os; print(os.getpid(), flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        grandchild = int(process.stdout.readline())
        tree = procfs.tree(process.pid)
        assert {process.pid, grandchild} <= tree.keys()
        assert tree[grandchild].parent == process.pid
        assert os.getpid() not in tree
        assert procfs.pss_bytes(process.pid) > procfs.pss_bytes(grandchild) > 0
        assert procfs.title(grandchild).startswith(sys.executable[:57])
        process.stdin.write(b"\n")
        process.stdin.close()
    assert procfs.tree(process.pid) == {}


def test_scenarios_have_the_sizes_that_the_page_names_and_know_their_answers():
    scenarios = all_scenarios()
    assert len(scenarios["echo"].body) == 64
    assert 2500 < len(scenarios["mlp"].body) < 2700
    assert len(scenarios["tensor"].body) == 602_240
    scenarios["echo"].check(ECHO)
    for name in ("mlp", "tensor"):
        with pytest.raises(ValueError, match="predictions should be"):
            scenarios[name].check(b'{"predictions": [0]}')
