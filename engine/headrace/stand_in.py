"""`import mms`, and in workers `import ts`, where nothing else bears the name: what stands in for packages of servers.

Entry points of serving toolkits import `mms.service` before any server runs, in processes that are not ours. A package
of that name would be installed over a user's own; so the wheel has a `.pth` file, which has this module put a finder
behind all others at the start of each interpreter.
"""

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGES = {"mms": "headrace.mms", "ts": "headrace.mms"}


class Finder(MetaPathFinder):
    """Last on sys.meta_path: asked only for what nobody else has. names: of PACKAGES."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        real = importlib.util.find_spec(PACKAGES[fullname])
        return None if real is None else ModuleSpec(fullname, _Loader(real), origin=real.origin, is_package=True)


class _Loader(Loader):
    """Gives the package that stands in, under the other name too, and its modules likewise."""

    def __init__(self, real: ModuleSpec) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        package = importlib.import_module(self._real.name)
        for name, module in list(sys.modules.items()):  # it imports all of its modules
            if name.startswith(self._real.name + "."):
                sys.modules[spec.name + name[len(self._real.name) :]] = module
        return package

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._real  # the import system has just put the other name's there


def install(*names: str) -> None:
    """Have these names of PACKAGES found in this process, where nothing else bears them."""
    sys.meta_path.append(Finder(names))
