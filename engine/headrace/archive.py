"""Model archives: a zip (`.mar`, as model-archiver makes it) or a tar, plain or gzipped, unpacked without harm.

Invariants
1. Nothing is written outside the folder that is unpacked into: no absolute names, no `..`, no link that leads out.
   Links are made after all files are written, so that no file is ever written through one.
2. What an archive can cost is bounded: in files, in bytes on the disk, and in bytes for each byte of the archive.
3. Whatever is wrong with an archive is an InvalidModel that names the archive and the member.

`python -m headrace.archive 3` is the process that unpacks for the supervisor: a header may claim any size, and the
libraries that read it hold it in memory.
"""

import contextlib
import errno
import gzip
import os
import resource
import stat
import sys
import tarfile
import zipfile
from typing import IO

from headrace import errors, processes
from headrace.control import Channel
from headrace.errors import InvalidModel, OutOfMemory

FILES_MAX = 100_000
BYTES_MAX = 64 << 30
RATIO_MAX = 200  # weights shrink to a half or so; what shrinks more than this is made to fill a disk
RATIO_FREE_BYTES = 64 << 20  # small archives of text shrink a lot, and this much does no harm
MEMORY_BYTES = 512 << 20  # of the process that unpacks, for headers and directories
COPY_BYTES = 1 << 20


def unpack(path: str, directory: str) -> None:
    """Unpack the archive at *path* into the empty *directory*. What was written before an error stays there.

    Raises InvalidModel for an archive that is refused or broken, OutOfMemory when the disk is full.
    """
    name = os.path.basename(path)
    try:
        target = _Target(os.path.realpath(directory), os.path.getsize(path))
        if zipfile.is_zipfile(path):
            _unpack_zip(path, target)
        else:
            _unpack_tar(path, target)
        target.make_links()
    except _Refused as refusal:
        raise InvalidModel(f"archive {name}: {refusal}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfMemory(
                f"archive {name}: no space left on the disk for its files; set TMPDIR to another"
            ) from None
        raise InvalidModel(f"archive {name} cannot be unpacked: {error}") from None
    except MemoryError:
        raise InvalidModel(f"archive {name}: its headers need more than {MEMORY_BYTES} bytes of memory") from None
    except Exception as error:  # the libraries raise what comes: zlib.error, struct.error, TypeError, EOFError ...
        raise InvalidModel(f"archive {name} cannot be read: {type(error).__name__}: {error}") from None


class _Refused(Exception):
    """Why an archive is not unpacked."""


class _Target:
    """The folder that is unpacked into, and what may still be written to it."""

    def __init__(self, root: str, archive_bytes: int) -> None:
        self._root = root
        self._files = 0
        self._bytes = 0
        self._bytes_max = min(BYTES_MAX, RATIO_FREE_BYTES + RATIO_MAX * archive_bytes)
        self._links: list[tuple[str, str, str]] = []  # path, what it points to, the member's name

    def add_directory(self, member: str) -> None:
        self._count(member)
        os.makedirs(self._place(member), 0o700, exist_ok=True)

    def add_file(self, member: str, source: IO[bytes], is_executable: bool) -> None:
        """A later member of the same name replaces an earlier one, as the formats have it."""
        path = self._new_file(member)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o700 if is_executable else 0o600), "wb") as file:
            while chunk := source.read(COPY_BYTES):
                self._bytes += len(chunk)
                if self._bytes > self._bytes_max:
                    raise _Refused(
                        f"it unpacks to more than {self._bytes_max} bytes (at most {RATIO_MAX} times its own size, "
                        f"and {BYTES_MAX}); unpack it yourself and give the directory"
                    )
                file.write(chunk)

    def add_hard_link(self, member: str, to: str) -> None:
        """A second name of a file that was unpacked before."""
        source = self._place(to)
        if not os.path.isfile(source):
            raise _Refused(f"{member!r} is a link to {to!r}, which is no file before it")
        os.link(source, self._new_file(member))

    def add_link(self, member: str, to: str) -> None:
        self._count(member)
        self._links.append((self._place(member), to, member))

    def make_links(self) -> None:
        """Make the symbolic links, all of which must lead to places within the folder."""
        for path, to, member in self._links:
            parent = os.path.dirname(path)
            self._require_inside(parent, member)
            os.makedirs(parent, 0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.symlink(to, path)
        for path, _, member in self._links:  # only now is it known where a link that leads through others ends
            self._require_inside(path, member)

    def _new_file(self, member: str) -> str:
        self._count(member)
        path = self._place(member)
        if path == self._root:
            raise _Refused(f"{member!r} is no name for a file")
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return path

    def _place(self, member: str) -> str:
        """Where the member goes. _Refused when that is not inside the folder."""
        parts = member.split("/")
        if member.startswith("/") or ".." in parts or "\0" in member:
            raise _Refused(f"the name {member!r} leads out of it; names must be relative and without `..`")
        return os.path.join(self._root, *(part for part in parts if part not in ("", ".")))

    def _require_inside(self, path: str, member: str) -> None:
        real = os.path.realpath(path)
        if real != self._root and not real.startswith(self._root + os.sep):
            raise _Refused(f"the link {member!r} leads out of it")

    def _count(self, member: str) -> None:
        self._files += 1
        if self._files > FILES_MAX:
            raise _Refused(f"it has more than {FILES_MAX} members; unpack it yourself and give the directory")


def _unpack_zip(path: str, target: _Target) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16  # Unix's, where the archive was made there; else 0
            kind = stat.S_IFMT(mode)
            if info.is_dir():
                target.add_directory(info.filename)
            elif kind == stat.S_IFLNK:
                if info.file_size > os.pathconf("/", "PC_PATH_MAX"):
                    raise _Refused(f"the link {info.filename!r} is longer than a path may be")
                target.add_link(info.filename, os.fsdecode(archive.read(info)))
            elif kind in (0, stat.S_IFREG):
                with archive.open(info) as source:
                    target.add_file(info.filename, source, bool(mode & stat.S_IXUSR))
            else:
                raise _Refused(f"{info.filename!r} is a device, pipe or socket; only files, folders and links may be")


def _unpack_tar(path: str, target: _Target) -> None:
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"  # RFC 1952, 2.3.1
        file.seek(0)
        try:
            stream = gzip.GzipFile(fileobj=file) if is_gzip else file
            with stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # else it remembers all, which nobody asks for
                    _unpack_tar_member(archive, info, target)
        except tarfile.ReadError as error:
            raise _Refused(f"it is no zip, tar or tar.gz archive, or a damaged one ({error})") from None


def _unpack_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, target: _Target) -> None:
    if info.isdir():
        target.add_directory(info.name)
    elif info.issym():
        target.add_link(info.name, info.linkname)
    elif info.islnk():
        target.add_hard_link(info.name, info.linkname)
    elif info.isreg():
        source = archive.extractfile(info)
        assert source is not None  # it is None for what is no file
        with source:
            target.add_file(info.name, source, bool(info.mode & stat.S_IXUSR))
    else:
        raise _Refused(f"{info.name!r} is a device or pipe; only files, folders and links may be")


def main() -> int:
    """Unpack what the supervisor asks for, once."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    processes.set_title("unpack")
    channel = Channel(processes.CONTROL_FD)
    try:
        received = channel.receive()
        assert received is not None  # it waits without a limit
        message = received[0]
        try:
            processes.die_with_parent(message["supervisor"])
            unpack(message["path"], message["directory"])
        except Exception as exc:
            channel.send({"op": "reply", "id": message["id"], **errors.to_message(exc)})
        else:
            channel.reply(message)
    except EOFError:
        pass  # the supervisor is gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
