"""The regression guard: what it reads in a dump, and what it calls grown."""

import json

import pytest

from bench import guard

DUMP = """version: 1
creator: callgrind-3.19.0
desc: Trigger: Client Request: parse_head
positions: line
events: Ir

fl=ext/http.h
fn=http_parse_head
10 2000
11 400
cfi=libc.c
cfn=memcpy
calls=100 5
12 70000

fl=libc.c
fn=memcpy
5 70000

totals: 72400
"""


def test_own_instructions_of_each_function(tmp_path):
    (tmp_path / "out.1").write_text(DUMP)
    name, counts = guard.read(tmp_path / "out.1")
    assert name == "parse_head"
    assert counts == {"instructions": 724, "functions": {"memcpy": 700, "http_parse_head": 24}}


def counts(instructions, **functions):
    return {"parse_head": {"instructions": instructions, "functions": functions}}


@pytest.mark.parametrize(("now", "grown"), [(1049, []), (1050, []), (1051, ["parse_head"]), (500, [])])
def test_growth_beyond_five_per_cent_is_one(now, grown):
    assert guard.compare(counts(1000, scan=900), counts(now, scan=900))[1] == grown


def test_the_functions_that_grew_are_named_the_worst_first():
    lines, _ = guard.compare(counts(1000, scan=500, copy=100, same=400), counts(1500, scan=600, copy=480, same=410))
    assert [line.strip() for line in lines[2:4]] == ["copy: 100 -> 480", "scan: 500 -> 600"]
    assert not any("same" in line for line in lines)


def test_an_operation_without_a_committed_count_is_new():
    lines, grown = guard.compare({}, counts(10))
    assert (grown, "new" in lines[1]) == ([], True)


def test_each_operation_has_a_committed_count():
    assert set(json.loads(guard.COUNTS.read_text())["operations"]) == set(guard.OPERATIONS)
