"""What an adapter says of its server."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.servers import HERE, ROOT, Server, Setup
from bench.toolchain import BUILD


@dataclass(frozen=True)
class Peer:
    """server: as it is started for a setup, each model in one worker. settings: in words, how it was set up.

    refuses: points (bench/points.py) that it cannot be asked, by name, with the reason. needs: commands of the system.
    python: that its environment is made of; the running one where it is empty. warm_up_s: of load before a measurement.
    folder_name: of its adapter and environment where it is not its name: one server may stand here in two settings.
    """

    name: str
    server: Callable[[Setup], Server]
    settings: str
    refuses: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    python: str = ""
    warm_up_s: int = 1
    folder_name: str = ""

    @property
    def folder(self) -> Path:
        return HERE / "peers" / (self.folder_name or self.name)

    @property
    def requirements(self) -> Path:
        return self.folder / "requirements.txt"

    def absent(self) -> str:
        """Why it cannot run here; empty when it can."""
        for command in self.needs:
            if shutil.which(command) is None:
                return f"{command} is not here"
        return "" if stamp(self.folder.name).exists() else "not installed: `python -m bench.peers install`"


def home(name: str) -> Path:
    """Of its virtual environment."""
    return ROOT / "build" / "peers" / name


def stamp(name: str) -> Path:
    """A file that is there when the environment is whole; it holds the requirements that were installed."""
    return home(name) / ".installed"


def program(name: str, command: str = "python") -> str:
    """A command of its virtual environment."""
    return str(home(name) / "bin" / command)


def scratch(name: str) -> Path:
    """An empty folder for what it is started with."""
    folder = BUILD / "peers" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
