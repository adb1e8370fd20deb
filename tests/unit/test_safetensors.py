"""safetensors files: built here by hand from the format's description, mapped, and refused when they make no sense."""

import json
import struct

import numpy as np
import pytest

from headrace import safetensors, weights
from headrace.errors import ModelError


def document(head, data=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def write(tmp_path):
    def write(*arguments):
        path = tmp_path / "model.safetensors"
        path.write_bytes(document(*arguments))
        return str(path)

    return write


def test_tensors_have_their_dtype_shape_and_data(write):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([-1, 2], np.int64)
    head = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 3], 0, 24),
        "b": entry("I64", [2], 24, 40),
        "half": entry("BF16", [2], 40, 44),
        "none": entry("F64", [0, 4], 44, 44),
        "one": entry("BOOL", [], 44, 45),
    }
    path = write(head, a.tobytes() + b.tobytes() + b"\0\x80\x7f\0" + b"\1")
    found = safetensors.read(path)
    assert list(found) == ["a", "b", "half", "none", "one"]
    assert (found["half"].dtype, found["half"].shape, bytes(found["half"].data)) == ("BF16", (2,), b"\0\x80\x7f\0")
    del head["half"]
    path = write(head, a.tobytes() + b.tobytes() + b"\0\x80\x7f\0" + b"\1")
    arrays = weights.load(path)
    np.testing.assert_array_equal(arrays["a"], a, strict=True)
    np.testing.assert_array_equal(arrays["b"], b, strict=True)
    assert arrays["none"].shape == (0, 4)
    assert arrays["one"] == np.array(True)
    arrays["a"][0] = 7  # a page of its own
    np.testing.assert_array_equal(weights.load(path)["a"], a)


def test_a_dtype_that_numpy_has_not_is_named(write):
    with pytest.raises(ModelError, match=r"tensor 'h' is BF16, which numpy has not; use weights\.torch_module"):
        weights.load(write({"h": entry("BF16", [1], 0, 2)}, b"\0\0"))


@pytest.mark.parametrize(
    ("head", "data", "why"),
    [
        (b"[1", b"", "JSON"),
        (b"[]", b"", "JSON"),
        ({"a": 1}, b"", "JSON"),
        ({"a": {"dtype": "F32"}}, b"", "JSON"),
        ({"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}, b"1234", "JSON"),
        ({"a": entry("F32", [1], 0, 8)}, b"1234", "tensor 'a' has no place in it"),
        ({"a": entry("F32", [1], 4, 0)}, b"1234", "tensor 'a' has no place in it"),
        ({"a": entry("F32", [-1], 0, 4)}, b"1234", "tensor 'a' has no place in it"),
        ({"a": entry("F32", [1.0], 0, 4)}, b"1234", "tensor 'a' has no place in it"),
        ({"a": entry("F32", [2], 0, 4)}, b"1234", r"4 bytes are not \(2,\) of F32"),
        ({"a": entry("F7", [4], 0, 4)}, b"1234", "of F7"),
        ({"a": entry(None, [4], 0, 4)}, b"1234", "of None"),
    ],
)
def test_nonsense_is_refused_with_the_reason(write, head, data, why):
    with pytest.raises(ModelError, match=why):
        safetensors.read(write(head, data))


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 3) + b"{}"])
def test_a_head_longer_than_the_file_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="longer than the file"):
        safetensors.read(str(path))
