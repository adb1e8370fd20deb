"""npz files on the disk, as numpy.savez and savez_compressed write them, read into memory of the caller's choice.

A member is read whole, head and all: the head of an npy file is padded to 64 bytes, so its array is as aligned as the
memory that the member is read into. (In the archive itself it lies at any byte, where no BLAS takes it without a copy.)
Source for the records: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace import _codec

_END = struct.Struct("<4s6xHIIH")  # end of central directory: signature, entries, size, offset, length of comment
_LOCATOR = struct.Struct("<4s4xQ4x")  # before it, in zip64 form: signature, where the zip64 record is
_END64 = struct.Struct("<4s28xQQQ")  # signature, entries, size, offset
_ENTRY = struct.Struct(
    "<4s4xHH4xIIIHHH8xI"
)  # flags, method, crc, packed, size, lengths of name, extra, comment, offset
_LOCAL = struct.Struct("<4s22xHH")  # local head: signature, lengths of name, extra
_STORED, _DEFLATED = 0, 8
_IS_ENCRYPTED = 1
_ZIP64 = 1  # id of the extra field with what does not fit 32 bits
_FULL32 = 0xFFFF_FFFF
_PIECE_BYTES = 1 << 20

#: Gives memory for parts of these many bytes, and has them filled by what it is given. It may have them already.
Place = Callable[[Sequence[int], Callable[[list[memoryview]], None]], list[memoryview]]


class Unreadable(Exception):
    """Not a file of plain arrays, or not in a form that is read here. numpy can say more."""


class Arrays(np.lib.npyio.NpzFile):
    """What numpy.load() gives for an npz file: arrays by name. They need no file that is open."""

    def __init__(self, parts: dict[str, memoryview]) -> None:
        self._parts = parts
        self.files = list(parts)
        self.zip = self.fid = None  # of numpy's class, as after its close()

    @property
    def f(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(**self)

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        part = self._parts.get(key)
        if part is None and key.endswith(".npy"):
            part = self._parts.get(key[:-4])
        if part is None:
            raise KeyError(f"{key} is not a file in the archive; it has {', '.join(self.files)}")
        return _codec.view_npy(part)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (key in self._parts or (key.endswith(".npy") and key[:-4] in self._parts))

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"npz with {', '.join(self.files)}"

    def close(self) -> None:
        self._parts = {}


def read(path: str, place: Place) -> Arrays:
    """The arrays of the file, writable, in memory from *place*. Raises OSError, Unreadable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        members = _directory(fd)
        parts = place([member.size for member in members], lambda parts: _fill(fd, members, parts))
    except (struct.error, zlib.error, UnicodeDecodeError, _codec.DecodeError) as error:
        raise Unreadable(str(error)) from None
    finally:
        os.close(fd)
    return Arrays({member.name: part for member, part in zip(members, parts, strict=True)})


def own_memory(sizes: Sequence[int], fill: Callable[[list[memoryview]], None]) -> list[memoryview]:
    """A Place: memory of this process, that goes when the last array on it does."""
    parts = [np.empty(size, np.uint8).data for size in sizes]
    fill(parts)
    return parts


@dataclass(frozen=True, slots=True)
class _Member:
    name: str  # without its `.npy`
    offset: int  # of its local head
    packed: int
    size: int
    method: int
    crc: int


def _directory(fd: int) -> list[_Member]:
    file_bytes = os.fstat(fd).st_size
    end_at = file_bytes - _END.size
    if end_at < 0:
        raise Unreadable("shorter than an archive can be")
    signature, entries, size, offset, comment = _END.unpack(os.pread(fd, _END.size, end_at))
    if signature != b"PK\x05\x06" or comment:
        raise Unreadable("no archive ends where the file does")
    locator = os.pread(fd, _LOCATOR.size, end_at - _LOCATOR.size) if end_at >= _LOCATOR.size else b""
    if locator[:4] == b"PK\x06\x07":
        _, at = _LOCATOR.unpack(locator)
        signature, entries, size, offset = _END64.unpack(os.pread(fd, _END64.size, min(at, file_bytes)))
        if signature != b"PK\x06\x06":
            raise Unreadable("no zip64 record where the archive's end says")
    if offset + size > end_at:
        raise Unreadable("the directory lies outside of the file")
    text = os.pread(fd, size, offset)
    members, at = [], 0
    for _ in range(entries):
        member, at = _entry(text, at)
        if member.packed > file_bytes or (member.method == _STORED and member.packed != member.size):
            raise Unreadable(f"member {member.name!r} is larger than the file")
        members.append(member)
    if len({member.name for member in members}) < len(members):
        raise Unreadable("two members of one name")
    return members


def _entry(text: bytes, at: int) -> tuple[_Member, int]:
    """The entry of the directory there, and where the next one begins."""
    signature, flags, method, crc, packed, size, *lengths, offset = _ENTRY.unpack_from(text, at)
    at += _ENTRY.size
    name_bytes, extra_bytes, comment_bytes = lengths
    name = text[at : at + name_bytes].decode()
    if signature != b"PK\x01\x02" or flags & _IS_ENCRYPTED or method not in (_STORED, _DEFLATED):
        raise Unreadable(f"member {name!r} is in no form that is read here")
    if not name.endswith(".npy"):
        raise Unreadable(f"member {name!r} is no array")
    at += name_bytes
    wide = [packed, size, offset]
    wide = _widened(text[at : at + extra_bytes], wide) if _FULL32 in wide else wide
    return _Member(name[:-4], wide[2], wide[0], wide[1], method, crc), at + extra_bytes + comment_bytes


def _widened(extra: bytes, values: list[int]) -> list[int]:
    """packed, size, offset as the zip64 extra field has those that do not fit 32 bits (in the order size, packed)."""
    packed, size, offset = values
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _ZIP64:
            words = [word for (word,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
            size, packed, offset = (words.pop(0) if v == _FULL32 and words else v for v in (size, packed, offset))
            break
        extra = extra[4 + length :]
    return [packed, size, offset]


def _fill(fd: int, members: Sequence[_Member], parts: Sequence[memoryview]) -> None:
    for member, part in zip(members, parts, strict=True):
        signature, name_bytes, extra_bytes = _LOCAL.unpack(os.pread(fd, _LOCAL.size, member.offset))
        if signature != b"PK\x03\x04":
            raise Unreadable(f"member {member.name!r} does not lie where the directory says")
        at = member.offset + _LOCAL.size + name_bytes + extra_bytes
        if member.method == _STORED:
            _read(fd, at, part)
        else:
            _inflate(fd, at, member.packed, part)
        if zlib.crc32(part) != member.crc:
            raise Unreadable(f"member {member.name!r} does not match its check sum")
        _codec.view_npy(part)  # raises for what is no plain array


def _read(fd: int, at: int, part: memoryview) -> None:
    while part:
        count = os.preadv(fd, [part], at)
        if not count:
            raise Unreadable("the file ends inside a member")
        part, at = part[count:], at + count


def _inflate(fd: int, at: int, packed: int, part: memoryview) -> None:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    end, done, rest = at + packed, 0, b""
    while done < len(part):
        if not rest:
            rest = os.pread(fd, min(_PIECE_BYTES, end - at), at)
            at += len(rest)
        piece = decoder.decompress(rest, min(_PIECE_BYTES, len(part) - done))
        if not piece and (decoder.eof or not rest):
            raise Unreadable("a member is shorter than the directory says")
        part[done : done + len(piece)] = piece
        done, rest = done + len(piece), decoder.unconsumed_tail
