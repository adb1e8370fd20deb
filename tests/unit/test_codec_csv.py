"""CSV bodies (headrace._codec)."""

import numpy as np
import pytest

from headrace._codec import DecodeError, RowBuffer, ShapeMismatch, encode_csv
from tests.unit.arrays import assert_same_array


def decoded(body, dtype="float64", header=False):
    rows = RowBuffer(dtype, 1 << 20)
    assert rows.append_csv(body, header) == rows.rows
    return rows.array()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"1,2\n3,4\n", [[1, 2], [3, 4]]),
        (b"1,2\r\n3,4\r\n", [[1, 2], [3, 4]]),
        (b"1,2\n3,4", [[1, 2], [3, 4]]),
        (b"1,2\r\n3,4\r", [[1, 2], [3, 4]]),
        (b"\n\r\n1\n \t\n\n2\n\n  ", [[1], [2]]),
        (b'"1","2.5"\n" 3 ", 4\t\n', [[1, 2.5], [3, 4]]),
        (b"+1,.5,5.,1e2,-0.0,007", [[1, 0.5, 5, 100, -0.0, 7]]),
        (b"nan,NaN,inf,-Infinity,+inf", [[np.nan, np.nan, np.inf, -np.inf, np.inf]]),
        (b"", np.empty(0)),
        (b"\n\n", np.empty(0)),
    ],
)
def test_lines_become_rows(body, expected):
    assert_same_array(decoded(body), np.asarray(expected, np.float64))
    assert_same_array(decoded(body, "float32"), np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"1,2\n3,x\n", "line 2, column 2 is x, not a number"),
        (b"1,2\n\n3\n", "line 3 has 1 field where the first has 2"),
        (b"1\n1,2,3\n", "line 2 has 3 fields where the first has 1"),
        (b"1,,2", "line 1, column 2 is empty"),
        (b"1,2,\n", "line 1, column 3 is empty"),
        (b"a,b\n1,2\n", "line 1, column 1 is a, not a number"),
        (b"1;2\n", "line 1, column 1 is 1;2, not a number"),
        (b"1 2\n", "is 1 2, not a number"),
        (b'"1\n', "where a number in quotes is expected"),
        (b'"1"2\n', 'is "1"2, not a number'),
        (b'"1,2"\n', "where a number in quotes is expected"),
        (b"1\r2\n", "line 1 has a CR without LF"),
        (b"1e\n", "is 1e, not a number"),
        (b".\n", "is ., not a number"),
        (b"-\n", "is -, not a number"),
        (b"nanx\n", "not a number"),
        (b"1e999\n", "is 1e999, beyond the range"),
        (b"\xff\xfe\n", "is ??, not a number"),
        (b"x" * 500, "x..., not a number"),
        (b"1\0\n", "is 1?, not a number"),
    ],
)
def test_fault_names_line_and_column(body, words):
    rows = RowBuffer("float64", 1 << 20)
    with pytest.raises(DecodeError) as caught:
        rows.append_csv(body)
    assert words in str(caught.value)
    assert (rows.rows, rows.trailing) == (0, None)


def test_a_header_is_skipped_only_when_asked():
    assert decoded(b'"sepal, length",b\n1,2\n', header=True).tolist() == [[1, 2]]
    assert decoded(b"2019,2020\n3,4\n", header=True).tolist() == [[3, 4]]  # names may look like numbers
    with pytest.raises(DecodeError, match="line 1, column 1 is a"):
        decoded(b"a,b\n1,2\n")
    assert decoded(b"\na,b\n", header=True).shape == (0,)
    with pytest.raises(DecodeError, match="line 2, column 1 is c"):
        decoded(b"a,b\nc,d\n", header=True)


def test_integers_are_exact():
    assert decoded(b"9223372036854775807,-9223372036854775808\n", "int64").tolist() == [[2**63 - 1, -(2**63)]]
    for body, words in [
        (b"1.5", "not a whole number"),
        (b"9223372036854775808", "beyond the range"),
        (b"nan", "not a number"),
    ]:
        with pytest.raises(DecodeError, match=words):
            decoded(body, "int64")


def test_rows_of_another_width_are_refused():
    rows = RowBuffer("float32", 1 << 20)
    rows.append_csv(b"1,2\n")
    with pytest.raises(ShapeMismatch, match=r"shape \(3,\) where the batch holds rows of shape \(2,\)"):
        rows.append_csv(b"1,2,3\n")
    assert rows.array().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([[1.5, -0.0], [0.1, 1e22]]), b"1.5,-0.0\n0.1,1e22\n"),
        (np.array([1, 2, 3]), b"1\n2\n3\n"),
        (np.arange(8).reshape(2, 2, 2), b"0,1,2,3\n4,5,6,7\n"),
        (np.array([[np.nan, np.inf, -np.inf]], np.float32), b"nan,inf,-inf\n"),
        (np.array([[True, False]]), b"1,0\n"),
        (np.float32(0.1), b"0.1\n"),
        (np.zeros((0, 3)), b""),
        (np.zeros((2, 0)), b"\n\n"),
    ],
)
def test_arrays_as_csv(array, text):
    assert encode_csv(array) == text


def test_a_large_table_survives_both_ways():
    table = np.random.default_rng(7).standard_normal((3000, 30))
    assert_same_array(decoded(encode_csv(table)), table)
    np.testing.assert_array_equal(np.loadtxt(encode_csv(table[:50]).decode().splitlines(), delimiter=","), table[:50])
