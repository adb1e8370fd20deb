"""Micro-benchmarks of the codecs beside what they replace: `pytest bench/micro/test_codec_bench.py --benchmark-enable`.

Each round works through BODIES different bodies: one body over and over would be learnt by heart by the branch predictor, which no server's
traffic is. The group's members do the same work; every result is checked once.
"""

import io

import numpy as np
import orjson
import pytest

from headrace._codec import RowBuffer, encode_csv, encode_json, encode_npy, json_into, view_npy

BODIES = 50


def batches(shape, dtype, count=BODIES):
    return [np.random.default_rng(seed).standard_normal(shape).astype(dtype) for seed in range(count)]


def with_orjson(array, key):
    return orjson.dumps({key: array}, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("how", ["headrace", "orjson"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(32, 256), (1, 256)], ids=str)
def test_json_decode(benchmark, how, dtype, shape):
    benchmark.group = f"json decode {shape} {dtype}, {BODIES} bodies"
    arrays = batches(shape, dtype)
    bodies = [with_orjson(array, "instances") for array in arrays]
    rows = RowBuffer(dtype, 1 << 24)

    def ours(body):
        rows.reset()
        rows.append_json(body)
        return rows.array()

    def theirs(body):
        return np.asarray(orjson.loads(body)["instances"], dtype)

    decode = ours if how == "headrace" else theirs
    for body, array in zip(bodies, arrays, strict=True):
        np.testing.assert_array_equal(decode(body), array)
    benchmark(lambda: [decode(body) is None for body in bodies])


@pytest.mark.parametrize("how", ["headrace", "headrace into", "orjson"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(32, 256), (1, 10)], ids=str)
def test_json_encode(benchmark, how, dtype, shape):
    benchmark.group = f"json encode {shape} {dtype}, {BODIES} bodies"
    arrays = batches(shape, dtype)
    out = bytearray(1 << 20)
    encode = {
        "headrace": encode_json,
        "headrace into": lambda array: bytes(out[: json_into(array, out)]),
        "orjson": lambda array: with_orjson(array, "predictions"),
    }[how]
    for array in arrays:
        np.testing.assert_array_equal(np.asarray(orjson.loads(encode(array))["predictions"], dtype), array)
    timed = (lambda array: json_into(array, out)) if how == "headrace into" else encode
    benchmark(lambda: [timed(array) is None for array in arrays])


@pytest.mark.parametrize("how", ["headrace", "numpy.loadtxt"])
def test_csv_decode(benchmark, how):
    benchmark.group = "csv decode 1000x30 float64"
    table = batches((1000, 30), "float64", 1)[0]
    body = encode_csv(table)
    rows = RowBuffer("float64", 1 << 24)

    def ours():
        rows.reset()
        rows.append_csv(body)
        return rows.array()

    def theirs():
        return np.loadtxt(io.BytesIO(body), delimiter=",")

    decode = ours if how == "headrace" else theirs
    np.testing.assert_array_equal(decode(), table)
    benchmark(decode)


@pytest.mark.parametrize("how", ["headrace", "numpy.load"])
def test_npy_view(benchmark, how):
    benchmark.group = "npy 1x3x224x224 float32"
    image = batches((1, 3, 224, 224), "float32", 1)[0]
    body = encode_npy(image)
    read = (lambda: view_npy(body)) if how == "headrace" else (lambda: np.load(io.BytesIO(body)))
    np.testing.assert_array_equal(read(), image)
    benchmark(read)
