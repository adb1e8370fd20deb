"""ring.h itself under load: between threads that ThreadSanitizer watches, and between processes of which one is killed.

Stress is no proof of ordering (test_ring_model.py is); it shows that the C text does what the model says of it.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
# ThreadSanitizer sees a memcpy only as a call. It knows no fences (-Wtsan), and the order of entries hangs on none.
WATCHED = ("-O1", "-g", "-fsanitize=thread", "-fno-builtin-memcpy", "-Wno-tsan")
SEED = 20240229


def run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles ring_stress.c with the given options and returns the program's path."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("ring_stress")
    built = {}

    def compiled(*options: str) -> Path:
        if options not in built:
            program = folder / f"ring_stress{len(built)}"
            warnings = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'ext'}")
            done = run(COMPILER, *warnings, *options, ROOT / "tests/native/ring_stress.c", "-o", program, "-pthread")
            assert done.returncode == 0, done.stderr
            built[options] = program
        return built[options]

    return compiled


@pytest.fixture(scope="module")
def watched(build, tmp_path_factory):
    """The same, with ThreadSanitizer."""
    source = tmp_path_factory.mktemp("sanitizer") / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    if COMPILER is None or run(COMPILER, "-fsanitize=thread", source, "-o", source.with_suffix("")).returncode:
        pytest.skip("the compiler has no ThreadSanitizer run time")
    if (done := run(source.with_suffix(""))).returncode:
        pytest.skip(f"ThreadSanitizer does not run here: {done.stderr.strip()[:200]}")
    return lambda *options: build(*WATCHED, *options)


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", done.stdout)}


@pytest.mark.parametrize("producers", [1, 2])
def test_streams_between_threads_without_a_race(watched, producers):
    found = counts(run(watched(), "stream", producers, 40_000, SEED))
    assert found["taken"] == producers * 40_000
    assert 0 < found["wakes"] <= found["parks"]


def test_the_sanitizer_would_see_a_missing_acquire(watched):
    done = run(watched("-DWEAK"), "stream", 1, 40_000, SEED)
    assert done.returncode == 66
    assert "data race" in done.stderr


@pytest.mark.parametrize("producers", [1, 2])
def test_streams_between_threads_at_full_speed(build, producers):
    found = counts(run(build("-O2"), "stream", producers, 200_000, SEED))
    assert found["taken"] == producers * 200_000
    assert 0 < found["wakes"] <= found["parks"]


def test_whoever_survives_a_kill_finds_whole_entries_and_goes_on(build):
    found = counts(run(build("-O2"), "killed", 200, SEED))
    assert found["rounds"] == 200
    assert found["taken"] > 1000
    assert found["pushed"] > 1000
