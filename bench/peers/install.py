"""Makes the virtual environments of the rivals: one command, no state but build/peers/."""

import shutil
import subprocess
import sys

from bench.errors import BenchError
from bench.peers.peer import Peer, home, program, stamp


def install(peer: Peer) -> None:
    """Nothing where it is there already with these requirements. BenchError with pip's last words where it fails."""
    wanted = peer.requirements.read_text()
    name = peer.folder.name
    if stamp(name).exists() and stamp(name).read_text() == wanted:
        return
    python = peer.python or sys.executable
    if shutil.which(python) is None:
        raise BenchError(f"{peer.name}: {python} is not here")
    _run(peer, python, "-m", "venv", "--clear", str(home(name)))
    pip = (program(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(peer, *pip, "-r", str(peer.requirements))
    stamp(name).write_text(wanted)


def version(peer: Peer) -> str:
    """Of its first requirement, which is itself."""
    return peer.requirements.read_text().split("\n")[0].partition("==")[2]


def _run(peer: Peer, *words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{peer.name}: {' '.join(words)} failed:\n{(done.stderr or done.stdout)[-2000:]}")
