"""`import mms` in processes that are not ours: found when nothing else bears the name, and only then."""

import os
import subprocess
import sys

import pytest

LINE = "import headrace.stand_in; headrace.stand_in.install('mms')\n"


@pytest.fixture
def run(tmp_path):
    """run(code) of a fresh interpreter -> its output."""

    def start(code):
        done = subprocess.run(
            [sys.executable, "-c", LINE + code],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return start


def test_names_that_handlers_import(run):
    code = (
        "from mms.service import PredictionException, Service, emit_metrics\n"
        "from mms.context import Context, RequestProcessor\n"
        "from mms.metrics.metrics_store import MetricsStore\n"
        "import mms, mms.metrics.unit, headrace.mms.service\n"
        "print(mms.__version__, mms.service is headrace.mms.service, mms.service.__spec__.name)\n"
    )
    assert run(code) == "1.1.11 True headrace.mms.service"


def test_an_installed_package_comes_first(run, tmp_path):
    (tmp_path / "mms").mkdir()
    (tmp_path / "mms" / "__init__.py").write_text("WHOSE = 'the user'\n")
    assert run("import mms; print(mms.WHOSE)") == "the user"


def test_what_is_not_there_is_not_found(run):
    code = (
        "for name in ('ts', 'mms.nothing'):\n    try: __import__(name)\n    except ImportError as error: print(error)\n"
    )
    assert run(code).splitlines() == ["No module named 'ts'", "No module named 'mms.nothing'"]


def test_it_costs_an_interpreter_little(run):
    assert (
        run("import sys; print([name for name in ('numpy', 'asyncio', 'headrace.mms') if name in sys.modules])") == "[]"
    )
