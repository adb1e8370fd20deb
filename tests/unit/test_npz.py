"""application/x-npz: what numpy writes is read; what is hostile is refused, with a reason, at a bounded cost."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.errors import DecodeError, HeadraceError, PayloadTooLarge
from headrace.npz import pick_array, read_npz

LIMIT = 1 << 20
X = np.arange(12, dtype=np.float32).reshape(3, 4)
Y = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))


def save(write: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


def pack(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.comment = comment
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def npy(x: Any) -> bytes:
    return save(np.save, x)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes(write: Callable[..., None]) -> None:
    arrays = read_npz(memoryview(save(write, X, y=Y, empty=np.empty((0, 4), np.float64))), LIMIT)
    assert list(arrays) == ["y", "empty", "arr_0"]
    np.testing.assert_array_equal(arrays["arr_0"], X)
    np.testing.assert_array_equal(arrays["y"], Y)
    assert arrays["empty"].shape == (0, 4)
    assert arrays["arr_0"].dtype == np.float32
    assert not arrays["arr_0"].flags.writeable


def test_a_stored_array_is_not_copied() -> None:
    """As long as it lies aligned, which is up to the length of its name."""
    views = 0
    for length in range(1, 9):
        body = save(np.savez, **{"x" * length: X})
        (array,) = read_npz(memoryview(body), LIMIT).values()
        start = np.frombuffer(body, np.uint8).ctypes.data
        views += start <= array.ctypes.data < start + len(body)
    assert views > 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no zip archive ends"),
        (b"PK\x03\x04" + bytes(100), "no zip archive ends"),
        (npy(X), "no zip archive ends"),
        (pack(("x.npy", npy(X)), comment=b"hello"), "no zip archive ends"),
        (pack(("x.npy", npy(X))) + b"\n", "no zip archive ends"),
        (pack(("x.txt", b"1 2 3")), "must be NAME.npy"),
        (pack(("npy", npy(X))), "must be NAME.npy"),
        (pack(("x.npy", b"1 2 3")), "array 'x'"),
        (pack(("x.npy", npy(np.array([{}], dtype=object)))), "array 'x'"),
        (pack(("x.npy", npy(X)), compression=zipfile.ZIP_BZIP2), "stored or deflated"),
        (pack(*[(f"{i}.npy", npy(X)) for i in range(65)]), "65 arrays are too many"),
    ],
)
def test_refused(body: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read_npz(memoryview(body), LIMIT)


def test_a_name_twice() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        body = pack(("x.npy", npy(X)), ("x.npy", npy(Y)))
    with pytest.raises(DecodeError, match=r"must be NAME\.npy"):
        read_npz(memoryview(body), LIMIT)


def test_encrypted() -> None:
    body = bytearray(pack(("x.npy", npy(X))))
    body[body.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DecodeError, match="encrypted"):
        read_npz(memoryview(body), LIMIT)


def test_zip64_directory() -> None:
    body = pack(("x.npy", npy(X)))
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 1)
    with pytest.raises(DecodeError, match="zip64"):
        read_npz(memoryview(body[:-22] + locator + body[-22:]), LIMIT)


def test_the_size_bound() -> None:
    zeros = np.zeros(LIMIT // 8)
    with pytest.raises(PayloadTooLarge, match="HEADRACE_MAX_REQUEST"):
        read_npz(memoryview(save(np.savez_compressed, zeros)), LIMIT)
    with pytest.raises(PayloadTooLarge, match="HEADRACE_MAX_REQUEST"):
        read_npz(memoryview(save(np.savez_compressed, zeros[:-1024], zeros[:2048])), LIMIT)
    assert len(read_npz(memoryview(save(np.savez_compressed, zeros[:-1024])), LIMIT)) == 1


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damage_is_noticed_or_harmless(write: Callable[..., None]) -> None:
    whole = save(write, x=X, y=Y)
    generator = random.Random(3)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if generator.random() < 0.2:
            del damaged[generator.randrange(len(damaged)) :]
        try:
            arrays = read_npz(memoryview(damaged), LIMIT)
        except HeadraceError:
            continue
        assert all(np.array_equal(x, X) or np.array_equal(x, Y) for x in arrays.values())


def test_pick_array() -> None:
    assert pick_array({"anything": X}) is X
    assert pick_array({"a": Y, "inputs": X}) is X
    assert pick_array({"inputs": Y, "instances": X}) is X
    with pytest.raises(DecodeError, match="it holds 'a', 'b'"):
        pick_array({"b": X, "a": Y})
    with pytest.raises(DecodeError, match="it holds none"):
        pick_array({})
