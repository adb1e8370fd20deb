"""The comparison with other servers: what is still to do, the page and its pictures, that every rival is asked the same
work, and what is measured at each kind of point."""

import json
from pathlib import Path

import pytest

from bench import compare, compare_page, measures, plots, points, servers, work
from bench.peers.catalogue import PEERS
from bench.peers.install import version
from bench.points import Point
from bench.scenarios import MANY, all_scenarios, mixes
from bench.servers import Setup

ROOT = Path(__file__).parents[2]


def run(server, index, rate, p99=100, cpu=10.0, scenario="echo", connections=64, **more):
    return {
        "round": index,
        "server": server,
        "scenario": scenario,
        "connections": connections,
        "errors": {},
        "requests_per_s": rate,
        "p50_us": 50,
        "p99_us": p99,
        "p999_us": 200,
        "cpu_us_per_request": cpu,
        "generator_us_per_request": 7.0,
        "pss_bytes": 5e6,
        "start_ms": 1.0,
        **more,
    }


def result(*runs, points=("echo:64",), **more):
    kinds = ("cpu", "system", "python", "wrk")
    return {
        "environment": {**dict.fromkeys(kinds, "x"), "cpus": 2, "load_average": 0.5, "commit": None, "command": []},
        "settings": {"seconds": 2, "peers": {"m": {"version": "1", "settings": "as is"}}},
        "points": list(points),
        "absent": {},
        "failed": [],
        "took": [],
        "runs": list(runs),
        **more,
    }


def test_a_campaign_goes_on_where_it_stopped_and_turns_the_order():
    echo, tls = Point("echo", 64), Point("tls", 64)
    assert compare.due(result(), ["a", "b"], [echo, tls], 2) == [
        *((1, "a", [echo]), (1, "b", [echo]), (1, "a", [tls]), (1, "b", [tls])),
        *((2, "b", [echo]), (2, "a", [echo]), (2, "b", [tls]), (2, "a", [tls])),
    ]
    assert compare.due(result(run("a", 1, 1.0), run("b", 2, 1.0)), ["a", "b"], [echo], 2) == [
        (1, "b", [echo]),
        (2, "a", [echo]),
    ]


def test_what_failed_or_cannot_be_is_not_due_and_a_new_point_of_a_setup_is():
    echo, mlp, cold = Point("echo", 64), Point("mlp", 64), Point("cold", 3)
    failed = [{"round": 1, "server": "mosec", "scenario": "mlp", "connections": 64, "reason": "fell over"}]
    before = result(run("mosec", 1, 1.0), failed=failed)
    assert compare.due(before, ["mosec"], [echo, mlp, cold], 2) == [(2, "mosec", [echo, mlp])]
    assert compare.due(before, ["mosec"], [echo, Point("tensor", 1)], 1) == [(1, "mosec", [Point("tensor", 1)])]


def test_a_slice_expects_what_a_server_took_before():
    before = result(took=[{"server": "a", "setup": "tls", "took_s": 9.0}, {"server": "a", "setup": "tls", "took_s": 4}])
    assert compare.expected_s(before, "a", [Point("tls", 64)]) == 9.0
    assert compare.expected_s(before, "a", [Point("echo", 64)]) == compare.UNKNOWN_S


def test_figures_of_other_settings_are_not_mixed_in(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"settings": {"seconds": 9}, "runs": []}))
    with pytest.raises(compare.BenchError, match="--fresh"):
        compare._begin(compare._parse(["--output", str(path)]))


def test_a_result_is_read_as_it_was_written(tmp_path):
    whole = result(run("a", 1, 1.0), run("b", 1, 2.0))
    compare.write(whole, tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "words",
    [
        *(["--points", "echo"], ["--points", "no:1"], ["--points", "mortal:1"], ["--points", "echo:0"]),
        *(["--points", "echo:64@50%"], ["--points", "mixed:16,mixed:16@50%"], ["--servers", "x"], ["--rounds", "0"]),
    ],
)
def test_wrong_words_are_named(words, capsys):
    with pytest.raises(SystemExit):
        compare._parse(words)
    assert words[1].split(",")[-1] in capsys.readouterr().err


def test_points_of_one_setup_share_a_server():
    words = "echo:64,tls:64,echo:64@80%,memory:2,cold:3,crash:4,many:8,mixed:16"
    groups = points.by_setup(points.parse(word) for word in words.split(","))
    assert {name: [str(point) for point in group] for name, group in groups.items()} == {
        "plain": ["echo:64", "echo:64@80%", "mixed:16"],
        **{name.partition(":")[0]: [name] for name in ("tls:64", "cold:3", "crash:4", "many:8")},
        "memory:2": ["memory:2"],
    }
    assert points.setup_for(groups["plain"]) == Setup(("echo", "pages"))
    assert points.setup_for(groups["tls"]) == Setup(("echo",), is_encrypted=True)
    assert points.setup_for(groups["memory:2"]) == Setup(("mlp-0", "mlp-1"))
    assert len(points.setup_for(groups["many"]).models) == MANY


def test_the_page_has_ours_over_the_best_rival_of_each_figure_and_over_each():
    page = compare_page.render(
        result(
            *(run("headrace", 1, 900.0, 50, 5.0), run("m", 1, 100.0), run("n", 1, 50.0, 25), run("floor", 1, 9e9)),
            absent={"gone": "java is not here"},
        )
    )
    assert "| echo | 64 | 9.00x m | 2.00x n | 0.50x m | 90000000.00x |" in page
    assert "| n | 18.0x (2.0x) |" in page
    assert "| headrace | 200,000 |" in page
    assert "| gone | all | java is not here |" in page
    assert page.index("| floor | 9,") < page.index("| headrace | 900 |") < page.index("| m | 100 |")


def test_the_page_tells_what_a_further_model_costs_and_what_a_death_does():
    memory = [
        run(server, 1, 1.0, scenario="memory", connections=count, pss_bytes=bytes_)
        for server, count, bytes_ in (
            *(("headrace", 1, 50e6), ("headrace", 11, 54e6), ("m", 1, 90e6), ("m", 11, 490e6)),
        )
    ]
    crash = run("m", 1, 5.0, scenario="crash", connections=16, failed=3, silence_ms=800, is_back=True)
    page = compare_page.render(result(*memory, crash, points=("memory:1", "memory:11", "crash:16")))
    assert "| headrace | 50 | 54 | 400 | 1x | 128 |" in page
    assert "| m | 90 | 490 | 40,000 | 100x | 39,728 |" in page
    assert "| m | 3 | 800 | 5 | 1 of 1 |" in page


def test_the_committed_page_and_pictures_are_of_the_committed_result():
    committed = json.loads(compare_page.RESULT.read_text())
    assert compare_page.PAGE.read_text() == compare_page.render(committed), "run python -m bench.compare_page"
    assert plots.stale(committed, compare_page.PAGE.with_suffix("")) == [], "run python -m bench.compare_page"


def test_pictures_are_drawn_the_same_twice_and_anew_when_a_figure_changes(tmp_path):
    pytest.importorskip("matplotlib")
    percentiles = {"50": 10.0, "99": 90.0, "99.99": 500.0, "100": 900.0}
    runs = [
        *(run("headrace", 1, 900.0), run("m", 1, 100.0), run("floor", 1, 2e3)),
        *(run(name, 1, 80.0, scenario="echo@80%", percentiles_us=percentiles) for name in ("headrace", "m")),
        *(run("m", 1, 80.0, scenario="memory", connections=count, pss_bytes=count * 1e6) for count in (1, 10)),
        *(run("m", 1, 80.0, scenario=name) for name in ("1kb", "large")),
    ]
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        plots.draw(result(*runs), folder)
    assert sorted(path.stem for path in once.iterdir()) == sorted(plots.FIGURES)
    for path in once.iterdir():
        assert path.read_bytes() == (twice / path.name).read_bytes()
    assert plots.stale(result(*runs), once) == []
    assert plots.stale(result(*runs, run("m", 2, 300.0)), once) == ["throughput"]


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_a_rival_is_pinned_and_can_be_told_every_scenario(peer):
    assert version(peer)
    assert set(peer.refuses) <= set(points.KNOWN)
    scenarios = [scenario for name, scenario in all_scenarios().items() if name not in peer.refuses]
    scenarios += [part for mix in mixes().values() for part, _ in mix.parts]
    server = peer.server(Setup(tuple(dict.fromkeys(scenario.model for scenario in scenarios))))
    assert server.name == peer.name
    assert server.command(20_000, 20_001)
    for scenario in scenarios:
        ask = server.ask(scenario)
        assert scenario.model in ask.target
        assert scenario.model == "call" or scenario.body in ask.body
    if "cold" not in peer.refuses:
        ask = server.load("mlp-99")
        assert "mlp-99" in ask.target


def test_work_has_a_model_for_each_scenario_and_a_copy_has_weights_of_its_own():
    for scenario in all_scenarios().values():
        scenario.check(bytes(work.answer(f"{scenario.model}-7")(scenario.body)))
    assert work.ARRAYS["mlp"]().w1 is not work.ARRAYS["mlp"]().w1


def test_a_mix_is_measured_in_both_loops_and_its_answers_are_checked():
    before = [{"scenario": "mixed", "connections": 4, "requests_per_s": 400.0}]
    with servers.bare().running() as running:
        closed = measures._closed_loop(running, Point("mixed", 4), 1)
        opened = measures._open_loop(running, Point("mixed", 4, 50), 1, measures._capacity(Point("mixed", 4), before))
    assert closed["requests_per_s"] > 0
    assert closed["cpu_us_per_request"] > 0 < closed["generator_us_per_request"]
    assert opened["planned_per_s"] == 200.0
    assert opened["errors"] == closed["errors"] == {}
    assert opened["percentiles_us"]["50"] <= opened["percentiles_us"]["99"] <= opened["percentiles_us"]["100"]


def test_a_server_that_answers_wrongly_is_no_result():
    wrong = servers.Server("wrong", servers.bare().command)
    with wrong.running() as running, pytest.raises(compare.BenchError, match=r"wrong, mixed: .*the answer is"):
        measures._check(running, Point("mixed", 4).load)


def test_models_are_counted_in_memory_and_loaded_while_the_server_runs():
    (memory,) = compare.measure("headrace", [Point("memory", 2)], 1, [])
    assert memory["pss_bytes"] > 1e6
    (cold,) = compare.measure("headrace", [Point("cold", 2)], 1, [])
    assert 0 < cold["load_ms"] <= cold["load_max_ms"]


def test_a_death_under_load_is_seen(monkeypatch):
    monkeypatch.setattr(measures, "CRASH_S", 2)
    monkeypatch.setattr(measures, "CRASH_AT_S", 0.3)
    (crash,) = compare.measure("headrace", [Point("crash", 4)], 1, [])
    assert crash["is_back"]
    assert crash["failed"] == 0, "what a worker had is delivered again"
    assert 0 < crash["silence_ms"] < 2000
