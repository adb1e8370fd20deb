"""Request bodies to arrays and arrays to answers: JSON, CSV, npy and raw numbers.

RowBuffer is where a batch is formed: the rows of several requests are decoded into it, one after the other, and the model gets
the whole as one array. The view_* functions copy nothing: their arrays lie in the body, and keep it alive. The *_into functions
write into memory that is there already (a slot), the encode_* functions make bytes.

numpy is used through Python only, so that building needs none of its headers.
"""

import functools
import json

import numpy as np

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from codec cimport (
    NUMBER_ROOM,
    POWER_MAX,
    POWER_MIN,
    ROWS_FULL,
    ROWS_LEVELS,
    ROWS_NO_MEMORY,
    ROWS_NOT_NUMBERS,
    ROWS_OK,
    TEXT_BOOL,
    TEXT_FLOAT16,
    TEXT_FLOAT32,
    TEXT_FLOAT64,
    TEXT_INT8,
    TEXT_INT16,
    TEXT_INT32,
    TEXT_INT64,
    TEXT_UINT8,
    TEXT_UINT16,
    TEXT_UINT32,
    TEXT_UINT64,
    Decoder,
    NpyHead,
    Rows,
    Text,
    csv_decode,
    decoder_init,
    json_decode,
    kind_bytes,
    npy_read,
    numbers_set_power,
    numbers_start,
    rows_grow,
    text_csv,
    text_item_max,
    text_json,
    text_put,
)

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *o)
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    # Bytes that are being made: no Python reference but the one, or they could not be resized.
    PyObject *PyBytes_FromRoom "PyBytes_FromStringAndSize" (const char *data, Py_ssize_t size) except NULL
    char *PyBytes_Room "PyBytes_AS_STRING" (PyObject *bytes)


class DecodeError(ValueError):
    """The body is not what its content type says, or holds what the model cannot take. The text is for the client."""


class NotNumbers(DecodeError):
    """JSON that holds no even array of numbers: objects, strings, null, lists of mixed length, or no member that is known.

    The body was not read to its end; a caller that can do something with general JSON may parse it with a general reader.
    """


class BufferFull(DecodeError):
    """The rows do not fit beside those that are there already, or not at all."""


class ShapeMismatch(ValueError):
    """Rows of another shape than those that are there already."""


#: Bodies and arrays of more bytes than this are worked on without the GIL. Below, taking it back may cost more than it gains.
cdef size_t GIL_BYTES = 65536
#: A batch buffer keeps no more than this from one batch to the next.
cdef size_t KEEP_BYTES = 4 << 20

# In the order of KIND_* in rows.h.
_KINDS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
cdef dict _KIND_OF = {np.dtype(name): kind for kind, name in enumerate(_KINDS)}
cdef dict _DTYPES = {}  # descr -> dtype, for npy heads

cdef object _ndarray = np.ndarray
cdef object _frombuffer = np.frombuffer


def _powers_of_ten():
    """Yields (k, upper, lower): the upper 128 bits of 10^k in two words, cut off; for every power that numbers.h asks for."""
    for k in range(POWER_MIN, POWER_MAX + 1):
        if k >= 0:
            bits = 10**k
            bits = (bits << 128) >> bits.bit_length()
        else:
            bits = 10**-k
            bits = (1 << (127 + bits.bit_length())) // bits
        yield k, bits >> 64, bits & 0xFFFFFFFFFFFFFFFF


for _k, _high, _low in _powers_of_ten():
    numbers_set_power(_k, _high, _low)
if not numbers_start():
    raise MemoryError("no C locale")


cdef class Block:
    """Memory of a batch that an array lies in. Its number of references tells whether anybody still sees it."""

    cdef uint8_t *base
    cdef size_t length

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.length, 0, flags)

    def __dealloc__(self):
        free(self.base)


cdef class RowBuffer:
    """Rows of one dtype and shape, from any number of bodies, in one C-ordered array.

    dtype: float32, float64 or an integer, except uint64. max_bytes: the most that the rows may take together.
    An append that raises leaves the rows as they were. Not for use by two threads at once.
    """

    cdef Rows store
    cdef Block block  # owns store.base while store.shared, that is once an array was given out
    cdef int kind
    cdef size_t row_count
    cdef int levels  # dimensions of one row; -1: no row yet
    cdef uint64_t row_shape[ROWS_LEVELS]
    cdef tuple row_shape_tuple
    cdef bint busy
    cdef readonly object dtype

    def __cinit__(self, dtype, size_t max_bytes):
        self.dtype = np.dtype(dtype)
        kind = _KIND_OF.get(self.dtype)
        if kind is None:
            raise ValueError(f"a batch cannot hold {self.dtype}; use one of {', '.join(_KINDS)}")
        self.kind = kind
        self.levels = -1
        self.row_shape_tuple = ()
        self.store.limit = max_bytes - max_bytes % kind_bytes(self.kind)

    def __dealloc__(self):
        if not self.store.shared:  # `block` says nothing here: the collector may have cleared it
            free(self.store.base)

    @property
    def max_bytes(self):
        return self.store.limit

    @property
    def rows(self):
        return self.row_count

    @property
    def trailing(self):
        """Shape of one row; None while there is none."""
        return None if self.levels < 0 else self.row_shape_tuple

    def reset(self):
        """Forgets all rows. Memory that an array still shows is left to it."""
        self._idle()
        if self.store.capacity > KEEP_BYTES or (self.block is not None and Py_REFCNT(<PyObject *>self.block) > 1):
            if not self.store.shared:
                free(self.store.base)
            self.block = None
            self.store.base = NULL
            self.store.capacity = 0
            self.store.shared = False
        self.store.used = 0
        self.row_count = 0
        self.levels = -1

    def append_json(self, body):
        """Decodes {"instances": rows}, {"inputs": rows}, {"data": numbers, "shape": sizes}, a V2 tensor in "inputs", bare rows.

        Returns the number of rows added. Raises DecodeError (NotNumbers, BufferFull) with the path or byte offset of the
        fault, and ShapeMismatch.
        """
        return self._append_text(body, True, False)

    def append_csv(self, body, bint header=False):
        """Decodes lines of numbers into rows of shape (columns,). header: the first holds names, and is skipped."""
        return self._append_text(body, False, header)

    def append_npy(self, body):
        """Copies the array of an npy body, converted to the dtype where that loses no more than precision."""
        return self.append_array(view_npy(body))

    def append_array(self, array):
        """Copies an array of shape (rows, *trailing). Floats take real numbers, integers only integers in their range."""
        cdef Decoder d
        cdef Py_buffer view
        cdef size_t length
        cdef Py_ssize_t i
        self._idle()
        array = self._converted(array)
        shape = array.shape
        if not shape:
            raise DecodeError("an array without dimensions has no rows; one of shape (rows, ...) is expected")
        if len(shape) > ROWS_LEVELS:
            raise DecodeError(f"{len(shape)} dimensions; at most {ROWS_LEVELS} are taken")
        decoder_init(&d, &self.store, self.kind, NULL, 0)
        d.levels = len(shape)
        for i in range(<Py_ssize_t>d.levels):
            d.shape[i] = shape[i]
        self._check_shape(&d)
        PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS)
        try:
            length = view.len
            if length > self.store.limit - self.store.used:
                limit = self.store.limit
                raise BufferFull(f"rows of {length} bytes do not fit the {limit} bytes that a batch of this model may hold")
            if length > self.store.capacity - self.store.used:
                d.status = rows_grow(&self.store, self.store.used, self.store.used + length, 0)
                self._settle()
                if d.status != ROWS_OK:
                    raise MemoryError(f"no memory for a batch of more than {self.store.used} bytes")
            if length > GIL_BYTES:
                self.busy = True
                with nogil:
                    memcpy(self.store.base + self.store.used, view.buf, length)
                self.busy = False
            elif length:
                memcpy(self.store.base + self.store.used, view.buf, length)
            return self._commit(&d, length)
        finally:
            PyBuffer_Release(&view)

    def array(self):
        """All rows as one array of shape (rows, *trailing), 64-byte aligned, that shares the buffer's memory."""
        self._idle()
        cdef tuple shape = (self.row_count, *self.row_shape_tuple) if self.levels > 0 else (self.row_count,)
        if self.store.used == 0:
            return np.empty(shape, self.dtype)
        if self.block is None:
            self.block = Block.__new__(Block)
            self.block.base = self.store.base
            self.block.length = self.store.capacity
            self.store.shared = True
        return _ndarray(shape, self.dtype, self.block)

    cdef int _idle(self) except -1:
        if self.busy:
            raise RuntimeError("another thread is appending to this RowBuffer")
        return 0

    cdef int _settle(self) except -1:
        """After the rows may have moved: the block that an array shows is not theirs any more."""
        if self.block is not None and self.block.base != self.store.base:
            self.block = None
        return 0

    cdef _append_text(self, body, bint as_json, bint header):
        cdef Decoder d
        cdef Py_buffer view
        cdef int status
        self._idle()
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            decoder_init(&d, &self.store, self.kind, <const uint8_t *>view.buf, view.len)
            if <size_t>view.len > GIL_BYTES:
                self.busy = True
                with nogil:
                    status = json_decode(&d) if as_json else csv_decode(&d, header)
                self.busy = False
            else:
                status = json_decode(&d) if as_json else csv_decode(&d, header)
            self._settle()
            if status != ROWS_OK:
                _raise(status, d.text)
            self._check_shape(&d)
            return self._commit(&d, d.out - (self.store.base + self.store.used) if self.store.base is not NULL else 0)
        finally:
            PyBuffer_Release(&view)

    cdef int _check_shape(self, Decoder *d) except -1:
        if d.shape[0] == 0 or self.levels < 0:
            return 0
        if self.levels != <int>d.levels - 1 or memcmp(self.row_shape, d.shape + 1, self.levels * sizeof(uint64_t)) != 0:
            raise ShapeMismatch(f"rows of shape {_shape(d)} where the batch holds rows of shape {self.row_shape_tuple}")
        return 0

    cdef _commit(self, Decoder *d, size_t length):
        """Takes in what lies decoded behind the rows: d.shape[0] rows, `length` bytes. No row says nothing of their shape."""
        cdef size_t added = d.shape[0]
        if added == 0:
            return 0
        if self.levels < 0:
            self.levels = <int>d.levels - 1
            if (<size_t>self.levels != <size_t>len(self.row_shape_tuple)
                    or memcmp(self.row_shape, d.shape + 1, self.levels * sizeof(uint64_t)) != 0):
                memcpy(self.row_shape, d.shape + 1, self.levels * sizeof(uint64_t))
                self.row_shape_tuple = _shape(d)
        self.store.used += length
        self.row_count += added
        return added

    cdef _converted(self, array):
        """The array in C order and of our dtype."""
        dtype = getattr(array, "dtype", None)
        if dtype is None:
            raise TypeError(f"an array is expected, not {type(array).__name__}")
        if dtype is self.dtype or dtype == self.dtype:
            return np.ascontiguousarray(array) if array.ndim else array
        to_float = self.dtype.kind == "f"
        if dtype.kind not in ("biuf" if to_float else "biu"):
            raise DecodeError(f"rows of {dtype} where the model takes {self.dtype}")
        converted = None
        with np.errstate(over="ignore"):
            converted = array.astype(self.dtype, order="C")
        if not to_float and not np.array_equal(converted, array):
            raise DecodeError(f"rows of {dtype} with values beyond the range of {self.dtype}")
        return converted


cdef tuple _shape(Decoder *d):
    return _sizes(d.shape + 1, d.levels - 1)


cdef tuple _sizes(const uint64_t *sizes, unsigned int levels):
    cdef list out = []
    cdef unsigned int i
    for i in range(levels):
        out.append(sizes[i])
    return tuple(out)


cdef int _raise(int status, const char *text) except -1:
    message = text.decode("utf-8", "replace")
    if status == ROWS_NOT_NUMBERS:
        raise NotNumbers(message)
    if status == ROWS_FULL:
        raise BufferFull(message)
    if status == ROWS_NO_MEMORY:
        raise MemoryError(message)
    raise DecodeError(message)


def view_npy(body):
    """The array of an npy body (versions 1 to 3, either order, either endianness), as a view: read-only if the body is.

    Raises DecodeError for another format, a length that does not match, and for dtypes that are not plain: objects, which
    would need pickle, and structures.
    """
    cdef NpyHead head
    cdef Py_buffer view
    cdef Py_ssize_t length
    cdef bint ok
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        length = view.len
        ok = npy_read(&head, <const uint8_t *>view.buf, length)
        descr = head.descr[:head.descr_length] if ok else None
    finally:
        PyBuffer_Release(&view)
    if not ok:
        raise DecodeError(head.text.decode("utf-8", "replace"))
    dtype = _DTYPES.get(descr)
    if dtype is None:
        dtype = _npy_dtype(descr)
    cdef size_t item_bytes = dtype.itemsize, room = length - head.data
    if head.items > room or head.items * item_bytes != room:
        expected = int(head.items) * item_bytes
        raise DecodeError(f"npy: {room} bytes of data where its shape and dtype {descr.decode()} ask for {expected}")
    shape = _sizes(head.shape, head.levels)
    if head.items == 0:
        return np.empty(shape, dtype)
    flat = _frombuffer(body, dtype, head.items, head.data)
    if head.levels == 1:
        return flat
    return flat.reshape(shape, order="F") if head.fortran else flat.reshape(shape)


cdef _npy_dtype(bytes descr):
    text = descr.decode("ascii", "replace")
    kind = text.lstrip("<>|=")[:1]
    if kind == "O":
        raise DecodeError(f"npy: object arrays ({text!r}) would need pickle, which runs what the sender likes; send numbers")
    if kind == "V":
        raise DecodeError(f"npy: structured and void dtypes ({text!r}) are refused; send one plain array")
    dtype = None
    if kind and kind in "biufcSUmM" and len(text) <= 32 and text[:1] in "<>|=":
        try:
            dtype = np.dtype(text)
        except TypeError:
            pass
    if dtype is None or dtype.itemsize == 0:
        raise DecodeError(f"npy: {text[:40]!r} is no dtype of numbers")
    if len(_DTYPES) < 256:  # strings of any length are dtypes too: a sender must not grow this without end
        _DTYPES[descr] = dtype
    return dtype


def view_raw(body, dtype, trailing_shape):
    """The body's bytes as rows: a view of shape (rows, *trailing_shape), read-only if the body is."""
    dtype = np.dtype(dtype)
    if dtype.hasobject or dtype.kind == "V":
        raise ValueError(f"raw bodies hold numbers, not {dtype}")
    cdef Py_buffer view
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    length = view.len
    PyBuffer_Release(&view)
    row_bytes = dtype.itemsize
    for size in trailing_shape:
        row_bytes *= size
    if row_bytes <= 0:
        raise ValueError(f"rows of shape {tuple(trailing_shape)} have no bytes")
    rows, rest = divmod(length, row_bytes)
    if rest:
        row = f"one of shape {tuple(trailing_shape)} and {dtype} takes {row_bytes}"
        raise DecodeError(f"{length} bytes are no whole number of rows: {row}")
    if rows == 0:
        return np.empty((0, *trailing_shape), dtype)
    return _frombuffer(body, dtype).reshape((rows, *trailing_shape))


@functools.lru_cache(maxsize=256)
def _npy_head(descr, shape):
    """Version 1.0 head, padded with blanks so that the data starts at a multiple of 64 bytes."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    length = (10 + len(text) + 1 + 63) // 64 * 64 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


cdef _npy_parts(array):
    """(head, the array in C order)."""
    array = np.asarray(array)
    dtype = array.dtype
    if dtype.hasobject or dtype.kind == "V":
        raise TypeError(f"npy answers hold numbers, not {dtype}")
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return _npy_head(dtype.str, array.shape), array


def encode_npy(array):
    """An npy body, version 1.0, C order."""
    head, array = _npy_parts(array)
    return head + array.tobytes()


def npy_into(array, out):
    """Writes an npy body into `out`. Returns its length, or -length when `out` is shorter (and was not touched)."""
    head, array = _npy_parts(array)
    cdef Py_buffer view
    cdef bytes text = head
    cdef size_t head_length = PyBytes_GET_SIZE(text)
    cdef size_t length = head_length + <size_t>array.nbytes
    PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
    fits = length <= <size_t>view.len
    if fits:
        memcpy(view.buf, PyBytes_AS_STRING(text), head_length)
    PyBuffer_Release(&view)
    if not fits:
        return -<Py_ssize_t>length
    if length > head_length:
        target = _frombuffer(out, np.uint8, length - head_length, head_length)
        target[:] = array.reshape(-1).view(np.uint8)
    return length


include "encode.pxi"
