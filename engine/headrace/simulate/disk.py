"""The instance's storage volume: packages unpacked to `models/HASH/model`, within a limit, in order of their last use.

Invariants
1. A model is unpacked aside, measured, and only then put in its place and counted. So the folder holds no more than its
   limit, what is being unpacked, and what is being removed.
2. The folder is ours alone: it holds a mark, a lock on which says that a simulator is using it.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from headrace import archive
from headrace.errors import HeadraceError
from headrace.simulate.api_errors import ValidationError
from headrace.simulate.packages import Package, Version

MARK = ".headrace-simulate"


class DiskError(Exception):
    """The folder cannot be used. Shown to the user."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """path: where it was unpacked to, before put(). bytes: on the disk. version: of its package."""

    path: str
    bytes: int
    version: Version


class Disk:
    """root: an empty folder, one that is made, or what an earlier simulator has left. limit_bytes: of all models."""

    def __init__(self, root: str, limit_bytes: int) -> None:
        self.root = os.path.realpath(root)
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._stored: OrderedDict[str, Unpacked] = OrderedDict()  # the least recently used first
        self._lock_fd = _take(self.root)
        for name in ("models", "partial", "model"):
            shutil.rmtree(os.path.join(self.root, name), ignore_errors=True)
        os.mkdir(os.path.join(self.root, "models"), 0o755)
        os.mkdir(os.path.join(self.root, "partial"), 0o700)

    def close(self) -> None:
        """Remove all that was unpacked."""
        for name in ("models", "partial", "model", MARK):
            path = os.path.join(self.root, name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        os.close(self._lock_fd)

    def stored(self, name: str) -> Unpacked | None:
        return self._stored.get(name)

    def touch(self, name: str) -> None:
        """It was used now."""
        if name in self._stored:
            self._stored.move_to_end(name)

    def oldest(self) -> Iterator[str]:
        """Names, the least recently used first."""
        return iter(self._stored)

    def fits(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self.limit_bytes

    async def unpack(self, package: Package) -> Unpacked:
        """Unpack it aside; put() or drop() must follow. Raises ValidationError for a bad archive, or a full disk."""
        try:
            aside = self._aside()
        except OSError as error:
            raise ValidationError(f"Failed to extract model data: {error}") from None
        try:
            return Unpacked(aside, await asyncio.to_thread(_unpack, package.path, aside), package.version)
        except BaseException as error:
            await self.drop(aside)
            if isinstance(error, (HeadraceError, OSError)):
                raise ValidationError(f"Failed to extract model data: {error}") from None
            raise

    def put(self, name: str, unpacked: Unpacked) -> None:
        """Count what was unpacked aside, and move it to its place. The caller has seen to it that it fits."""
        folder = os.path.join(self.root, "models", name)
        os.mkdir(folder, 0o755)
        os.rename(unpacked.path, os.path.join(folder, "model"))
        self._stored[name] = unpacked
        self.used_bytes += unpacked.bytes

    async def drop(self, path: str) -> None:
        """Remove what lies aside, if it still does."""
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def delete(self, name: str) -> None:
        """Its name is free at once, its room soon."""
        self.used_bytes -= self._stored.pop(name).bytes
        aside = self._aside()
        os.rename(os.path.join(self.root, "models", name), os.path.join(aside, name))
        await self.drop(aside)

    def _aside(self) -> str:
        aside = tempfile.mkdtemp(dir=os.path.join(self.root, "partial"))
        os.chmod(aside, 0o755)  # a container may run as another user
        return aside


def _unpack(path: str, directory: str) -> int:
    archive.unpack(path, directory)
    return size_of(directory)


def size_of(directory: str) -> int:
    """Bytes on the disk of a folder and all below it."""
    total = os.lstat(directory).st_blocks * 512
    for parent, directories, files in os.walk(directory):
        total += sum(os.lstat(os.path.join(parent, name)).st_blocks * 512 for name in (*directories, *files))
    return total


def _take(root: str) -> int:
    """Make the folder ours; returns the descriptor that holds its lock. Raises DiskError."""
    mark = os.path.join(root, MARK)
    try:
        os.makedirs(root, 0o755, exist_ok=True)
        if os.listdir(root) and not os.path.exists(mark):
            raise DiskError(f"{root} is not empty and not a simulator's; name another folder, or an empty one")
        fd = os.open(mark, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DiskError(f"{root} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise DiskError(f"{root} is in use by another simulator; name another folder") from None
    return fd
