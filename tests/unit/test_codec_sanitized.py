"""The codecs in C under AddressSanitizer and UndefinedBehaviorSanitizer, each body flush against guard pages.

Every file of tests/corpus/codec is decoded whole, cut at every byte, and mutated. CODEC_FUZZ_ROUNDS says how many
mutations of each; `make fuzz-codecs` asks for many.
"""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from headrace import _codec

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/corpus/codec"
ROUNDS = os.environ.get("CODEC_FUZZ_ROUNDS", "300")
COMPILE = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'ext'}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def test_the_corpus_decodes_as_expected_and_no_mutation_harms(tmp_path: Path) -> None:
    driver, powers = tmp_path / "driver", tmp_path / "powers"
    source = ROOT / "tests/native/codec_driver.c"
    subprocess.run(["gcc", *COMPILE, *SANITIZE, str(source), "-o", str(driver)], check=True, timeout=120)
    powers.write_bytes(b"".join(struct.pack("<QQ", high, low) for _, high, low in _codec._powers_of_ten()))
    expected = json.loads((CORPUS / "expected.json").read_text())
    files = [CORPUS / name for name in expected]
    assert {path.name for path in CORPUS.iterdir()} == {*expected, "expected.json"}
    done = subprocess.run([driver, powers, ROUNDS, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {name: [outcome, int(count)] for name, outcome, count in rows} == expected
