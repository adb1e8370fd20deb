"""application/x-npz bodies: zip archives of npy arrays, as numpy.savez and savez_compressed write them."""

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy.typing as npt

from headrace import _codec
from headrace.errors import DecodeError, PayloadTooLarge

ARRAYS_MOST = 64
DIRECTORY_BYTES_MOST = 64 << 10

_END = struct.Struct(
    "<4s4xHHIIH"
)  # end of central directory record (APPNOTE.TXT, 4.3.16): ..., entries, size, offset, comment
_LOCATOR = b"PK\x06\x07"  # of a zip64 record, 20 bytes before the end record (4.3.15)
_LOCATOR_BYTES = 20
_LOCAL = struct.Struct("<4s22xHH")  # local file header (4.3.7): ..., length of name, length of extra field
_IS_ENCRYPTED = 1
_PREFERRED = ("instances", "inputs")


def read_npz(body: memoryview, max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name. Stored ones are views on *body* where they lie aligned in it; deflated ones are decoded.

    max_bytes: of all arrays together. DecodeError for what is no such archive, PayloadTooLarge past max_bytes.
    """
    _check_end(body)
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(_Window(body)) as archive:
            for info in archive.infolist():
                name, dot, extension = info.filename.rpartition(".")
                if not dot or extension != "npy" or name in arrays:
                    raise DecodeError(
                        f"npz: member {info.filename[:100]!r} is no array of its own; each must be NAME.npy"
                    )
                max_bytes -= info.file_size
                if max_bytes < 0:
                    raise PayloadTooLarge("npz: its arrays are larger than HEADRACE_MAX_REQUEST allows a body to be")
                try:
                    arrays[name] = _codec.view_npy(_content(body, archive, info))
                except _codec.DecodeError as error:
                    raise DecodeError(f"npz: array {name[:100]!r}: {error}") from None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DecodeError(f"body is not npz as its content-type says: {error}") from None
    return arrays


def pick_array(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The one that a model with one input gets: the only one, else `instances` or `inputs`. Else DecodeError."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    for name in _PREFERRED:
        if name in arrays:
            return arrays[name]
    names = ", ".join(map(repr, sorted(arrays)))[:200] or "none"
    raise DecodeError(f"npz must hold one array, or one that is named `instances` or `inputs`; it holds {names}")


def _check_end(body: memoryview) -> None:
    """Bounds what the directory makes zipfile do. It must end the body: with a comment behind it there could be two."""
    if len(body) < _END.size or bytes(body[-_END.size :][:4]) != b"PK\x05\x06":
        raise DecodeError("body is not npz as its content-type says: no zip archive ends where it does")
    _, _, entries, size, _, comment = _END.unpack(body[-_END.size :])
    locator = body[: -_END.size][-_LOCATOR_BYTES:]
    if comment or bytes(locator[:4]) == _LOCATOR:
        raise DecodeError("npz: archives with a comment or in zip64 form are not read")
    if entries > ARRAYS_MOST or size > DIRECTORY_BYTES_MOST:
        raise DecodeError(f"npz: {entries} arrays are too many; at most {ARRAYS_MOST} are read from one body")


def _content(body: memoryview, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> memoryview:
    """A member's bytes. DecodeError, or one of zipfile's errors."""
    if info.flag_bits & _IS_ENCRYPTED:
        raise DecodeError("npz: encrypted archives are not read")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        with archive.open(info) as member:
            return memoryview(member.read(info.file_size))
    if info.compress_type != zipfile.ZIP_STORED:
        raise DecodeError("npz: arrays must be stored or deflated")
    header = body[info.header_offset : info.header_offset + _LOCAL.size]
    if len(header) < _LOCAL.size:
        raise DecodeError("npz: a member lies outside of the body")
    signature, name_length, extra_length = _LOCAL.unpack(header)
    start = info.header_offset + _LOCAL.size + name_length + extra_length
    content = body[start : start + info.file_size]
    if signature != b"PK\x03\x04" or len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise DecodeError("npz: a member does not match its check sum; was the body cut or changed?")
    return content


class _Window(io.RawIOBase):
    """A file over memory, without a copy."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._memory)}[whence]
        if base + offset < 0:
            raise ValueError("negative position")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._memory[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
