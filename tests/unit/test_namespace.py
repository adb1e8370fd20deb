"""Two models with modules of equal names in one process, and the idioms by which code finds code."""

import gc
import importlib
import logging
import os
import queue
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from headrace.namespace import Namespace, OwnProcess

UTILS = """
from __future__ import annotations
import abc, collections, dataclasses, functools, logging, typing

WHO = {who!r}
log = logging.getLogger(__name__)
Pair = collections.namedtuple("Pair", "left right")

@dataclasses.dataclass
class Thing:
    next: typing.Optional[Thing] = None
    who: typing.ClassVar[str] = WHO

class Base(abc.ABC):
    @abc.abstractmethod
    def go(self): ...

class Derived(Base):
    def go(self):
        return WHO

@functools.lru_cache
def cached(x):
    return WHO

def many(items: typing.List[Thing]) -> typing.Dict[str, Thing]:
    return {{}}
"""

# Each returns the name of the model whose module it found.
IDIOMS = {
    "top_level_import": "return utils.WHO",
    "lazy_import": "import engine; return engine.WHO",
    "lazy_from_import": "from engine import WHO; return WHO",
    "star_import": "scope = {}; exec('from engine import *', scope); return scope['WHO']",
    "dotted_import": "import helpers.deep; return helpers.deep.WHO",
    "dotted_import_as": "import helpers.deep as deep; return deep.WHO",
    "from_package_import_module": "from helpers import deep; return deep.WHO",
    "relative_import": "from helpers.deep import sibling; return sibling.WHO",
    "import_of_code_directory": "import extra; return extra.WHO",
    "shadows_a_loaded_module": "import queue; return queue.WHO",
    "import_module": "return importlib.import_module('engine').WHO",
    "import_module_dotted": "return importlib.import_module('helpers.deep').WHO",
    "import_module_relative": "return importlib.import_module('.deep', 'helpers').WHO",
    "dunder_import": "return __import__('engine').WHO",
    "reload": "import engine; engine.WHO = 'stale'; return importlib.reload(engine).WHO",
    "find_spec": "return Path(importlib.util.find_spec('engine').origin).parent.name",
    "pickle_by_plain_name": "return pickle.loads(b'cutils\\nThing\\n.').who",
    "pickle_by_dotted_name": "return pickle.loads(b'chelpers.deep\\nThing\\n.').who",
    "pickle_from_outside_code": "return pickle._loads(b'cutils\\nThing\\n.').who",
    "pickle_round_trip": "return pickle.loads(pickle.dumps(utils.Thing())).who",
    "namedtuple_round_trip": "return pickle.loads(pickle.dumps(utils.Pair(utils.WHO, 1))).left",
    "deepcopy": "return copy.deepcopy(utils.Thing()).who",
    "inspect_source": "return re.search('WHO = .([ab])', inspect.getsource(utils)).group(1)",
    "type_hints": "return typing.get_args(typing.get_type_hints(utils.Thing)['next'])[0].who",
    "abstract_class": "return utils.Derived().go()",
    "lru_cache": "return utils.cached(1)",
    "thread": "return in_thread(lambda: importlib.import_module('engine').WHO)",
    "lazy_import_in_thread": "return in_thread(lazily)",
    "pickle_in_thread": "return in_thread(lambda: pickle.loads(b'cutils\\nThing\\n.').who)",
    "outside_code_in_thread": "return in_thread(lambda: pickle._loads(b'cutils\\nThing\\n.').who)",
    "timer": "return in_timer(lambda: pickle._loads(b'cutils\\nThing\\n.').who)",
    "executor": "return in_executor(lambda: pickle._loads(b'cutils\\nThing\\n.').who)",
    "coroutine": "return asyncio.run(in_coroutine())",
    "exec_in_scope": "scope = {}; exec('import engine', scope); return scope['engine'].WHO",
    "eval_in_scope": "return eval(\"__import__('engine').WHO\", {})",
    "run_module": "return runpy.run_module('job')['RESULT']",
    "run_path": "return runpy.run_path(str(Path(__file__).parent / 'job.py'))['RESULT']",
    "resources": "return importlib.resources.files('helpers').joinpath('data.txt').read_text()",
    "pkgutil_get_data": "return pkgutil.get_data('helpers', 'data.txt').decode()",
    "file_beside_module": "return (Path(__file__).parent / 'data.txt').read_text()",
    "sys_path_insert": "sys.path.insert(0, str(Path(__file__).parent / 'lib')); import shelf; return shelf.WHO",
    "sys_path_append": "sys.path.append(str(Path(__file__).parent / 'lib')); import shelf; return shelf.WHO",
    "sys_path_append_relative": "sys.path.append('lib'); import shelf; return shelf.WHO",
    "fork": "return in_fork(lambda: importlib.import_module('engine').WHO)",
}

INFERENCE = """
import asyncio, concurrent.futures, copy, importlib, importlib.resources, importlib.util, inspect, os, pickle
import pkgutil, re, runpy, sys, threading, typing
from pathlib import Path
import utils

def lazily():
    import engine
    return engine.WHO

def in_thread(function, kind=threading.Thread):
    found = []
    thread = kind(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]

def in_timer(function):
    return in_thread(function, lambda target: threading.Timer(0, target))

def in_executor(function):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()

async def in_coroutine():
    import engine
    return await asyncio.to_thread(lambda: pickle._loads(b'cengine\\nwho\\n.')())

def in_fork(function):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, function().encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read, "rb") as file:
        return file.read().decode()
"""


def write_model(directory: Path, who: str) -> Path:
    constant = f"WHO = {who!r}\ndef who(): return WHO\n"
    idioms = "".join(f"def {name}():\n    {body}\n" for name, body in IDIOMS.items())
    files = {
        "inference.py": INFERENCE + idioms,
        "utils.py": UTILS.format(who=who),
        "engine.py": constant,
        "queue.py": constant,
        "job.py": "import engine\nRESULT = engine.WHO\n",
        "helpers/__init__.py": "",
        "helpers/deep.py": f"from . import sibling\nfrom utils import Thing\n{constant}",
        "helpers/sibling.py": constant,
        "helpers/data.txt": who,
        "lib/shelf.py": constant,
        "code/extra.py": constant,
        "data.txt": who,
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def spaces(tmp_path):
    """Open namespaces of two models, by name."""
    found = {}
    for index, who in enumerate("ab"):
        directory = write_model(tmp_path / who, who)
        found[who] = Namespace(index, [directory, directory / "code"])
    yield found
    for space in found.values():
        space.close()


@pytest.fixture(scope="module")
def shared_spaces(tmp_path_factory):
    """The same for tests that leave no trace, with `inference` imported."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for index, who in enumerate("ab"):
        directory = write_model(root / who, who)
        space = Namespace(100 + index, [directory, directory / "code"])
        found[who] = (space, space.call(space.import_module, "inference"))
    yield found
    for space, _ in found.values():
        space.close()


@pytest.mark.parametrize("idiom", IDIOMS)
def test_idiom_finds_the_models_own_module(shared_spaces, idiom):
    path, names = list(sys.path), set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads, which is what we want to try
        for _ in range(2):
            for who, (space, module) in shared_spaces.items():
                assert space.call(getattr(module, idiom)) == who
                assert sys.path == path
                ours = {"utils", "engine", "helpers", "helpers.deep", "helpers.sibling", "shelf", "extra", "job"}
                assert not ours & set(sys.modules), "a plain name was left behind"
    assert "_hr" not in "".join(name for name in set(sys.modules) - names if not name.startswith("_hr10"))
    assert sys.modules["queue"] is queue


def test_joblib_finds_the_models_own_module(shared_spaces, tmp_path):
    joblib = pytest.importorskip("joblib")
    path = tmp_path / "thing.joblib"
    path.write_bytes(b"cutils\nThing\n.")
    for _ in range(2):
        for who, (space, module) in shared_spaces.items():
            assert space.call(joblib.load, path).who == who
            assert space.call(module.in_thread, lambda: joblib.load(path)).who == who


def test_limits_of_a_namespace_are_those_that_the_docs_name(spaces):
    a = spaces["a"]
    utils = a.call(a.import_module, "utils")
    directory = os.getcwd()
    assert utils.__name__ == utils.log.name == f"{a.name}.utils"
    assert a.call(lambda: "utils" in sys.modules) is False
    assert a.call(os.getcwd) == directory


def test_another_model_does_not_see_an_alias_left_in_a_call_of_the_first(spaces):
    """Model b looks for a module that only a has, while a call of a holds the plain name in sys.modules."""
    (Path(spaces["a"].paths[0]) / "only.py").write_text("WHO = 'a'\n")
    probe = spaces["b"].call(spaces["b"].import_module, "inference")

    def in_a() -> str:
        assert importlib.import_module("only").WHO == "a"
        assert "only" in sys.modules
        try:
            return spaces["b"].call(eval, "__import__('only').WHO", vars(probe))
        except ModuleNotFoundError as error:
            return str(error)

    assert spaces["a"].call(in_a) == "No module named 'only'"


def test_stdlib_module_wins_over_a_directory_without_init(spaces):
    module = spaces["a"].call(spaces["a"].import_module, "code")
    assert hasattr(module, "InteractiveInterpreter")


def test_directory_without_init_is_a_package_where_nothing_else_has_the_name(spaces):
    assert spaces["a"].call(spaces["a"].import_module, "lib.shelf").WHO == "a"


def test_code_as_a_package_is_the_models(spaces):
    (Path(spaces["a"].paths[0]) / "code" / "__init__.py").touch()
    assert spaces["a"].call(spaces["a"].import_module, "code.extra").WHO == "a"


def test_missing_modules_are_named_as_the_author_wrote_them(spaces):
    def failing(name):
        with pytest.raises(ModuleNotFoundError) as info:
            spaces["a"].call(spaces["a"].import_module, name)
        assert info.value.name == name
        return str(info.value)

    assert failing("nowhere") == "No module named 'nowhere'"
    assert failing("helpers.nowhere") == "No module named 'helpers.nowhere'"


def test_headrace_itself_cannot_be_shadowed(spaces):
    (Path(spaces["a"].paths[0]) / "headrace.py").write_text("WHO = 'a'\n")
    import headrace

    assert spaces["a"].call(spaces["a"].import_module, "headrace") is headrace


def test_mms_is_ours_inside_and_absent_outside(spaces):
    probe = spaces["a"].call(spaces["a"].import_module, "inference")
    code = (
        "from mms.service import PredictionException as P; import mms.metrics.dimension; P.__module__, mms.__version__"
    )
    space = {"__builtins__": vars(probe)["__builtins__"]}
    *statements, expression = code.split("; ")

    def inside():
        exec("; ".join(statements), space)
        return eval(expression, space)

    assert spaces["a"].call(inside) == ("headrace.mms.service", "1.1.11")
    assert spaces["a"].call(importlib.import_module, "mms.context").__name__ == "headrace.mms.context"
    assert not any(name.split(".")[0] == "mms" for name in sys.modules)


def test_context_variables_of_a_model_last_and_stay_its_own(spaces):
    np = pytest.importorskip("numpy")
    before = np.geterr()["divide"]
    if tuple(map(int, np.__version__.split(".")[:1])) < (2,):
        pytest.skip("numpy keeps its error state in a context variable from version 2 on")
    spaces["a"].call(np.seterr, divide="raise")
    assert spaces["a"].call(np.geterr)["divide"] == "raise"
    assert spaces["b"].call(np.geterr)["divide"] == np.geterr()["divide"] == before


def test_library_that_adds_a_folder_of_its_own_to_sys_path_keeps_it(spaces, tmp_path, monkeypatch):
    library = tmp_path / "site" / "library"
    library.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    spaces["a"].call(lambda: sys.path.append(str(library)))
    assert str(library) in sys.path
    assert str(library) not in spaces["a"].paths


def test_open_index_is_refused(spaces, tmp_path):
    with pytest.raises(ValueError, match="open already"):
        Namespace(0, [tmp_path])


def test_source_edited_at_once_after_an_unload_is_seen(tmp_path):
    """Same size and, to the second, same time: what bytecode files cannot tell apart."""
    source = tmp_path / "m.py"
    for value in range(5):
        source.write_text(f"VALUE = {value}\n")
        space = Namespace(200, [tmp_path])
        module = space.call(space.import_module, "m")
        assert value == module.VALUE
        space.close()


def test_old_source_is_kept_as_bytecode(tmp_path):
    source = tmp_path / "m.py"
    source.write_text("VALUE = 1\n")
    old = time.time() - 60
    os.utime(source, (old, old))
    space = Namespace(201, [tmp_path])
    space.call(space.import_module, "m")
    space.close()
    assert sys.dont_write_bytecode or list(tmp_path.glob("__pycache__/m.*.pyc"))


def test_bytecode_alone_is_enough(tmp_path):
    import py_compile

    source = tmp_path / "m.py"
    source.write_text("def late():\n    import other\n    return other.VALUE\n")
    py_compile.compile(str(source), str(tmp_path / "m.pyc"))
    source.unlink()
    (tmp_path / "other.py").write_text("VALUE = 7\n")
    space = Namespace(202, [tmp_path])
    assert space.call(space.import_module, "m").late() == 7
    space.close()


def test_traceback_begins_at_the_models_first_frame(spaces):
    (Path(spaces["a"].paths[0]) / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")
    try:
        spaces["a"].call(spaces["a"].import_module, "broken")
    except ZeroDivisionError as exc:
        text = spaces["a"].traceback(exc)
    frames = [line for line in text.splitlines() if line.startswith("  File")]
    assert [frame.rpartition(" in ")[2] for frame in frames[-2:]] == ["<module>", "f"]
    assert "headrace/namespace.py" not in text
    assert "importlib" not in text
    assert "_hr" not in text


def test_canary_lives_while_anything_of_the_model_does(spaces):
    function = spaces["a"].call(spaces["a"].import_module, "engine").who
    canary = spaces["a"].close()
    spaces["a"] = spaces["b"]
    gc.collect()
    assert not canary.is_gone()
    assert function() == "a"
    del function
    gc.collect()
    assert canary.is_gone()


def test_close_is_idempotent(spaces):
    spaces["a"].close()
    spaces["a"].close()


def test_code_of_an_unloaded_model_does_not_find_the_modules_of_the_next_one_with_its_index(tmp_path):
    for who in "ab":
        write_model(tmp_path / who, who)
    (tmp_path / "a" / "late.py").write_text("def f():\n    import extra\ndef g():\n    from . import utils\n")
    first = Namespace(204, [tmp_path / "a", tmp_path / "a" / "code"])
    late = first.call(first.import_module, "late")
    first.close()
    second = Namespace(204, [tmp_path / "b", tmp_path / "b" / "code"])
    second.call(second.import_module, "inference")
    with pytest.raises(ModuleNotFoundError, match="No module named 'extra'"):
        late.f()
    with pytest.raises(ImportError, match="unloaded"):
        late.g()
    second.close()


def test_thread_that_outlives_its_model_is_seen_by_the_canary(tmp_path):
    (tmp_path / "m.py").write_text(
        "import threading\nstop = threading.Event()\nthread = threading.Thread(target=stop.wait)\nthread.start()\n"
    )
    space = Namespace(203, [tmp_path])
    module = space.call(space.import_module, "m")
    stop, thread = module.stop, module.thread
    canary = space.close()
    del space, module
    gc.collect()
    assert not canary.is_gone()
    stop.set()
    thread.join()
    del thread, stop
    gc.collect()
    assert canary.is_gone()


@pytest.fixture
def frozen_heap():
    """What is there already stays out of garbage collections, which makes hundreds of them affordable."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen_heap")
def test_load_and_unload_leave_nothing(tmp_path):
    """Objects, descriptors and the interpreter's tables are flat over hundreds of cycles."""
    directory = write_model(tmp_path / "a", "a")

    def cycle() -> None:
        space = Namespace(300, [directory, directory / "code"])
        module = space.call(space.import_module, "inference")
        for idiom in ("lazy_import", "pickle_from_outside_code", "type_hints", "lru_cache", "outside_code_in_thread"):
            assert space.call(getattr(module, idiom)) == "a"
        space.call(module.utils.log.debug, "x")
        space.call(module.inspect_source)
        space.call(module.sys_path_append)
        canary = space.close()
        del space, module
        gc.collect()
        assert canary.is_gone()

    def census() -> dict[str, int]:
        tables = (sys.modules, sys.path_importer_cache, logging.Logger.manager.loggerDict, sys.path, sys.meta_path)
        return {
            "objects": len(gc.get_objects()),
            "fds": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "entries": sum(map(len, tables)),
        }

    for _ in range(10):
        cycle()
    before = census()
    cycles = 200
    for _ in range(cycles):
        cycle()
    after = census()
    assert after["objects"] - before["objects"] < cycles / 4
    assert {**after, "objects": 0} == {**before, "objects": 0}


def test_own_process_has_plain_names_its_directory_and_mms(tmp_path):
    directory = write_model(tmp_path / "a", "a")
    path, cwd = list(sys.path), os.getcwd()
    space = OwnProcess(directory, [directory, directory / "code"])
    try:
        module = space.call(space.import_module, "inference")
        assert module.__name__ == "inference"
        assert sys.modules["inference"] is module
        assert Path.cwd() == directory
        for idiom in (
            "lazy_import",
            "pickle_by_plain_name",
            "pickle_in_thread",
            "run_module",
            "import_of_code_directory",
        ):
            assert getattr(module, idiom)() == "a"
        from mms.service import PredictionException

        assert PredictionException.__module__ == "headrace.mms.service"
    finally:
        space.close()
    assert sys.path == path
    assert os.getcwd() == cwd
    assert not {"inference", "utils", "engine", "extra", "mms"} & set(sys.modules)
