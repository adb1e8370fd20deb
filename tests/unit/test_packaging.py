"""What pyproject.toml, the sdist and the Makefile promise: what is imported is declared, what is tracked is shipped."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

import headrace

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "engine"
PEERS = {  # what runs in environments of their own (bench/peers/)
    "bentoml",
    "fastapi",
    "litserve",
    "mlserver",
    "mosec",
    "pytriton",
    "ray",
    "starlette",
    "triton_python_backend_utils",
}
OURS = {"headrace", "bench", "tests"}
STAND_INS = {"mms", "ts"}  # names that model code imports and that Headrace answers for
# Imported where they are, and no condition for running: what a model may use, what stands in for an older Python.
OPTIONAL = {
    "aiohttp": "simulate",
    "backports": "zstd",
    "cryptography": "keystore",
    "matplotlib": "bench",
    "opentelemetry": "otel",
    "rich": "top",
    "scipy": "test",
    "sklearn": "train",
}


def project():
    """The requirements of pyproject.toml by extra, `` for those of every user, as {name: specifier}."""
    found: dict[str, dict[str, str]] = {}
    for line in metadata.requires("headrace") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r'extra == "([^"]+)"', marker)
        name, specifier = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?\s*(.*)", requirement.strip()).groups()
        found.setdefault(extra[1] if extra else "", {})[normal(name)] = specifier
    return found


def normal(name):
    """Of names that pip holds to be the same, the one in lower case and with dashes (packaging.python.org, names)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def foreign_imports(folder):
    """Top-level packages that the files of a folder import: not ours, nor Python's, nor a file beside them."""
    found = set()
    for path in [*folder.rglob("*.py"), *folder.rglob("*.pyx")]:
        text = path.read_text()
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
        else:
            pairs = re.findall(r"^\s*(?:import\s+(\w+)|from\s+(\w+)\S*\s+import\b)", text, re.MULTILINE)
            found |= {one or other for one, other in pairs}
    beside = {path.stem for path in folder.rglob("*.py")} | {path.stem for path in folder.rglob("*.pxd")}
    return found - set(sys.stdlib_module_names) - OURS - STAND_INS - beside


def distributions(modules):
    """The distribution that each of these packages comes from; the package's own name where it is not installed."""
    homes = metadata.packages_distributions()
    return {module: {normal(name) for name in homes.get(module, [module])} for module in modules}


@pytest.mark.parametrize(
    ("folder", "extras"), [("engine", ("",)), ("ext", ("",)), ("bench", ("", "test")), ("tests", ("", "test"))]
)
def test_all_that_is_imported_is_declared(folder, extras):
    declared = {name for extra in extras for name in project().get(extra, {})}
    optional = {name for name, extra in OPTIONAL.items() if extra in project()}
    modules = foreign_imports(ROOT / folder) - optional - PEERS - {"tomllib", "tomli"}
    assert modules or folder == "ext"
    missing = {module for module, names in distributions(modules).items() if not names & declared}
    assert missing == set()


def test_all_that_is_declared_for_every_user_is_imported():
    homes = distributions(foreign_imports(ENGINE) | foreign_imports(ROOT / "ext"))
    used = {name for names in homes.values() for name in names}
    assert set(project()[""]) - used - {"tomli"} == set()


def test_each_requirement_of_a_user_has_a_lower_bound():
    """`make test-lowest` installs just these and runs the suite."""
    assert {name: bound for name, bound in project()[""].items() if not re.match(r">=\d", bound)} == {}


def test_the_version_has_one_source():
    assert metadata.version("headrace") == headrace.__version__
    assert "version =" not in (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[0]


def test_each_extension_has_its_types():
    extensions = {f"_{path.stem}.pyi" for path in (ROOT / "ext").glob("*.pyx")}
    assert extensions == {path.name for path in (ENGINE / "headrace").glob("_*.pyi")}


def test_the_sdist_has_all_that_is_tracked(tmp_path):
    """So it builds, and its tests run: tests/e2e/test_dockerfile.py builds from a part of it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = ["egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")},
    )
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("headrace-*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    absent = {name for name in tracked.split("\0") if name and (ROOT / name).exists()} - held
    assert absent == set()
    assert not [name for name in held if name.endswith((".so", ".pyc")) or name.startswith("build/")]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
class TestMake:
    def make(self, *words, path=os.environ["PATH"], cwd=ROOT):
        environment = {"PATH": str(path), "HOME": os.environ.get("HOME", "/")}
        command = [shutil.which("make"), "--no-print-directory", *words]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)

    def test_help_names_every_target(self):
        text = (ROOT / "Makefile").read_text()
        targets = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()) - {"help"}
        done = self.make("help")
        assert targets == set(re.findall(r"^make (\S+) ", done.stdout, re.MULTILINE))

    @pytest.fixture
    def bare(self, tmp_path):
        """A PATH with a Python that has all, and a copy of the Makefile; tests take away from it."""
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in ("sh", "cat", "rm", "test", "touch", "echo"):
            (tools / name).symlink_to(shutil.which(name))
        (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (tools / "python3").chmod(0o755)
        shutil.copy(ROOT / "Makefile", tmp_path)
        return tmp_path

    def refusal(self, bare, *words):
        done = self.make(*words, path=bare / "bin", cwd=bare)
        assert done.returncode != 0
        said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
        assert len(said) == 1, done.stderr
        return said[0]

    def fake(self, bare, name, script):
        (bare / "bin" / name).unlink(missing_ok=True)
        (bare / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (bare / "bin" / name).chmod(0o755)

    def test_no_compiler(self, bare):
        assert "no C compiler (cc)" in self.refusal(bare, ".venv/.made")

    def test_no_python(self, bare):
        (bare / "bin/python3").unlink()
        assert "python3 not found" in self.refusal(bare, ".venv/.made")

    def test_a_shim_without_a_python_behind_it(self, bare):
        self.fake(bare, "python3", "echo 'pyenv: python3: command not found' >&2; exit 127")
        assert "python3 does not run" in self.refusal(bare, ".venv/.made")

    @pytest.mark.parametrize(
        ("lacks", "says"),
        [
            ("version_info", "python3 is older than 3.10"),
            ("implementation", "python3 is not CPython"),
            ("ensurepip", "python3 has no venv"),
            ("Python.h", "Python.h not found"),
        ],
    )
    def test_a_python_that_lacks_something(self, bare, lacks, says):
        self.fake(bare, "cc", "exit 0")
        self.fake(bare, "python3", f'case "$*" in *{lacks}*) exit 1;; esac; exec {sys.executable} "$@"')
        assert says in self.refusal(bare, ".venv/.made")

    def test_no_load_generator(self, bare):
        assert "no wrk" in self.refusal(bare, "bench")

    def test_a_virtual_environment_of_another_folder_is_made_again(self, bare):
        (bare / ".venv").mkdir()
        (bare / ".venv/.made").write_text("/elsewhere\n")
        (bare / ".venv/.installed").touch()
        assert "no C compiler" in self.refusal(bare, "run")
