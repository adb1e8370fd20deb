"""Micro-benchmarks of the codecs beside what they replace: `pytest bench/micro/test_codec_bench.py --benchmark-enable`.

Each round works through BODIES different bodies: one body over and over would be learnt by heart by the branch
predictor, which no server's traffic is. The members of a group do the same work; every result is checked once.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest

from headrace._codec import RowBuffer, encode_csv, encode_json, encode_npy, json_into, view_npy

BODIES = 50

Array = npt.NDArray[Any]


def batches(shape: tuple[int, ...], dtype: str, count: int = BODIES) -> list[Array]:
    return [np.random.default_rng(seed).standard_normal(shape).astype(dtype) for seed in range(count)]


def with_orjson(array: Array, key: str) -> bytes:
    return orjson.dumps({key: array}, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("how", ["headrace", "orjson"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(32, 256), (1, 256)], ids=str)
def test_json_decode(benchmark: Any, how: str, dtype: str, shape: tuple[int, ...]) -> None:
    benchmark.group = f"json decode {shape} {dtype}, {BODIES} bodies"
    arrays = batches(shape, dtype)
    bodies = [with_orjson(array, "instances") for array in arrays]
    rows = RowBuffer(dtype, 1 << 24)

    def ours(body: bytes) -> Array:
        rows.reset()
        rows.append_json(body)
        return rows.array()

    def theirs(body: bytes) -> Array:
        return np.asarray(orjson.loads(body)["instances"], dtype)

    decode = ours if how == "headrace" else theirs
    for body, array in zip(bodies, arrays, strict=True):
        np.testing.assert_array_equal(decode(body), array)
    benchmark(lambda: [len(decode(body)) for body in bodies])


@pytest.mark.parametrize("how", ["headrace", "headrace into", "orjson"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(32, 256), (1, 10)], ids=str)
def test_json_encode(benchmark: Any, how: str, dtype: str, shape: tuple[int, ...]) -> None:
    benchmark.group = f"json encode {shape} {dtype}, {BODIES} bodies"
    arrays = batches(shape, dtype)
    out = bytearray(1 << 20)

    def into(array: Array) -> bytes:
        return bytes(out[: json_into(array, out)])

    def theirs(array: Array) -> bytes:
        return with_orjson(array, "predictions")

    encode = {"headrace": encode_json, "headrace into": into, "orjson": theirs}[how]
    for array in arrays:
        np.testing.assert_array_equal(np.asarray(orjson.loads(encode(array))["predictions"], dtype), array)
    if how == "headrace into":
        benchmark(lambda: [json_into(array, out) for array in arrays])
    else:
        benchmark(lambda: [len(encode(array)) for array in arrays])


@pytest.mark.filterwarnings("ignore:The 'float_precision' argument is deprecated")  # by pandas 3, for pandas 4
@pytest.mark.parametrize("how", ["headrace", "numpy.loadtxt", "pandas"])
def test_csv_decode(benchmark: Any, how: str) -> None:
    benchmark.group = "csv decode 1000x30 float64"
    table = batches((1000, 30), "float64", 1)[0]
    body = encode_csv(table)
    rows = RowBuffer("float64", 1 << 24)

    def ours() -> Array:
        rows.reset()
        rows.append_csv(body)
        return rows.array()

    def theirs() -> Array:
        return np.loadtxt(io.BytesIO(body), delimiter=",")

    def pandas() -> Array:
        # Its C reader, rounding as correctly as the others do; its default is faster and may be off by a bit.
        frame = reader.read_csv(io.BytesIO(body), header=None, engine="c", float_precision="round_trip")
        return frame.to_numpy()

    reader: Any = pytest.importorskip("pandas") if how == "pandas" else None
    decode = {"headrace": ours, "numpy.loadtxt": theirs, "pandas": pandas}[how]
    np.testing.assert_array_equal(decode(), table)
    benchmark(decode)


@pytest.mark.parametrize("how", ["headrace", "pandas"])
def test_csv_decode_by_pandas_default(benchmark: Any, how: str) -> None:
    benchmark.group = "csv decode 1000x30 float32, pandas as it comes"
    table = batches((1000, 30), "float32", 1)[0]
    body = encode_csv(table)
    rows = RowBuffer("float32", 1 << 24)
    reader: Any = pytest.importorskip("pandas") if how == "pandas" else None

    def ours() -> Array:
        rows.reset()
        rows.append_csv(body)
        return rows.array()

    def theirs() -> Array:
        return reader.read_csv(io.BytesIO(body), header=None, engine="c").to_numpy(np.float32)

    decode = ours if how == "headrace" else theirs
    np.testing.assert_allclose(decode(), table, rtol=1e-6)
    benchmark(decode)


@pytest.mark.parametrize("how", ["headrace", "numpy.load"])
def test_npy_view(benchmark: Any, how: str) -> None:
    benchmark.group = "npy 1x3x224x224 float32"
    image = batches((1, 3, 224, 224), "float32", 1)[0]
    body = encode_npy(image)
    read = (lambda: view_npy(body)) if how == "headrace" else (lambda: np.load(io.BytesIO(body)))
    np.testing.assert_array_equal(read(), image)
    benchmark(read)
