"""Imports point down only. Every module of the package belongs to one side; a new one is entered here."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "engine" / "headrace"
EXT = ROOT / "ext"

# side: (its modules or packages, the sides that it may import, foreign packages that it may not import)
MODEL_LIBRARIES = "numpy scipy pandas sklearn torch tensorflow xgboost joblib"
SIDES = {
    "roots": (
        "errors log units machine parsers config settings metrics counts labels affinity control media model_settings "
        "processes archive keystore last_errors manifest stand_in surroundings footprint output weight_store",
        "roots",
        MODEL_LIBRARIES,
    ),
    "loops": ("control_async", "roots loops", MODEL_LIBRARIES),
    "frontend": ("frontend access_log tracing handover", "roots loops frontend", MODEL_LIBRARIES),
    "worker": (
        "worker template batcher loaders model request namespace native tuner answers handler script mms multipart "
        "compression npz npz_file safetensors weights warm_up",
        "roots worker",
        "asyncio uvloop",
    ),
    "supervisor": (
        "supervisor watchdog children deployment fetch listeners management nursery openapi parameters frontends "
        "workers registry placement artifact archives health quarantine access budget admission eviction history "
        "lifeline warden scrape scaling resizing running_settings worker_output explain overview shared_weights "
        "console lanes routing",
        "roots loops supervisor",
        MODEL_LIBRARIES,
    ),
    "commands": (
        "cli __main__ model_server server_file properties example startup_models settings_table client_commands "
        "top_command settings_file settings_command",
        "roots supervisor clients simulator commands",
        MODEL_LIBRARIES,
    ),
    "clients": (
        "loadgen client bench_command bench_report rates top",
        "roots clients",
        "scipy pandas sklearn torch tensorflow xgboost joblib",
    ),
    "simulator": ("simulate", "roots clients simulator", MODEL_LIBRARIES),
    "package": ("__init__", "roots worker", f"{MODEL_LIBRARIES} asyncio uvloop"),
}
PUBLIC = {"Model", "Request", "Response", "InferenceError"}  # names of the package itself rather than modules
DATA = {"digits", "console_page"}  # the bundled model: user code, imported by nobody; the console's files


def modules() -> dict[str, Path]:
    """Dotted name within the package -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in DATA:
            found[".".join(parts)] = path
    return found


def side_of(module: str) -> str:
    top = module.split(".")[0]
    sides = [side for side, (names, _, _) in SIDES.items() if top in names.split()]
    assert len(sides) == 1, f"headrace.{module} is on {sides or 'no'} side; enter it in the table SIDES of {__file__}"
    return sides[0]


def imports(path: Path, module: str) -> set[str]:
    """Absolute dotted names that a file imports anywhere, those for type checkers only excepted."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"headrace.{module} has a relative import at line {node.lineno}; write it in full"
            base = node.module or ""
            found |= {f"headrace.{alias.name}" for alias in node.names} if base == "headrace" else {base}
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_point_down_only(module):
    side = side_of(module)
    _, allowed, forbidden = SIDES[side]
    for name in imports(modules()[module], module):
        top, _, inner = name.partition(".")
        assert top not in forbidden.split(), f"headrace.{module} ({side}) imports {name}"
        is_module = inner and not inner.startswith("_") and inner not in PUBLIC
        if top == "headrace" and is_module:
            other = side_of(inner)
            assert other in allowed.split(), f"headrace.{module} ({side}) imports {name} ({other})"


@pytest.mark.parametrize("path", sorted(EXT.glob("*.pyx")) + sorted(EXT.glob("*.pxd")), ids=lambda path: path.name)
def test_extensions_import_nothing_of_the_package(path):
    offending = re.findall(r"^\s*(?:from|c?import)\s+headrace\b.*$", path.read_text(), re.MULTILINE)
    assert offending == []
