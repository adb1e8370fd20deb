"""Many models in one process: each finds its own modules under their plain names and never another model's.

A model's modules live in a synthetic package `_hrN`, whose path is the model's directories, and run with builtins whose
`__import__` asks the loader of the importing module, which belongs to one model, and looks into its `_hrN` first.
Functions carry their globals, so an import that runs during a prediction, in a thread of the model or from a callback
is resolved the same way, with nothing to set up for a call.

Code outside the model (joblib, pickle in C, importlib.resources) imports by plain name with the normal `__import__`.
For it a finder, keyed by a context variable, puts the model's module into sys.modules as an *alias*, until the call
into the model ends. Threads that a model starts inherit the context.

Invariants
1. Between calls sys.modules holds no plain name of a model's module, and sys.path is what it was.
2. After close() only the model's own objects keep it alive; Canary.is_gone() says whether any are left.

Not a sandbox. Known differences from a process of its own: `__name__` and logger names carry the package
(`_hr7.utils`), the working directory is the process's, a plain-name lookup by outside code finds an outside module of
that name if one was imported before, and patches of third-party modules, C extensions and atexit callbacks outlive the
model.
"""

import builtins
import contextvars
import copyreg
import importlib
import importlib.util
import linecache
import logging
import os
import sys
import threading
import time
import traceback
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Modules of ours that handlers import under another name. They win over an installed package of that name, which would
# talk to a server that is not there. (Those that give way to an installed one are in headrace.stand_in.)
STAND_INS: Mapping[str, str] = {"mms": "headrace.mms"}

_OUTSIDE = frozenset(("headrace", "__main__", *sys.builtin_module_names))  # never a model's own
_FRESH_SECONDS = 2.0  # a file so young may change again within the resolution of its time stamp

_current: contextvars.ContextVar["Namespace | None"] = contextvars.ContextVar("headrace_namespace", default=None)
_open: dict[str, "Namespace"] = {}  # by package name
_aliases: dict[str, ModuleType | None] = {}  # plain name -> what stood in sys.modules before
_base_path: list[str] = []
_import = builtins.__import__


class Canary:
    """Tells whether a closed namespace is really gone: no function, class or thread of the model is left."""

    __slots__ = ("_ref",)

    def __init__(self, namespace: object) -> None:
        self._ref = weakref.ref(namespace)

    def is_gone(self) -> bool:
        """Ask after a full garbage collection: modules are cycles."""
        return self._ref() is None


class Isolation:
    """How a model's code is imported and called. Subclasses: Namespace (shared process), OwnProcess."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.paths: list[str] = [os.path.abspath(path) for path in paths]

    def import_module(self, name: str) -> ModuleType:
        """The module *name*: the model's own if it has one, else the outside's. To be run through call()."""
        raise NotImplementedError

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """function(*args, **kwargs) as code of this model. Not re-entrant; one thread at a time."""
        raise NotImplementedError

    def close(self) -> Canary:
        """Forget the model's modules and every trace of them that the interpreter keeps. Idempotent."""
        raise NotImplementedError

    def plain(self, text: str) -> str:
        """*text* with module names as the model's author wrote them."""
        return text

    def traceback(self, exc: BaseException) -> str:
        """Traceback of *exc* and its causes, without the frames that are ours or the import system's."""
        shown = traceback.TracebackException.from_exception(exc)
        seen: set[int] = set()
        todo: list[traceback.TracebackException | None] = [shown]
        while todo:
            part = todo.pop()
            if part is None or id(part) in seen:
                continue
            seen.add(id(part))
            part.stack[:] = [frame for frame in part.stack if not _is_our_frame(frame.filename)]
            todo += [part.__cause__, part.__context__]
        return self.plain("".join(shown.format()))

    def owns(self, path: str) -> bool:
        """Whether *path* is one of the model's directories or lies in one."""
        return any(path == own or path.startswith(own + os.sep) for own in self.paths)

    def _forget_files(self) -> None:
        for filename in [name for name in linecache.cache if self.owns(name)]:
            linecache.cache.pop(filename, None)
        for path in [path for path in sys.path_importer_cache if self.owns(path)]:
            sys.path_importer_cache.pop(path, None)


class Namespace(Isolation):
    """The modules of one model in a shared process.

    index: unique among open namespaces; paths: directories searched first, in this order.
    """

    def __init__(self, index: int, paths: Sequence[str | os.PathLike[str]]) -> None:
        super().__init__(paths)
        self.name = f"_hr{index}"
        if self.name in _open:
            raise ValueError(f"namespace {index} is open already; close it first or use another index")
        _install()
        self._prefix = self.name + "."
        self._known: dict[str, bool] = {}  # top-level name -> is it the model's?
        package = ModuleType(self.name, "Synthetic package of a model's own modules.")
        package.__path__ = self.paths
        package.__spec__ = ModuleSpec(self.name, None, is_package=True)
        package.__spec__.submodule_search_locations = self.paths
        sys.modules[self.name] = package
        _open[self.name] = self
        # One context for all calls: what a model sets in it (numpy's error state, decimal's precision) stays its own.
        self._context = contextvars.copy_context()
        self._context.run(_current.set, self)

    def import_module(self, name: str) -> ModuleType:
        target = self._target(name)
        with _PlainErrors(self):
            return importlib.import_module(target or name)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if sys.path != _base_path:
            _base_path[:] = sys.path  # changed outside of any model
        try:
            return self._context.run(function, *args, **kwargs)
        finally:
            if _aliases:
                _drop_aliases()
            if sys.path != _base_path:
                self._absorb_path()

    def close(self) -> Canary:
        if _open.pop(self.name, None) is not None:
            _drop_aliases()
            for name in [name for name in sys.modules if self._is_ours(name)]:
                sys.modules.pop(name, None)
            loggers = logging.Logger.manager.loggerDict
            for name in [name for name in loggers if self._is_ours(name)]:
                loggers.pop(name, None)
            reducers = copyreg.dispatch_table
            for cls in [cls for cls in reducers if self._is_ours(getattr(cls, "__module__", ""))]:
                reducers.pop(cls, None)
            for clear in getattr(typing, "_cleanups", ()):  # caches of List[X] and the like, X a class of the model
                clear()
            self._forget_files()
        return Canary(self)

    def plain(self, text: str) -> str:
        return text.replace(self._prefix, "")

    def is_local(self, top: str) -> bool:
        """Whether the top-level name *top* is a module of this model (or one of STAND_INS)."""
        known = self._known.get(top)
        if known is None:
            known = self._known[top] = self._look(top)
        return known

    def forget_lookups(self) -> None:
        """Files may have come or gone."""
        self._known.clear()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """Spec of `_hrN.something`, made to run with this namespace's builtins."""
        spec = PathFinder.find_spec(fullname, self.paths if path is None else path, target)
        if spec is not None and spec.origin is not None:
            if type(spec.loader) is SourceFileLoader:
                spec.loader = _SourceLoader(self, fullname, spec.origin)
            elif type(spec.loader) is SourcelessFileLoader:
                spec.loader = _BytecodeLoader(self, fullname, spec.origin)
        return spec

    def find_alias(self, name: str) -> ModuleSpec | None:
        """Spec that makes the plain *name* an alias of this model's module; None when it has none of that name.

        A name of the standard library stays what it is: it is most likely a library's own import that asks.
        """
        target = None if name.partition(".")[0] in sys.stdlib_module_names else self._target(name)
        real = importlib.util.find_spec(target) if target else None
        if real is None:
            return None
        spec = ModuleSpec(name, _AliasLoader(real), origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What `__import__` means in the model's code. C code in a model's frame, such as pickle, asks it too."""
        if level:
            if _open.get(self.name) is not self:  # its modules are gone, and another model may have the index by now
                raise ImportError("relative import in a model that was unloaded", name=name)
            with _PlainErrors(self):
                return _import(name, globals, locals, fromlist or (), level)
        if sys.path != _base_path and _current.get() is self:
            self._absorb_path()
        target = self._target(name)
        if target is None:
            found = _import(name, globals, locals, fromlist or (), 0)
            if (
                _aliases and name in _aliases and found.__name__.partition(".")[0] in _open
            ):  # another model's, in its call
                _drop_aliases()
                return _import(name, globals, locals, fromlist or (), 0)
            return found
        with _PlainErrors(self):
            if fromlist:
                return _import(target, globals, locals, fromlist, 0)
            leaf = importlib.import_module(target)
        if isinstance(fromlist, list):
            # PyImport_Import() passes a list, where compiled code passes a tuple or None, and then reads
            # sys.modules[name].
            _aliases.setdefault(name, sys.modules.get(name))
            sys.modules[name] = leaf
        depth = name.count(".")
        return sys.modules[target.rsplit(".", depth)[0]] if depth else leaf

    def _target(self, name: str) -> str | None:
        """Full name of the model's module *name*; None when it is an outside one, or the model was unloaded."""
        top, _, rest = name.partition(".")
        if not self.is_local(top) or _open.get(self.name) is not self:
            return None
        if top in STAND_INS:
            return f"{STAND_INS[top]}.{rest}" if rest else STAND_INS[top]
        return self._prefix + name

    def _look(self, top: str) -> bool:
        if top in STAND_INS:
            return True
        if not top or top in _OUTSIDE or top in _open:
            return False
        if self._prefix + top in sys.modules:
            return True
        spec = PathFinder.find_spec(self._prefix + top, self.paths)
        if spec is None:
            return False
        if spec.origin is not None:
            return True
        # A directory without __init__.py (`data`, `tests`, SageMaker's `code`) yields to any real module, as it does
        # for Python itself.
        if top in sys.stdlib_module_names or (top in sys.modules and top not in _aliases):
            return False
        others = [finder for finder in sys.meta_path if finder is not _finder]
        found = (finder.find_spec(top, None) for finder in others if hasattr(finder, "find_spec"))
        return all(other is None or other.origin is None for other in found)

    def _absorb_path(self) -> None:
        """What the model added to sys.path becomes its own search path, and sys.path is what it was.

        A new entry below an old one stays: that is a library reaching for a folder of its own.
        """
        front: list[str] = []
        back: list[str] = []
        kept: list[str] = []
        wanted = front
        for entry in list(sys.path):
            if entry in _base_path:
                wanted = back
            elif isinstance(entry, str) and any(base and entry.startswith(base + os.sep) for base in _base_path):
                kept.append(entry)
            else:
                wanted.append(os.path.normpath(os.path.join(self.paths[0], entry)))
        _base_path.extend(kept)
        sys.path[:] = _base_path
        self.paths[:] = list(dict.fromkeys([*front, *self.paths, *back]))
        self.forget_lookups()

    def _is_ours(self, name: object) -> bool:
        return isinstance(name, str) and (name == self.name or name.startswith(self._prefix))


class OwnProcess(Isolation):
    """The modules of a model that has the process to itself: plain names, sys.path and directory as in a script.

    Enters *directory* and puts the paths before everything else on sys.path. close() undoes that.
    """

    def __init__(self, directory: Path, paths: Iterable[str | os.PathLike[str]]) -> None:
        super().__init__(paths)
        self._sys_path = list(sys.path)
        self._directory = os.getcwd()
        self._modules = set(sys.modules)
        os.chdir(directory)
        sys.path[:0] = self.paths
        importlib.invalidate_caches()
        for name in STAND_INS.values():
            importlib.import_module(name)
        for name, module in list(sys.modules.items()):
            for plain, ours in STAND_INS.items():
                if name == ours or name.startswith(ours + "."):
                    sys.modules[plain + name[len(ours) :]] = module

    def import_module(self, name: str) -> ModuleType:
        return importlib.import_module(name)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def close(self) -> Canary:
        for name in set(sys.modules) - self._modules:
            if name.partition(".")[0] in STAND_INS or self.owns(getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]
        sys.path[:] = self._sys_path
        os.chdir(self._directory)
        self._forget_files()
        return Canary(self)


class _PlainErrors:
    """Lets ModuleNotFoundError say `utils` where it means `_hr7.utils`."""

    __slots__ = ("_namespace",)

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, tb: object) -> None:
        if isinstance(exc, ImportError) and exc.name is not None and exc.name.startswith(self._namespace.name):
            exc.name = self._namespace.plain(exc.name)
            exc.msg = self._namespace.plain(exc.msg)
            exc.args = (exc.msg, *exc.args[1:])


class _SourceLoader(SourceFileLoader):
    def __init__(self, namespace: Namespace, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.namespace = namespace

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _model_builtins
        super().exec_module(module)

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Bytecode is matched to its source by time in seconds and size: not enough for a file written just now."""
        stats = super().path_stats(path)
        if time.time() - stats["mtime"] < _FRESH_SECONDS:
            raise OSError("too young to be told from its next version")  # the import system then compiles it
        return stats


class _BytecodeLoader(SourcelessFileLoader):
    def __init__(self, namespace: Namespace, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.namespace = namespace

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _model_builtins
        super().exec_module(module)


class _AliasLoader(Loader):
    """Gives an import by plain name the module that the model already has, or would have, under its full name."""

    def __init__(self, real: ModuleSpec) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _aliases.setdefault(spec.name, None)
        return importlib.import_module(self._real.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._real  # the import system has just put the alias's spec there

    # What runpy, pkgutil, inspect and importlib.resources ask a loader for, under the name that it knows.
    def get_code(self, name: str) -> Any:
        return self._ask("get_code")

    def get_source(self, name: str) -> Any:
        return self._ask("get_source")

    def get_filename(self, name: str) -> Any:
        return self._ask("get_filename")

    def is_package(self, name: str) -> bool:
        return self._real.submodule_search_locations is not None

    def get_resource_reader(self, name: str) -> Any:
        return self._ask("get_resource_reader")

    def get_data(self, path: str) -> Any:
        return getattr(self._real.loader, "get_data")(path)  # noqa: B009  (Loader does not declare it)

    def _ask(self, question: str) -> Any:
        return getattr(self._real.loader, question)(self._real.name)


class _Finder(MetaPathFinder):
    """First on sys.meta_path of a process that has namespaces."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("_hr"):
            namespace = _open.get(fullname.partition(".")[0])
            return None if namespace is None else namespace.find_spec(fullname, path, target)
        namespace = _current.get()
        return None if namespace is None else namespace.find_alias(fullname)

    def invalidate_caches(self) -> None:
        for namespace in list(_open.values()):
            namespace.forget_lookups()


def _model_import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` of all models' code. Code without a module, as from exec(), belongs to the model being called."""
    loader = globals.get("__loader__") if globals else None
    namespace = loader.namespace if isinstance(loader, (_SourceLoader, _BytecodeLoader)) else _current.get()
    if namespace is None:
        return _import(name, globals, locals, fromlist or (), level)
    return namespace.import_(name, globals, locals, fromlist, level)


_model_builtins = dict(vars(builtins), __import__=_model_import)  # one for all: a copy a model would take 7 KiB
_finder = _Finder()
_thread_start = threading.Thread.start
_OUR_DIRECTORIES = (os.path.dirname(os.path.abspath(__file__)), os.path.dirname(importlib.__file__))


def _start(self: threading.Thread) -> None:
    """Thread.start(): a thread that a model starts runs in a copy of the model's context."""
    thread = self
    if _current.get() is None:
        return _thread_start(thread)
    context = contextvars.copy_context()
    run = thread.run

    def run_in_context() -> None:
        thread.__dict__.pop("run", None)  # a cycle otherwise
        context.run(run)

    thread.run = run_in_context  # type: ignore[method-assign]
    try:
        return _thread_start(thread)
    except BaseException:
        thread.__dict__.pop("run", None)
        raise


def _is_our_frame(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or os.path.dirname(filename) in _OUR_DIRECTORIES


def _install() -> None:
    if _finder not in sys.meta_path:
        _base_path[:] = sys.path
        sys.meta_path.insert(0, _finder)
        threading.Thread.start = _start  # type: ignore[method-assign]


def _drop_aliases() -> None:
    while _aliases:
        name, before = _aliases.popitem()
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
