"""What the server remembers of its models."""

import json

from headrace.history import History


def test_records_are_plain_json_oldest_first_and_can_be_asked_for_one_model() -> None:
    kept = History()
    kept.note("loaded", "a", "registered", 100, took_ms=3)
    kept.note("evicted", "a", "to make room for b", 100, resident_s=2.5, idle_s=None)
    kept.note("loaded", "b")
    assert [(record["event"], record["model"]) for record in kept.records()] == [
        ("loaded", "a"),
        ("evicted", "a"),
        ("loaded", "b"),
    ]
    evicted = json.loads(json.dumps(kept.records("a")))[1]
    assert evicted.pop("time") > 1.7e9
    assert evicted == {
        "event": "evicted",
        "model": "a",
        "reason": "to make room for b",
        "bytes": 100,
        "resident_s": 2.5,
        "idle_s": None,
    }


def test_only_the_latest_are_kept() -> None:
    kept = History(most=3)
    for number in range(10):
        kept.note("loaded", f"m{number}")
    assert [record["model"] for record in kept.records()] == ["m7", "m8", "m9"]
