"""Where archives are unpacked: a private folder of the server, with a folder in it for each model that came as a file.

A folder goes when its model does, or when its load fails; the whole goes with the server. A server that was killed
leaves its own behind, and the next one that unpacks takes it away: nobody holds its lock any more.
"""

import asyncio
import contextlib
import fcntl
import os

from headrace import control, log, processes
from headrace.children import Reaper
from headrace.control_async import AsyncChannel
from headrace.errors import ModelError

UNPACK_S = 600.0
PREFIX = "headrace-models-"
LOCK = ".lock"

_log = log.get("supervisor")


class Archives:
    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._root: str | None = None  # made when it is needed: most servers are given directories
        self._lock_fd = -1

    async def open(self, path: str) -> str:
        """The directory of the model at *path*: itself, or where it was unpacked to. Raises ModelError, OutOfMemory."""
        if not os.path.isfile(path):
            return path
        import tempfile

        try:
            directory = tempfile.mkdtemp(dir=self._folder())
        except OSError as error:
            raise ModelError(
                f"archive {os.path.basename(path)}: no folder to unpack it in: {error}; set TMPDIR"
            ) from None
        try:
            await self._unpack(path, directory)
        except BaseException:
            await self.discard(directory)
            raise
        _log.info("archive.unpacked", archive=path, directory=directory)
        return directory

    async def discard(self, directory: str) -> None:
        """Remove what open() has unpacked there; a directory of the user's is left alone."""
        if self._root is not None and os.path.dirname(directory) == self._root:
            import shutil

            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def close(self) -> None:
        if self._root is not None:
            import shutil

            shutil.rmtree(self._root, ignore_errors=True)
            os.close(self._lock_fd)
            self._root = None

    async def _unpack(self, path: str, directory: str) -> None:
        ours, theirs = control.pair()
        with theirs:
            pid = processes.spawn("headrace.archive", theirs)
        death = self._reaper.watch(pid)
        channel = AsyncChannel(ours)
        try:
            message = {"op": "unpack", "path": path, "directory": directory, "supervisor": os.getpid()}
            await channel.call(message, timeout=UNPACK_S)
        except ConnectionError:
            await asyncio.wait({death})
            raise ModelError(
                f"archive {os.path.basename(path)}: the process that unpacked it {death.result()}"
            ) from None
        except TimeoutError:
            raise ModelError(f"archive {path}: not unpacked after {UNPACK_S:.0f} s") from None
        finally:
            channel.close()
            self._reaper.kill(pid)
            await asyncio.wait({death})

    def _folder(self) -> str:
        if self._root is None:
            import tempfile

            _remove_orphans()
            root = tempfile.mkdtemp(prefix=PREFIX)
            self._lock_fd, self._root = _lock(root), root
        return self._root


def _remove_orphans() -> None:
    """Take away the folders of servers that are gone: of this user, and locked by nobody."""
    import shutil
    import tempfile

    with contextlib.suppress(OSError):
        for entry in list(os.scandir(tempfile.gettempdir())):
            is_ours = entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
            if is_ours and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                with contextlib.suppress(OSError):
                    os.close(_lock(entry.path))
                    shutil.rmtree(entry.path, ignore_errors=True)
                    _log.info("archive.orphan_removed", directory=entry.path)


def _lock(root: str) -> int:
    """The descriptor that holds the folder's lock. Raises BlockingIOError when another process has it."""
    fd = os.open(os.path.join(root, LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
