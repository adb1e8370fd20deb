"""What the benchmarks need and make when it is needed: C programs, a certificate."""

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


def certificate_and_key() -> tuple[Path, Path]:
    """PEM files for 127.0.0.1, signed by itself, of RSA 2048 as the JVM's servers take it too."""
    certificate, key = BUILD / "certificate.pem", BUILD / "key.pem"
    if not (certificate.exists() and key.exists()):
        BUILD.mkdir(parents=True, exist_ok=True)
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=127.0.0.1"]
        try:
            done = subprocess.run(
                [*words, "-keyout", str(key), "-out", str(certificate)], capture_output=True, text=True
            )
        except FileNotFoundError:
            raise BenchError("openssl, which makes the certificate, is not here: apt-get install openssl") from None
        if done.returncode:
            raise BenchError(f"openssl failed:\n{done.stderr[-1000:]}")
    return certificate, key
