"""safetensors files, mapped where they lie. Nothing in them is evaluated.

Source: the format's own description (safetensors, README, "Format"): a u64, little endian, is the length of a JSON head
{name: {"dtype", "shape", "data_offsets": [begin, end]}}; the data follows, and offsets count from where it begins.
"""

import math
import mmap
import os
import struct
from dataclasses import dataclass

import orjson

from headrace.errors import ModelError

HEAD_BYTES_MAX = 100_000_000  # as the format's own readers have it

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Tensor:
    """dtype: as the file says, such as F32 or BF16; data: writable, and nobody else sees what is written."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def read(path: str) -> dict[str, Tensor]:
    """The tensors by name. Raises OSError, ModelError for what is no such file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_LENGTH.size)
        head_bytes = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else size
        if head_bytes > min(size - _LENGTH.size, HEAD_BYTES_MAX):
            raise _broken(path, "its head is longer than the file or than 100 MB")
        try:
            head = orjson.loads(file.read(head_bytes))
            head.pop("__metadata__", None)
            entries = [(name, it["dtype"], tuple(it["shape"]), *it["data_offsets"]) for name, it in head.items()]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _broken(path, "its head does not say dtype, shape and data_offsets of each tensor in JSON") from None
        whole = memoryview(mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    data = whole[_LENGTH.size + head_bytes :]
    tensors = {}
    for name, dtype, shape, begin, end in entries:
        numbers = (*shape, begin, end)
        if any(type(number) is not int or number < 0 for number in numbers) or not begin <= end <= len(data):
            raise _broken(path, f"tensor {name!r} has no place in it")
        if not isinstance(dtype, str) or math.prod(shape) * item_bytes(dtype) != end - begin:
            raise _broken(path, f"tensor {name!r}: {end - begin} bytes are not {shape} of {dtype}")
        tensors[name] = Tensor(dtype, shape, data[begin:end])
    return tensors


def item_bytes(dtype: str) -> int:
    """Bytes of one number; -1 for a dtype that is not known. F8_E4M3 and the like have their width in front."""
    if dtype == "BOOL":
        return 1
    digits = dtype.lstrip("BFIUC").partition("_")[0]
    return int(digits) // 8 if digits in ("8", "16", "32", "64", "128") else -1


def _broken(path: str, why: str) -> ModelError:
    return ModelError(f"{path} is no safetensors file: {why}")
