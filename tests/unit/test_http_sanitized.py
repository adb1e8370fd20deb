"""The parser in C under AddressSanitizer and UndefinedBehaviorSanitizer, each buffer flush against a guard page."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/corpus/http"
COMPILE = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'ext'}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def build(target: Path, *flags: str) -> Path:
    source = ROOT / "tests/native/http_driver.c"
    subprocess.run(["gcc", *COMPILE, *flags, str(source), "-o", str(target)], check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("http") / "driver", *SANITIZE)


def run(driver: Path, files: list[Path]) -> dict[str, tuple[int, str]]:
    """Requests and outcome by file name. The driver itself compares every split with the whole."""
    done = subprocess.run([driver, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(requests), outcome) for name, requests, outcome in rows}


def test_valid_corpus_is_accepted_at_every_split(driver: Path) -> None:
    expected = json.loads((CORPUS / "valid/expected.json").read_text())
    found = run(driver, sorted((CORPUS / "valid").glob("*.http")))
    assert found == {f"{name}.http": (len(requests), "ok") for name, requests in expected.items()}


def test_invalid_corpus_is_refused_at_every_split(driver: Path) -> None:
    expected = json.loads((CORPUS / "invalid/expected.json").read_text())
    found = run(driver, sorted((CORPUS / "invalid").glob("*.http")))
    wanted = {name: want if isinstance(want, list) else [0, want] for name, want in expected.items()}
    assert found == {f"{name}.http": (count, word) for name, (count, word) in wanted.items()}


def test_every_proper_prefix_of_a_request_is_incomplete(driver: Path, tmp_path: Path) -> None:
    whole = (CORPUS / "valid/chunked_extensions.http").read_bytes()
    files = []
    for length in range(1, len(whole)):
        files.append(tmp_path / f"{length}.http")
        files[-1].write_bytes(whole[:length])
    assert set(run(driver, files).values()) == {(0, "incomplete")}


def test_long_lines_and_heads_stop_at_their_limits(driver: Path, tmp_path: Path) -> None:
    # The fast scan of values takes eight bytes at a time: lengths around each multiple, at the edge of a page.
    files = []
    for length in [*range(40), *range(16370, 16400)]:
        files.append(tmp_path / f"{length}.http")
        files[-1].write_bytes(b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b"v" * length)
    found = run(driver, files[:40])
    assert set(found.values()) == {(0, "incomplete")}
    # Every split of 16 KiB at every offset is quadratic; a few of them show the edge.
    found = run(driver, [files[40 + 12], files[40 + 13]])
    assert found == {"16382.http": (0, "incomplete"), "16383.http": (0, "field_too_long")}


def test_the_guard_page_catches_an_over_read(tmp_path: Path) -> None:
    # What the tests above rely on: one byte too far is a crash, with the sanitizers and without.
    source = tmp_path / "over.h"
    source.write_text(
        "#include <stddef.h>\nstatic inline int look(const unsigned char *p, size_t n) { return p[n]; }\n"
    )
    driver = (ROOT / "tests/native/http_driver.c").read_text()
    broken = tmp_path / "broken.c"
    broken.write_text(
        driver.replace('#include "http.h"', '#include "http.h"\n#include "over.h"').replace(
            "    return place;", "    if (n > 3) turn ^= look(place, n) & 2;\n    return place;"
        )
    )
    subprocess.run(
        ["gcc", *COMPILE, f"-I{tmp_path}", str(broken), "-o", str(tmp_path / "broken")], check=True, timeout=120
    )
    request = tmp_path / "request.http"
    request.write_bytes(b"GET / HTTP/1.1\r\n\r\n")
    assert subprocess.run([tmp_path / "broken", request], capture_output=True, timeout=120).returncode < 0
