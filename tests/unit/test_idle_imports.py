"""What processes that only wait may not have imported: each MiB that they hold is there for as long as the server."""

import subprocess
import sys

from headrace import cli, warden

SHOWN = "import sys; print(*sorted(sys.modules))"
SUPERVISOR = """
import os, signal, sys
from headrace import cli, example

def show(config, url):
    print(*sorted(sys.modules))
    os.kill(os.getpid(), signal.SIGTERM)

example.show = show
sys.exit(cli.main(["serve", "--port", "0", "--workers", "1", "--log-level", "WARNING"]))
"""
# Of the standard library, and ours: what only a load, a download, an archive, a question or a command needs.
HEAVY = "email http tarfile zipfile tempfile hashlib hmac secrets random psutil xml fractions decimal stringprep"
OURS = "archive fetch openapi console client client_commands bench_command loadgen loaders template worker"


def modules(code: str, *options: str, **variables: str) -> set[str]:
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": "", **variables})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def unwanted(found: set[str], ours: str, names: str) -> list[str]:
    tops = {name.partition(".")[0] for name in found}
    return sorted(tops & set(names.split()) | found & {f"headrace.{name}" for name in ours.split()})


def test_supervisor_that_waits_has_imported_nothing_for_loads_and_questions():
    found = modules(SUPERVISOR, SAGEMAKER_MULTI_MODEL="true")
    assert "headrace.supervisor" in found
    assert unwanted(found, OURS, HEAVY) == []


def test_frontend_has_imported_nothing_for_loads_and_questions():
    found = modules(f"import headrace.frontend; {SHOWN}")
    assert "headrace._frontend" in found
    assert unwanted(found, f"{OURS} supervisor deployment", HEAVY) == []


def test_warden_imports_next_to_nothing():
    code = f"exec(compile(open({warden.__file__!r}).read(), 'warden.py', 'exec'), {{'__name__': 'warden'}}); {SHOWN}"
    assert modules(code, "-I", "-S") == modules(f"import _signal, os, time; {SHOWN}", "-I", "-S")


def test_parser_of_a_server_reads_what_the_whole_one_does():
    words = ["serve", "--port", "1", "a=b"]
    assert vars(cli.build_parser(serves_only=True).parse_args(words)) == vars(cli.build_parser().parse_args(words))
