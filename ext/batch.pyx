"""Batches without a copy: arrays of one shape that lie at one stride are one strided array over the same memory.

    slot 0      slot 1      slot 2      slot 3
    | a0 |.....| a1 |......| a2 |......| a3 |......         (4, *shape), strides (slot stride, *strides of one)

Requests that arrive together tend to get neighbouring slots (ext/arena.h), so large tensors of a batch usually need no gather.
"""

import numpy as np

cimport cython
from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t


@cython.final
cdef class Span:
    """Memory from the first byte of one array to the last of another, read-only, kept alive by the arrays in between.

    The bytes between them belong to others; only a strided array that skips them may be laid over it (see `runs`).
    """

    cdef list members
    cdef char *start
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, True, flags)


cdef uintptr_t address(object array) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_STRIDED_RO)
    cdef uintptr_t found = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return found


def runs(list arrays):
    """Groups arrays of shape (1, *shape), all of one dtype, shape and C order, into as few strided arrays as their places allow.

    Returns a list of (array of shape (n, *shape), [index of each row in `arrays`]); together they hold every member once. Each
    array is read-only, shares memory with its members and keeps them alive. A member without a neighbour comes as it is.
    Cost: a sort and one array object a run; no byte of the members is touched.
    """
    cdef Py_ssize_t count = len(arrays)
    if count == 1:
        return [(arrays[0], [0])]
    cdef list order = sorted([(address(array), index) for index, array in enumerate(arrays)])
    cdef list found = []
    cdef Py_ssize_t first = 0
    cdef Py_ssize_t last
    cdef uintptr_t stride = 0
    cdef Py_ssize_t size = arrays[0].nbytes
    cdef Py_ssize_t step = arrays[0].itemsize
    while first < count:
        last = first + 1
        if last < count:
            stride = <uintptr_t>order[last][0] - <uintptr_t>order[first][0]
            if stride >= <uintptr_t>size and stride % <uintptr_t>step == 0:
                while last + 1 < count and <uintptr_t>order[last + 1][0] - <uintptr_t>order[last][0] == stride:
                    last += 1
                last += 1
        members = [index for _, index in order[first:last]]
        if last - first == 1:
            found.append((arrays[members[0]], members))
        else:
            found.append((strided([arrays[index] for index in members], stride), members))
        first = last
    return found


cdef object strided(list members, uintptr_t stride):
    """One array over members that lie `stride` bytes apart, in this order."""
    cdef Span span = Span.__new__(Span)
    head = members[0]
    span.members = members
    span.start = <char *>address(head)
    span.length = (len(members) - 1) * stride + head.nbytes
    return np.ndarray((len(members), *head.shape[1:]), head.dtype, span, 0, (stride, *head.strides[1:]))
