"""The comparison with other servers: what is still to do, the page, and that every rival is asked the same work."""

import json

import pytest

from bench import compare, compare_page
from bench.peers.catalogue import PEERS
from bench.peers.install import version
from bench.scenarios import all_scenarios


def run(server, index, rate, p99=100, cpu=10.0):
    return {
        "round": index,
        "server": server,
        "scenario": "echo",
        "connections": 64,
        "errors": {},
        "requests_per_s": rate,
        "p50_us": 50,
        "p99_us": p99,
        "p999_us": 200,
        "cpu_us_per_request": cpu,
        "pss_bytes": 5e6,
        "start_ms": 1.0,
    }


def test_a_campaign_goes_on_where_it_stopped_and_turns_the_order():
    assert compare.due([], ["a", "b"], 2) == [(1, "a"), (1, "b"), (2, "b"), (2, "a")]
    assert compare.due([run("a", 1, 1.0), run("b", 2, 1.0)], ["a", "b"], 2) == [(1, "b"), (2, "a")]


def test_figures_of_other_settings_are_not_mixed_in(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"settings": {"seconds": 9}, "runs": []}))
    with pytest.raises(compare.BenchError, match="--fresh"):
        compare._begin(compare._parse(["--output", str(path)]))


@pytest.mark.parametrize("words", [["--points", "echo"], ["--points", "no:1"], ["--servers", "x"], ["--rounds", "0"]])
def test_wrong_words_are_named(words, capsys):
    with pytest.raises(SystemExit):
        compare._parse(words)
    assert words[1] in capsys.readouterr().err


def test_the_page_has_ours_over_the_best_rival_of_each_figure():
    kinds = ("cpu", "system", "python", "wrk")
    result = {
        "environment": {**dict.fromkeys(kinds, "x"), "cpus": 2, "load_average": 0.5, "commit": None, "command": []},
        "settings": {"seconds": 2, "points": [["echo", 64]], "peers": {"m": {"version": "1", "settings": "as is"}}},
        "absent": {"gone": "java is not here"},
        "runs": [run("headrace", 1, 900.0, 50, 5.0), run("m", 1, 100.0), run("n", 1, 50.0, 25), run("floor", 1, 9e9)],
    }
    page = compare_page.render(result)
    assert "| echo | 64 | 9.00x m | 2.00x n | 0.50x m |" in page
    assert "| gone | java is not here |" in page
    assert page.index("| floor |") < page.index("| headrace | 900 |") < page.index("| m | 100 |")


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_a_rival_is_pinned_and_can_be_told_every_scenario(peer):
    assert version(peer)
    scenarios = [scenario for scenario in all_scenarios().values() if scenario.model not in peer.refuses]
    server = peer.server([scenario.model for scenario in scenarios])
    assert server.name == peer.name
    assert server.command(20_000, 20_001)
    for scenario in scenarios:
        ask = server.ask(scenario)
        assert scenario.model in ask.target
        assert scenario.model == "call" or scenario.body in ask.body
