"""tally.h, compiled by itself under AddressSanitizer and UndefinedBehaviorSanitizer: its driver checks every bucket."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILE = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_values_fall_into_their_buckets_and_lies_into_none(tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    source = ROOT / "tests/native/tally_driver.c"
    subprocess.run(["gcc", *COMPILE, f"-I{ROOT / 'ext'}", str(source), "-o", str(driver)], check=True, timeout=120)
    subprocess.run([driver], check=True, timeout=120)
