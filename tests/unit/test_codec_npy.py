"""npy bodies (headrace._codec)."""

import gc
import io

import numpy as np
import pytest

from headrace._codec import DecodeError, RowBuffer, ShapeMismatch, encode_npy, npy_into, view_npy
from tests.unit.arrays import assert_same_array


def saved(array, version=None):
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version)
    return out.getvalue()


def with_head(text, data=b"", version=1):
    text = text.encode() if isinstance(text, str) else text
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(12, dtype=">i2").reshape(2, 3, 2),
    np.array(3.5),
    np.zeros((0, 5)),
    np.zeros((5, 0), np.int8),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array(["ab", "c"]),
    np.array([b"ab", b"c"]),
    np.array(["2020-01-01"], "M8[D]"),
    np.ones((1,) * 32, np.float16),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_view_is_what_numpy_reads(array, version):
    body = saved(array, version)
    view = view_npy(body)
    assert_same_array(view, array)
    assert view.dtype == array.dtype
    assert not view.size or not view.flags.writeable
    assert view.flags.f_contiguous == np.load(io.BytesIO(body)).flags.f_contiguous


def test_view_copies_nothing_and_keeps_the_body():
    body = bytearray(saved(np.arange(6, dtype=np.int32)))
    view = view_npy(memoryview(body))
    body[-4:] = (99).to_bytes(4, "little")
    assert view[-1] == 99
    with pytest.raises(BufferError):
        body.append(0)
    del view
    gc.collect()
    body.append(0)


@pytest.mark.parametrize("array", ARRAYS[:10], ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_numpy_reads_what_we_write(array):
    body = encode_npy(array)
    assert_same_array(np.load(io.BytesIO(body)), array)
    assert (len(body) - array.nbytes) % 64 == 0
    out = bytearray(b"#" * (len(body) + 5))
    assert npy_into(array, out) == len(body)
    assert out == body + b"#####"
    assert npy_into(array, memoryview(out)[: len(body)]) == len(body)
    assert npy_into(array, memoryview(out)[: len(body) - 1]) == -len(body)


@pytest.mark.parametrize("array", [np.array([None]), np.zeros(2, "i4,f4")])
def test_only_plain_arrays_are_written(array):
    with pytest.raises(TypeError, match="hold numbers"):
        encode_npy(array)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not an npy body"),
        (b"\x93NUMPY\x01", "not an npy body"),
        (b"PK\x03\x04" + b"\0" * 20, "not an npy body"),
        (with_head(GOOD, b"1234", version=4), "npy version 4.0"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "a head of 65535 bytes in a body of 12"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "a head of 4294967295 bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff", "ends inside its head"),
        (with_head(GOOD, b"123"), "3 bytes of data where its shape and dtype <f4 ask for 4"),
        (with_head(GOOD, b"12345"), "5 bytes of data"),
        (with_head(GOOD.replace("(1,)", "(4611686018427387904,)"), b"1234"), "sizes"),
        (with_head(GOOD.replace("(1,)", "(99999999999, 99999999999)"), b"1234"), "ask for"),
        (with_head(GOOD.replace("(1,)", "(4294967296, 4294967296, 0)"), b"1234"), "4 bytes of data"),
        (with_head(GOOD.replace("(1,)", "(1)"), b"1234"), "tuple of sizes"),
        (with_head(GOOD.replace("(1,)", "(-1,)"), b"1234"), "tuple of sizes"),
        (with_head(GOOD.replace("(1,)", "(1, 1"), b"1234"), "tuple of sizes"),
        (with_head(GOOD.replace("(1,)", "(1 1)"), b"1234"), "tuple of sizes"),
        (with_head(GOOD.replace("(1,)", "(" + "1," * 33 + ")"), b"1234"), "more than 32 dimensions"),
        (with_head(GOOD.replace("(1,)", "[1]"), b"1234"), "no tuple"),
        (with_head(GOOD.replace("False", "0"), b"1234"), "neither True nor False"),
        (with_head(GOOD.replace("'<f4'", "'|O'"), b"12345678"), "would need pickle"),
        (with_head(GOOD.replace("'<f4'", "'|V4'"), b"1234"), "structured and void dtypes"),
        (with_head(GOOD.replace("'<f4'", "[('a', '<f4')]"), b"1234"), "structured dtypes are refused"),
        (with_head(GOOD.replace("'<f4'", "'<f3'"), b"1234"), "no dtype of numbers"),
        (with_head(GOOD.replace("'<f4'", "'f4,f4'"), b"1234"), "no dtype of numbers"),
        (with_head(GOOD.replace("'<f4'", "'|S0'"), b"1234"), "no dtype of numbers"),
        (with_head(GOOD.replace("'<f4'", "'<f\\x34'"), b"1234"), "no string"),
        (with_head(GOOD.replace("'shape'", "'form'"), b"1234"), "must have the keys"),
        (with_head("{'descr': '<f4', 'fortran_order': False}", b"1234"), "must have the keys"),
        (with_head(GOOD.replace("'descr': '<f4'", "'descr': '<f4', 'descr': '<f4'"), b"1234"), "each once"),
        (with_head("__import__('os').abort()", b"1234"), "no dict"),
        (with_head(GOOD + "x", b"1234"), "no dict"),
        (with_head(GOOD.replace("'<f4',", "'<f4'"), b"1234"), "comma is missing"),
        (with_head(b"{" + b"\xff" * 50, b"1234"), "must be strings"),
    ],
)
def test_a_bad_body_is_refused_with_the_reason(body, words):
    with pytest.raises(DecodeError) as caught:
        view_npy(body)
    assert words in str(caught.value)


def test_every_cut_of_a_good_body_is_refused():
    body = saved(np.arange(5.0))
    for length in range(len(body)):
        with pytest.raises(DecodeError):
            view_npy(body[:length])


def test_heads_in_other_quotes_and_order_are_read():
    body = with_head('{"shape":(2L,1),"descr":"<i2","fortran_order":True}\n', b"\x01\0\x02\0")
    assert view_npy(body).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([[1.5, 2.5]]), "float32"),
        (np.array([[1, 2]], np.uint8), "float32"),
        (np.array([[True, False]]), "float64"),
        (np.array([[1, 2]], ">f4"), "float32"),
        (np.asfortranarray([[1, 2], [3, 4]]), "int32"),
        (np.array([[1, 2]], np.float16), "float32"),
        (np.array([[3, 4]], np.int64), "uint8"),
        (np.arange(20.0).reshape(2, 10)[:, ::3], "float64"),
    ],
)
def test_rows_are_converted(array, dtype):
    rows = RowBuffer(dtype, 1000)
    assert rows.append_npy(saved(array)) == len(array)
    assert rows.append_array(array) == len(array)
    assert_same_array(rows.array(), np.concatenate([array, array]).astype(dtype))


@pytest.mark.parametrize(
    ("array", "dtype", "words"),
    [
        (np.array([1.0]), "int64", "rows of float64 where the model takes int64"),
        (np.array([1j]), "float32", "rows of complex128"),
        (np.array(["1"]), "float32", "where the model takes float32"),
        (np.array([300]), "uint8", "beyond the range of uint8"),
        (np.array([-1], np.int8), "uint32", "beyond the range of uint32"),
        (np.array(1.0), "float64", "without dimensions"),
        (np.array(1), "float64", "without dimensions"),
    ],
)
def test_rows_that_would_lose_their_meaning_are_refused(array, dtype, words):
    rows = RowBuffer(dtype, 1000)
    with pytest.raises(DecodeError, match=words):
        rows.append_array(array)
    assert rows.rows == 0


def test_rows_of_another_shape_are_refused():
    rows = RowBuffer("float32", 1000)
    rows.append_array(np.ones((2, 3), np.float32))
    with pytest.raises(ShapeMismatch, match=r"shape \(4,\) where the batch holds rows of shape \(3,\)"):
        rows.append_npy(saved(np.ones((1, 4), np.float32)))
    assert rows.rows == 2


def test_a_list_is_no_array():
    with pytest.raises(TypeError, match="an array is expected, not list"):
        RowBuffer("float32", 1000).append_array([1, 2])


def test_large_arrays_pass_unharmed():
    many = np.random.default_rng(5).standard_normal((1000, 50)).astype(np.float32)
    rows = RowBuffer("float32", 1 << 24)
    rows.append_npy(saved(many))
    rows.append_array(many)
    assert_same_array(rows.array(), np.concatenate([many, many]))
