"""C programs of the benchmarks, compiled when they are needed."""

import os
import subprocess
from pathlib import Path

from bench.errors import BenchError

BUILD = Path(__file__).parents[1] / "build" / "bench"


def compiled(source: Path, *flags: str) -> Path:
    """The program or library, made anew when its source is newer. BenchError has what the compiler says."""
    program = BUILD / source.stem
    BUILD.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in (source, *_headers(flags)))
    if not program.exists() or program.stat().st_mtime < newest:
        compiler = os.environ.get("CC", "cc").split()
        words = [*compiler, "-O2", "-g1", "-Wall", "-Wextra", *flags, "-o", str(program), str(source)]
        try:
            done = subprocess.run(words, capture_output=True, text=True)
        except FileNotFoundError:
            raise BenchError(f"{compiler[0]} not found: {source.name} needs a C compiler") from None
        if done.returncode:
            raise BenchError(f"{' '.join(words)} failed:\n{done.stderr}")
    return program


def _headers(flags: tuple[str, ...]) -> list[Path]:
    return [header for flag in flags if flag.startswith("-I") for header in Path(flag[2:]).glob("*.h")]
