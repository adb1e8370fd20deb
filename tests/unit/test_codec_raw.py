"""Raw bodies (headrace._codec)."""

import gc

import numpy as np
import pytest

from headrace._codec import DecodeError, view_raw
from tests.unit.arrays import assert_same_array


@pytest.mark.parametrize(
    ("dtype", "trailing", "shape"),
    [
        ("float32", (3,), (2, 3)),
        ("float32", (), (6,)),
        ("int8", (2, 3, 4), (1, 2, 3, 4)),
        (">f8", (3,), (1, 3)),
        ("uint8", [12], (2, 12)),
    ],
)
def test_bytes_become_rows(dtype, trailing, shape):
    body = bytes(range(24))
    view = view_raw(body, dtype, trailing)
    assert_same_array(view, np.frombuffer(body, dtype).reshape(shape))
    assert not view.flags.writeable


def test_no_bytes_are_no_rows():
    assert view_raw(b"", "float32", (3, 2)).shape == (0, 3, 2)


def test_view_copies_nothing_and_keeps_the_body():
    body = bytearray(8)
    view = view_raw(body, "int32", (1,))
    body[0] = 7
    assert view[0, 0] == 7
    with pytest.raises(BufferError):
        body.append(0)
    del view
    gc.collect()
    body.append(0)


def test_a_length_that_is_no_multiple_is_refused_with_both_numbers():
    with pytest.raises(
        DecodeError, match=r"^25 bytes are no whole number of rows: one of shape \(3,\) and float32 takes 12$"
    ):
        view_raw(bytes(25), "float32", (3,))


@pytest.mark.parametrize(
    ("dtype", "trailing"), [("O", (1,)), ("i4,i4", (1,)), ("float32", (0,)), ("float32", (2, -1)), ("S0", (1,))]
)
def test_a_model_that_declares_no_numbers_is_our_fault(dtype, trailing):
    with pytest.raises(ValueError) as caught:
        view_raw(bytes(8), dtype, trailing)
    assert not isinstance(caught.value, DecodeError)
