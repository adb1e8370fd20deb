"""cli: words to settings, mistakes to exit status 2 with a message, and a quick start."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from headrace import cli, config

ENGINE = str(Path(headrace.__file__).parents[1])
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in os.environ:
        if name.startswith(("HEADRACE_", "SAGEMAKER_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()


def settings(*words):
    return cli.serve_settings(cli.build_parser().parse_args(["serve", *words]))


def test_one_flag_per_knob_and_the_flag_is_the_variable_s_name():
    names = {config.flag(name) for name in config.KNOBS}
    assert "--max-request" in names
    assert len(names) == len(config.KNOBS)
    assert names == {
        f"--{variable[9:].lower().replace('_', '-')}"
        for variable in (str(item.metadata["variable"]) for item in config.KNOBS.values())
    }


def test_flags_and_models_become_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_QUEUE", "7")
    monkeypatch.setenv("HEADRACE_TIMEOUT", "7s")
    found = settings("a=model", "--timeout", "250ms", "--max-request=2MiB", "--pin", "off")
    assert found.config.models == (config.ModelSpec("a", str(tmp_path / "model")),)
    assert (found.config.timeout_ms, found.config.max_request_bytes, found.config.queue) == (250, 2 << 20, 7)
    assert found.origin["timeout_ms"] == "--timeout"
    assert found.origin["queue"] == "HEADRACE_QUEUE"
    assert found.log_fields()["models"] == "a (from the command line)"


def test_a_store_and_its_models(tmp_path):
    found = settings("--model-store", str(tmp_path), "--models", "x=model", "--port", "0")
    assert (found.config.model_store, found.config.models[0].name) == (str(tmp_path), "x")


def test_sagemaker_s_layout_turns_sagemaker_mode_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    found = settings()
    assert (found.config.sagemaker, found.config.host, found.config.single_port) == (True, "0.0.0.0", True)
    assert found.origin["sagemaker"] == found.origin["models"] == str(tmp_path / "model")


def test_models_named_by_hand_leave_sagemaker_mode_off(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    assert not settings("a=model").config.sagemaker


def test_mistakes_in_models_and_settings_are_told_together(capsys, tmp_path):
    assert cli.main(["serve", "a=absent", "--port", "high"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "headrace: cannot start:",
        f"  model a: {tmp_path}/absent: no such file or directory",
        "  --port='high' must be a whole number",
    ]


@pytest.mark.parametrize("words", [["fly"], ["serve", "--prot", "1"], ["serve", "--por", "1"], ["serve", "--port"], []])
def test_usage_mistakes_end_with_2_and_show_the_usage(capsys, words):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: headrace")


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["--version"], ["serve", "--version"], ["-V"]])
def test_help_and_version_end_with_0(capsys, words):
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == f"headrace {headrace.__version__}\n" or out.startswith("usage: headrace")


def test_help_shows_each_flag_with_its_default(capsys):
    cli.main(["serve", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(f" {config.flag(name)} " in out for name in config.KNOBS)
    assert "[default: 80%]" in out


def test_the_version_is_the_distribution_s():
    text = PYPROJECT.read_text()
    fixed = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert fixed is None or fixed[1] == headrace.__version__
    assert fixed is not None or 'attr = "headrace.__version__"' in text


def run(*words, code=None):
    command = ["-c", code] if code else ["-m", "headrace", *words]
    environ = {**os.environ, "PYTHONPATH": ENGINE}
    return subprocess.run(
        [sys.executable, *command], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_as_a_module_it_is_the_command():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"headrace {headrace.__version__}\n", "")
    done = run("serve", "a=absent")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "code", ["import headrace", "import headrace.cli; headrace.cli.main(['--version'])"], ids=["package", "version"]
)
def test_neither_the_package_nor_the_version_draws_in_anything_heavy(code):
    """Start-up time is what imports cost, so the imports are counted rather than the time."""
    heavy = "{'numpy', 'asyncio', 'uvloop', 'orjson', 'psutil', 'argparse', 'dataclasses', 'inspect', 'logging'}"
    done = run(code=f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_attribute_that_does_not_exist():
    with pytest.raises(AttributeError, match="Modle"):
        _ = headrace.Modle
    assert headrace.InferenceError(404, "x").status == 404
    assert {"Model", "Request", "Response", "InferenceError"} <= set(dir(headrace))
