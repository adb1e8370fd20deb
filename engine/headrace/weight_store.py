"""Memory that all replicas of a model on this machine map: one memfd a model, whose records never change.

    | end | ... | record | record | ... |        end: where the next record begins, a u64 in the first page
    record: its length and that of its head (u64), the head {"key", "sizes"} as JSON, the parts, each 64-byte aligned

The supervisor makes the memfd and passes it along with each load. The first replica that needs a record writes it while
it holds a lock on the file, and the others wait and map it; a lock goes with the process that holds it. Mappings are
private: a replica that writes to its arrays writes to pages of its own.

Invariants
1. A record is there when *end* is behind it, and not before: what a dying worker half wrote is written over.
2. Lengths read from the memfd are checked against its size before anything is mapped or used.
"""

import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import orjson

#: Files, and models, that are smaller are not shared: each mapping costs a descriptor and page tables.
SHARED_LEAST_BYTES = 1 << 20

_PAGE_BYTES = mmap.ALLOCATIONGRANULARITY
_ALIGNMENT = 64  # of a part, as numpy.lib.format has it for an array in a file
_END = struct.Struct("<Q")
_LENGTHS = struct.Struct("<QQ")

Fill = Callable[[list[memoryview]], None]


def create() -> int:
    """The descriptor (close-on-exec) of a store without records, which takes no page. Raises OSError."""
    return os.memfd_create("headrace-weights", os.MFD_CLOEXEC)


class Store:
    """A replica's view of its model's store. fd: from create(); it stays the caller's.

    mapped_bytes: of files of the model that were mapped as they are, for want of anything to decode.
    """

    def __init__(self, fd: int) -> None:
        # Locks belong to an open file description, and all who were passed the descriptor have one in common.
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._lock = threading.RLock()
        self._depth = 0
        self.mapped_bytes = 0

    def close(self) -> None:
        """What was mapped stays."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While inside, no other replica or thread reads or writes the store. May be nested."""
        with self._lock:
            if not self.is_open:
                raise OSError(errno.EBADF, "the store of shared weights is closed: the load is over")
            self._depth += 1
            try:
                if self._depth == 1:
                    fcntl.flock(self._fd, fcntl.LOCK_EX)
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)

    def get(self, key: str) -> list[memoryview] | None:
        """The parts of the record *key*, writable without anybody else seeing it; None when there is none.

        To be called inside locked(). Raises ValueError for a store that is damaged.
        """
        end = self._end()
        at = _PAGE_BYTES
        while at < end:
            length, head_bytes = _LENGTHS.unpack(os.pread(self._fd, _LENGTHS.size, at))
            if length % _PAGE_BYTES or not _LENGTHS.size + head_bytes <= length <= end - at:
                raise ValueError(f"the store of shared weights is damaged at byte {at}")
            head = orjson.loads(os.pread(self._fd, head_bytes, at + _LENGTHS.size))
            if head["key"] == key:
                return self._map(at, length, head_bytes, head["sizes"])
            at += length
        return None

    def put(self, key: str, sizes: Sequence[int], fill: Fill) -> list[memoryview]:
        """Write the record *key*, with parts of these many bytes, which *fill* is given to write; returns it as get().

        To be called inside locked(). When *fill* raises, nothing is kept.
        """
        at = self._end()
        head = orjson.dumps({"key": key, "sizes": list(sizes)})
        offsets, length = _layout(len(head), sizes)
        os.ftruncate(self._fd, at + length)
        try:
            with mmap.mmap(self._fd, length, offset=at) as mapping:
                mapping[: _LENGTHS.size] = _LENGTHS.pack(length, len(head))
                mapping[_LENGTHS.size : _LENGTHS.size + len(head)] = head
                whole = memoryview(mapping)
                parts = [whole[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]
                try:
                    fill(parts)
                finally:
                    for view in (*parts, whole):
                        view.release()
            os.pwrite(self._fd, _END.pack(at + length), 0)
        except BaseException:
            os.ftruncate(self._fd, at)
            raise
        return self._map(at, length, len(head), sizes)

    def _end(self) -> int:
        size = os.fstat(self._fd).st_size
        if not size:
            return _PAGE_BYTES
        (end,) = _END.unpack(os.pread(self._fd, _END.size, 0))
        if end > size or end % _PAGE_BYTES:
            raise ValueError(f"the store of shared weights is damaged: {end} bytes used of {size}")
        return int(end) or _PAGE_BYTES

    def _map(self, at: int, length: int, head_bytes: int, sizes: Sequence[int]) -> list[memoryview]:
        offsets, expected = _layout(head_bytes, sizes)
        if expected != length:
            raise ValueError(f"the store of shared weights is damaged at byte {at}")
        mapping = mmap.mmap(self._fd, length, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=at)
        whole = memoryview(mapping)
        return [whole[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def _layout(head_bytes: int, sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where the parts of a record begin, from its start, and its length."""
    at = _LENGTHS.size + head_bytes
    offsets = []
    for size in sizes:
        at = _rounded(at, _ALIGNMENT)
        offsets.append(at)
        at += size
    return offsets, _rounded(at, _PAGE_BYTES)


def _rounded(value: int, unit: int) -> int:
    return -(-value // unit) * unit
