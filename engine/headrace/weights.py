"""Weights that all replicas of a model on this machine have in common: the second replica costs page tables.

    from headrace import weights

    weights.load(path)             an .npy file: an array; .npz or .safetensors: arrays by name
    weights.share(name, build)     what build() returns, with the memory of its arrays in common
    weights.torch_module(build, path)   a torch module with the tensors of a .pt or .safetensors file

While a native model is loaded, numpy.load() of a file in the model's directory means load(): sharing needs no change
to the model. Arrays are writable, and what a replica writes is its own (a page is copied when it is written to). Less
than 1 MiB of arrays, and whatever is read after the load, is read into the process's own memory, with equal results; so
is everything where no server runs.

An .npy or .safetensors file is mapped where it lies; the page cache is the common memory. Replace such a file by
renaming another to its name: one that is cut or written in place changes, or ends, the processes that have it mapped.
Of an .npz file the arrays are decoded once, into memory that the server holds for the model (weight_store.py).
"""

import contextlib
import importlib
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from headrace import npz_file, safetensors
from headrace.errors import ModelError
from headrace.weight_store import SHARED_LEAST_BYTES, Fill, Store

Array = npt.NDArray[Any]
Path = str | os.PathLike[str]
T = TypeVar("T")

_NUMPY_DTYPES = {
    **{
        f"{kind}{bits}": f"<{letter}{bits // 8}"
        for kind, letter in (("I", "i"), ("U", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    "C64": "<c8",
    "BOOL": "?",
}
_TORCH_DTYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"{kind}{bits}": f"{word}{bits}" for kind, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class _Scope:
    """A load under way. store: None when the model is too small; directory: where numpy.load() shares, "" nowhere."""

    store: Store | None
    directory: str


_scope: ContextVar[_Scope | None] = ContextVar("headrace_weights", default=None)
_numpy_load = np.load


def _store() -> Store | None:
    """A thread that a load has started may outlive it."""
    scope = _scope.get()
    return scope.store if scope is not None and scope.store is not None and scope.store.is_open else None


@contextlib.contextmanager
def loading(store: Store | None, directory: Path | None = None) -> Iterator[None]:
    """While inside, what is loaded is shared through *store*, and by numpy.load() too if it lies in *directory*."""
    if directory is not None:
        np.load = _load_in_directory
    token = _scope.set(_Scope(store, "" if directory is None else os.path.abspath(directory) + os.sep))
    try:
        yield
    finally:
        _scope.reset(token)


def load(path: Path) -> Any:
    """An .npy file's array, or the arrays of an .npz or .safetensors file by name (a mapping). By content, not suffix.

    Raises OSError, and ModelError for another kind of file, for pickled objects and for dtypes that numpy has not.
    """
    path = os.path.abspath(path)
    with open(path, "rb") as file:
        magic = file.read(10)
    try:
        if magic.startswith(b"\x93NUMPY"):
            return _npy(path)
        if magic.startswith(b"PK"):
            return _npz(path)
    except (ValueError, npz_file.Unreadable) as error:
        raise ModelError(f"{path} holds no plain arrays: {error}") from None
    if magic[8:10] in (b'{"', b"{ ", b"{}"):
        return {name: _numpy_array(path, name, tensor) for name, tensor in _safetensors(path).items()}
    raise ModelError(f"{path} is neither .npy, .npz nor .safetensors; for other objects use weights.share()")


def share(name: str, build: Callable[[], T]) -> T:
    """What build() returns. It is called by the first replica; the others get a copy whose arrays have that memory.

    name: unique within the model. The object is pickled (protocol 5, buffers out of band). One that cannot be, or whose
    arrays are less than 1 MiB or than half of it (a tree ensemble), is built by each replica for itself.
    """
    store = _store()
    if store is None:
        return build()
    key = f"object:{name}"
    with store.locked():
        parts = store.get(key)
        if parts is None:
            value = build()
            buffers: list[pickle.PickleBuffer] = []
            try:
                stream = pickle.dumps(value, 5, buffer_callback=buffers.append)
                contents = [memoryview(stream), *(buffer.raw() for buffer in buffers)]
            except (pickle.PicklingError, TypeError, AttributeError, BufferError, RecursionError):
                return value
            if sum(map(len, contents[1:])) < max(SHARED_LEAST_BYTES, len(stream)):
                return value
            del value
            parts = store.put(key, [len(content) for content in contents], lambda parts: _copy(contents, parts))
    shared: T = pickle.loads(parts[0], buffers=parts[1:])
    return shared


def torch_module(build: Callable[[], T], path: Path, strict: bool = True) -> T:
    """The torch module that build() returns, with the tensors of *path* as its parameters, mapped and not copied.

    build: called on torch's meta device, so that it neither takes memory nor draws numbers for what is replaced at
    once. path: a .safetensors file, or a state dict as torch.save() writes it. strict: as in load_state_dict().
    Raises ModelError when the file leaves a parameter or buffer without content, with its name.
    """
    torch: Any = importlib.import_module("torch")

    path = os.path.abspath(path)
    if path.endswith(".safetensors"):
        state = {name: _torch_tensor(torch, path, name, it) for name, it in _safetensors(path).items()}
    else:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        _note_mapped(os.path.getsize(path))
    with torch.device("meta"):
        module: Any = build()
    module.load_state_dict(state, strict=strict, assign=True)
    empty = [name for name, it in (*module.named_parameters(), *module.named_buffers()) if it.is_meta]
    if empty:
        raise ModelError(f"{path} has nothing for {', '.join(empty[:5])}: set it in build() under torch.device('cpu')")
    result: T = module
    return result


def _load_in_directory(file: Any, *args: Any, **kwargs: Any) -> Any:
    """numpy.load(), for all of the process: a file of the model that is being loaded is shared."""
    scope = _scope.get()
    if scope is not None and scope.directory and not args and not kwargs and isinstance(file, (str, os.PathLike)):
        path = os.path.abspath(file)
        if isinstance(path, str) and path.startswith(scope.directory):
            with contextlib.suppress(OSError, ValueError, npz_file.Unreadable):  # numpy then says what is wrong
                if path.endswith(".npz"):
                    return _npz(path)
                if path.endswith(".npy") and os.path.getsize(path) >= SHARED_LEAST_BYTES:
                    return _npy(path)
    return _numpy_load(file, *args, **kwargs)


def _npy(path: str) -> Array:
    size = os.path.getsize(path)
    if size < SHARED_LEAST_BYTES:
        array: Array = _numpy_load(path)
        return array
    mapped = np.asarray(_numpy_load(path, mmap_mode="c"))
    _note_mapped(size)
    return mapped


def _npz(path: str) -> npz_file.Arrays:
    store, stat = _store(), os.stat(path)
    key = f"file:{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"

    def place(sizes: Sequence[int], fill: Fill) -> list[memoryview]:
        if store is None or sum(sizes) < SHARED_LEAST_BYTES:
            return npz_file.own_memory(sizes, fill)
        with store.locked():
            return store.get(key) or store.put(key, sizes, fill)

    return npz_file.read(path, place)


def _safetensors(path: str) -> dict[str, safetensors.Tensor]:
    tensors = safetensors.read(path)
    _note_mapped(os.path.getsize(path))
    return tensors


def _numpy_array(path: str, name: str, tensor: safetensors.Tensor) -> Array:
    dtype = _NUMPY_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ModelError(f"{path}: tensor {name!r} is {tensor.dtype}, which numpy has not; use weights.torch_module()")
    flat = np.frombuffer(tensor.data, dtype) if len(tensor.data) else np.empty(0, dtype)
    return flat.reshape(tensor.shape)


def _torch_tensor(torch: Any, path: str, name: str, tensor: safetensors.Tensor) -> Any:
    dtype = getattr(torch, _TORCH_DTYPES.get(tensor.dtype, ""), None)
    if dtype is None:
        raise ModelError(f"{path}: tensor {name!r} is {tensor.dtype}, which this torch has not")
    if not len(tensor.data):
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)


def _note_mapped(size: int) -> None:
    store = _store()
    if store is not None and size >= SHARED_LEAST_BYTES:
        store.mapped_bytes += size


def _copy(contents: list[memoryview], parts: list[memoryview]) -> None:
    for content, part in zip(contents, parts, strict=True):
        part[:] = content
