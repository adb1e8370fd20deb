"""JSON bodies to rows and arrays to JSON (headrace._codec)."""

import gc

import numpy as np
import orjson
import pytest

from headrace._codec import BufferFull, DecodeError, NotNumbers, RowBuffer, ShapeMismatch, encode_json, json_into
from tests.unit.arrays import assert_same_array

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def decoded(body, dtype="float32"):
    rows = RowBuffer(dtype, 1 << 20)
    assert rows.append_json(body) == rows.rows
    return rows.array()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"instances": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
        (b'{"inputs": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
        (b"[[1,2],[3,4]]", [[1, 2], [3, 4]]),
        (b'{"instances": [1, 2, 3]}', [1, 2, 3]),
        (b"[1,2,3]", [1, 2, 3]),
        (b"[[[1],[2]],[[3],[4]]]", [[[1], [2]], [[3], [4]]]),
        (b" \r\n\t[ 1 ,\n-2.5e0\t, 3E+0 ] \n", [1, -2.5, 3]),
        (b'{"data": [1, 2, 3, 4, 5, 6], "shape": [1, 3, 2]}', [[[1, 2], [3, 4], [5, 6]]]),
        (b'{"shape": [2, 2], "data": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
        (b'{"data": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
        (b'{"inputs":[{"name":"x","shape":[2,1],"datatype":"FP32","data":[7,8]}],"id":"1"}', [[7], [8]]),
        (b'{"inputs": [ {"parameters": {"a": [null]}, "data": [[7, 8]]} ] }', [[7, 8]]),
        (b'{"signature": "s", "instances": [1], "x": {"y": [true, null, "\\u00e9\\ud83d\\ude00\xc3\xa9"]}}', [1]),
        (b'{"data": [9], "inputs": [8], "instances": [7]}', [7]),
        (b'{"instances": [7], "inputs": [8, 8], "data": "no"}', [7]),
        (b'{"instances": [1, 2], "instances": [3]}', [3]),
        (b"[[],[]]", np.empty((2, 0))),
        (b"[]", np.empty(0)),
        (b'{"instances":[]}', np.empty(0)),
        (b"[" * 32 + b"1" + b"]" * 32, np.ones((1,) * 32)),
    ],
)
def test_shapes_that_are_understood(body, expected):
    array = decoded(body)
    assert array.dtype == np.float32
    assert_same_array(array, np.asarray(expected, np.float32))
    assert_same_array(decoded(memoryview(bytearray(body)), "float64"), np.asarray(expected, np.float64))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (
            b'{"instances":[[1,2],[1,2],[1,2],[1,"a"]]}',
            NotNumbers,
            '$.instances[3][1] is a string; every row of "instances" must hold numbers',
        ),
        (
            b'{"instances":[[1,2,3,4],[1,2,3,4],[1,2,3,4,5]]}',
            NotNumbers,
            "$.instances[2] has 5 elements where $.instances[0] has 4",
        ),
        (b"[[[1],[2]],[[1]]]", NotNumbers, "$[1] has 1 element where $[0] has 2"),
        (b"[[],[1]]", NotNumbers, "$[1] has 1 element where $[0] has 0"),
        (b'{"inputs":[1,null]}', NotNumbers, "$.inputs[1] is null"),
        (b"[true]", NotNumbers, "$[0] is true; every row of the array must hold numbers"),
        (b"[[1],[false]]", NotNumbers, "$[1][0] is false"),
        (b'{"instances":[{"b64":"AA=="}]}', NotNumbers, "$.instances[0] is an object"),
        (b'{"instances":{"a":1}}', NotNumbers, "$.instances is an object; a list of rows is expected"),
        (b"[1,[2]]", NotNumbers, "$[1] is a list where $[0] is a number"),
        (b"[[1],2]", NotNumbers, "$[1] is a number where $[0] is a list"),
        (b'{"x":[1]}', NotNumbers, 'no "instances", "inputs" or "data"'),
        (b'{"inputs":[{"name":"x"}]}', NotNumbers, '$.inputs[0] has no "data"'),
        (b'{"inputs":[{"data":[1]},{"data":[2]}]}', NotNumbers, "several tensors"),
        (b'{"inputs":[{"data":["a"]}]}', NotNumbers, "$.inputs[0].data[0] is a string"),
        (b"3", NotNumbers, "$ is a number"),
        (b'"x"', NotNumbers, "$ is a string"),
        (b"[NaN]", DecodeError, "$[0] is NaN, which JSON has no word for"),
        (b"[[1,-Infinity]]", DecodeError, "$[0][1] is -Infinity"),
        (b'{"a":Infinity,"instances":[1]}', DecodeError, "byte 5: JSON has no Infinity"),
        (b"[1,2,1e39]", DecodeError, "$[2] is 1e39, beyond the range of float32"),
        (b"[" * 33, DecodeError, "more than 32 deep at byte 32"),
        (b'{"a":' * 40, DecodeError, "more than 32 deep"),
        (b'{"data":[1,2],"shape":[3]}', DecodeError, 'holds 2 numbers where its "shape" asks for 3'),
        (b'{"data":[],"shape":[4294967296,4294967296]}', DecodeError, "asks for"),
        (b'{"data":[1],"shape":[-1]}', DecodeError, "must be a list of sizes"),
        (b'{"data":[1],"shape":[]}', DecodeError, "must be a list of sizes"),
        (b'{"data":[1],"shape":1}', DecodeError, "is no list"),
        (b'{"a":1e999,"instances":[1]}', DecodeError, "byte 5 is too large"),
        (b"", DecodeError, "ends at byte 0"),
        (b"[1,2", DecodeError, "ends at byte 4, where ',' or ']' is expected"),
        (b"[1,]", DecodeError, "byte 3: found ']'"),
        (b"[1 2]", DecodeError, "byte 3: found '2', expected ',' or ']'"),
        (b"[01]", DecodeError, "byte 2"),
        (b"[1.]", DecodeError, "byte 3"),
        (b"[.5]", DecodeError, "byte 1"),
        (b"[+1]", DecodeError, "byte 1"),
        (b"[1e]", DecodeError, "byte 3"),
        (b"[-]", DecodeError, "byte 2"),
        (b"[tru]", DecodeError, "byte 1"),
        (b"[1]x", DecodeError, "byte 3: found 'x', expected nothing more"),
        (b"\xff", DecodeError, "byte 0: found byte 0xff"),
        (b'{"instances":[1],}', DecodeError, "byte 17"),
        (b'{"instances" [1]}', DecodeError, "byte 13"),
        (b'{"a":"\x01","instances":[1]}', DecodeError, "control character"),
        (b'{"a":"\\x","instances":[1]}', DecodeError, "an escape sequence"),
        (b'{"a":"\\ud800","instances":[1]}', DecodeError, "a pair of surrogates"),
        (b'{"a":"\\udc00\\udc00","instances":[1]}', DecodeError, "a pair of surrogates"),
        (b'{"a":"\xc0\x80","instances":[1]}', DecodeError, "UTF-8"),
        (b'{"a":"\xed\xa0\x80","instances":[1]}', DecodeError, "UTF-8"),
        (b'{"a":"', DecodeError, "closing quote"),
    ],
)
def test_fault_names_place_and_cause(body, kind, words):
    rows = RowBuffer("float32", 1 << 20)
    rows.append_json(b"[[5, 6]]")
    with pytest.raises(DecodeError) as caught:
        rows.append_json(body)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert rows.rows == 1
    assert rows.trailing == (2,)
    assert rows.array().tolist() == [[5, 6]]


def test_a_path_may_be_long():
    body = b"[[[[[[[[" * 3 + b'"x"'
    with pytest.raises(NotNumbers, match=r"^\$(\[0\]){24} is a string"):
        RowBuffer("float64", 100).append_json(body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9223372036854775807", INT64_MAX),
        ("-9223372036854775808", INT64_MIN),
        ("-0", 0),
        ("1.0", 1),
        ("12.50e1", 125),
        ("1e18", 10**18),
        ("100000000000000000000000e-10", 10**13),
        ("0.000000000000000000000000000e5", 0),
        ("9223372036854775807.000000000000", INT64_MAX),
    ],
)
def test_integers_are_exact(text, expected):
    assert decoded(f"[{text}]".encode(), "int64").tolist() == [expected]


@pytest.mark.parametrize(
    ("text", "dtype", "words"),
    [
        ("9223372036854775808", "int64", "is 9223372036854775808, beyond the range of int64"),
        ("-9223372036854775809", "int64", "beyond the range of int64"),
        ("1e19", "int64", "beyond the range of int64"),
        ("123456789012345678901234567890", "int64", "beyond the range of int64"),
        ("1.5", "int64", "is 1.5, not a whole number as int64 takes"),
        ("0.0000000000000000000000001", "int64", "not a whole number"),
        ("128", "int8", "beyond the range of int8"),
        ("-1", "uint8", "is -1, beyond the range of uint8"),
        ("65536", "uint16", "beyond the range of uint16"),
        ("4294967296", "uint32", "beyond the range of uint32"),
        ("1" * 60, "int32", "is " + "1" * 40 + "..., beyond the range of int32"),
    ],
)
def test_an_integer_that_does_not_fit_is_refused(text, dtype, words):
    with pytest.raises(DecodeError) as caught:
        decoded(f"[{text}]".encode(), dtype)
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_integer_limits_pass(dtype):
    info = np.iinfo(dtype)
    expected = np.array([info.min, info.max, 0, 1], dtype)
    assert_same_array(decoded(orjson.dumps(expected.tolist()), dtype), expected)


@pytest.mark.parametrize("dtype", ["uint64", "float16", "complex64", "O", "U3", "bool"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="a batch cannot hold"):
        RowBuffer(dtype, 100)


def test_rows_of_several_requests_form_one_batch():
    rows = RowBuffer("float32", 1 << 20)
    assert rows.trailing is None
    assert rows.append_json(b"[[1,2],[3,4]]") == 2
    assert rows.append_json(b"[]") == 0
    assert rows.append_csv(b"5,6\n") == 1
    assert rows.append_array(np.array([[7, 8]])) == 1
    assert rows.trailing == (2,)
    assert rows.array().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    for body in (b"[[1,2,3]]", b"[1,2]", b"[[[1,2]]]"):
        with pytest.raises(ShapeMismatch, match=r"rows of shape \(.*\) where the batch holds rows of shape \(2,\)"):
            rows.append_json(body)
    assert rows.array().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    rows.reset()
    assert (rows.rows, rows.trailing) == (0, None)
    assert rows.append_json(b"[1,2]") == 2
    assert rows.trailing == ()


def test_memory_that_an_array_shows_is_never_reused():
    rows = RowBuffer("float64", 1 << 20)
    rows.append_json(b"[1,2,3]")
    seen = rows.array()[1:]
    rows.reset()
    rows.append_json(b"[7,8,9]")
    assert seen.tolist() == [2, 3]
    assert rows.array().tolist() == [7, 8, 9]
    del rows
    gc.collect()
    assert seen.tolist() == [2, 3]


def test_memory_that_nobody_sees_is_reused():
    rows = RowBuffer("float64", 1 << 20)
    places = set()
    for _ in range(5):
        rows.append_json(b"[1,2,3]")
        places.add(rows.array().ctypes.data)
        rows.reset()
    assert len(places) == 1
    assert places.pop() % 64 == 0


def test_growing_leaves_earlier_arrays_alone():
    rows = RowBuffer("float64", 1 << 24)
    rows.append_json(b"[1,2,3]")
    first = rows.array()
    many = np.arange(100_000.0)
    rows.append_json(orjson.dumps(many, option=orjson.OPT_SERIALIZE_NUMPY))
    assert first.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(rows.array(), np.concatenate([[1, 2, 3], many]))
    assert rows.array().ctypes.data % 64 == 0
    first[0] = 5
    assert rows.array()[0] == 1


def test_rows_beyond_the_limit_are_refused_and_the_rest_stays():
    rows = RowBuffer("float32", 4 * 10 + 3)
    assert rows.max_bytes == 40
    rows.append_json(b"[1,2,3,4,5,6,7]")
    for append in (
        lambda: rows.append_json(b"[1,2,3,4]"),
        lambda: rows.append_csv(b"1,2,3,4"),
        lambda: rows.append_array(np.ones(4)),
    ):
        with pytest.raises(BufferFull, match="40 bytes that a batch of this model may hold"):
            append()
    assert rows.append_json(b"[8,9,10]") == 3
    assert rows.array().tolist() == list(range(1, 11))


def test_a_large_body_keeps_order_without_the_gil():
    many = np.random.default_rng(3).standard_normal((3000, 100))
    rows = RowBuffer("float64", 1 << 28)
    assert rows.append_json(orjson.dumps({"instances": many}, option=orjson.OPT_SERIALIZE_NUMPY)) == 3000
    np.testing.assert_array_equal(rows.array(), many)


def test_text_is_no_body():
    with pytest.raises(TypeError):
        RowBuffer("float32", 100).append_json("[1]")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(1.5), b"1.5"),
        (np.array([[1.5, -0.0], [0.1, 1e-7]], np.float32), b"[[1.5,-0.0],[0.1,1e-7]]"),
        (
            np.array([1e16, 123456789012345680.0, 1e15, 5e-324, 1.7976931348623157e308]),
            b"[1e16,1.2345678901234568e17,1000000000000000.0,5e-324,1.7976931348623157e308]",
        ),
        (np.array([np.nan, np.inf, -np.inf], np.float32), b"[null,null,null]"),
        (np.array([0.1, 65504, np.nan], np.float16), b"[0.099975586,65504.0,null]"),
        (np.array([[True], [False]]), b"[[true],[false]]"),
        (np.array([INT64_MIN, INT64_MAX]), b"[-9223372036854775808,9223372036854775807]"),
        (np.array([2**64 - 1], np.uint64), b"[18446744073709551615]"),
        (np.array([-128, 127], np.int8), b"[-128,127]"),
        (np.array([1, 2], ">i4"), b"[1,2]"),
        (np.array([0.5], ">f8"), b"[0.5]"),
        (np.array([0.5], np.longdouble), b"[0.5]"),
        (np.zeros((2, 0)), b"[[],[]]"),
        (np.zeros((0, 2)), b"[]"),
        (np.arange(8).reshape(2, 2, 2)[:, :, 0].T, b"[[0,4],[2,6]]"),
        (np.asfortranarray([[1, 2], [3, 4]]), b"[[1,2],[3,4]]"),
    ],
)
def test_arrays_as_json(array, text):
    assert encode_json(array) == b'{"predictions":' + text + b"}"
    assert encode_json(array, key=None) == text
    assert encode_json(array, 'a"é') == b'{"a\\"\\u00e9":' + text + b"}"


@pytest.mark.parametrize(
    "array", [np.array(["x"]), np.array([1j]), np.array([None]), np.array(["2020-01-01"], "M8[D]")]
)
def test_what_is_no_number_cannot_be_encoded(array):
    with pytest.raises(TypeError, match="hold numbers"):
        encode_json(array)


@pytest.mark.parametrize(
    "array", [np.array([[1.25, 2.5, -3e-300]] * 9), np.arange(30), np.float32(7), np.zeros((3, 0))]
)
def test_json_into_needs_no_byte_more_than_it_writes(array):
    text = encode_json(array)
    for room in range(len(text) + 80):
        out = bytearray(b"#" * (room + 2))
        assert json_into(array, memoryview(out)[1 : 1 + room]) == (len(text) if room >= len(text) else -1)
        assert (out[:1], out[1 + room :]) == (b"#", b"#")
        if room >= len(text):
            assert out[1 : 1 + len(text)] == text


def test_json_into_refuses_memory_that_is_read_only():
    with pytest.raises((BufferError, TypeError)):
        json_into(np.ones(3), b"#" * 100)
