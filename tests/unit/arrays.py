"""What numpy's own comparison says only since 1.24."""

import numpy as np


def assert_same_array(found, expected):
    """Equal in dtype, in shape and in each element."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
