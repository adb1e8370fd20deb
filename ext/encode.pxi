"""Arrays to JSON and CSV: part of codec.pyx."""


cdef int _text_kind(const char *format) noexcept:
    """TEXT_* of a buffer format of one native character; -1 for anything else."""
    if format is NULL or format[0] == 0 or format[1] != 0:
        return -1
    cdef char c = format[0]
    if c == b"f":
        return TEXT_FLOAT32
    if c == b"d":
        return TEXT_FLOAT64
    if c == b"e":
        return TEXT_FLOAT16
    if c == b"l":
        return TEXT_INT64 if sizeof(long) == 8 else TEXT_INT32
    if c == b"q":
        return TEXT_INT64
    if c == b"i":
        return TEXT_INT32
    if c == b"L":
        return TEXT_UINT64 if sizeof(long) == 8 else TEXT_UINT32
    if c == b"Q":
        return TEXT_UINT64
    if c == b"I":
        return TEXT_UINT32
    if c == b"?":
        return TEXT_BOOL
    if c == b"b":
        return TEXT_INT8
    if c == b"B":
        return TEXT_UINT8
    if c == b"h":
        return TEXT_INT16
    if c == b"H":
        return TEXT_UINT16
    return -1


cdef int _text_view(array, Py_buffer *view) except -1:
    """Takes a C-ordered native view of an array of numbers; returns its TEXT_*."""
    cdef int kind
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"JSON and CSV answers hold numbers, not {array.dtype}")
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    kind = _text_kind(view.format)
    if kind >= 0:
        return kind
    PyBuffer_Release(view)
    wide = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")  # long double, foreign endianness
    return _text_view(array.astype(wide), view)


cdef bytes _json_head(key):
    return b"" if key is None else b'{"predictions":' if key == "predictions" else b"{" + json.dumps(key).encode() + b":"


cdef size_t _json_bound(Py_buffer *view, int kind) except? 0:
    """The most bytes that the array's JSON takes, without the head."""
    cdef object lists = 0, items = 1
    cdef int i
    for i in range(view.ndim):
        lists += items
        items *= view.shape[i]
    return items * (text_item_max(kind) + 1) + 3 * lists + 1


cdef void _write_json(Text *t, bytes head, Py_buffer *view, int kind) noexcept:
    text_put(t, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
    if <size_t>view.len > GIL_BYTES:
        with nogil:
            text_json(t, <const uint8_t *>view.buf, <const int64_t *>view.shape, view.ndim, kind)
    else:
        text_json(t, <const uint8_t *>view.buf, <const int64_t *>view.shape, view.ndim, kind)
    if PyBytes_GET_SIZE(head):
        text_put(t, b"}", 1)


cdef _fresh_bytes(size_t bound, Text *t, PyObject **made):
    """Points `t` at new bytes of at least `bound` writable bytes and NUMBER_ROOM to spare."""
    made[0] = PyBytes_FromRoom(NULL, bound + NUMBER_ROOM)
    t.out = PyBytes_Room(made[0])
    t.end = t.out + bound + NUMBER_ROOM
    t.full = False


cdef _finished_bytes(Text *t, PyObject **made):
    _PyBytes_Resize(made, t.out - PyBytes_Room(made[0]))
    result = <object>made[0]  # a second reference to what is ours already
    Py_DECREF(result)
    return result


def encode_json(array, key="predictions"):
    """{"predictions": nested lists}; key None: the bare lists. NaN and infinities become null, floats the shortest text."""
    cdef Py_buffer view
    cdef int kind = _text_view(array, &view)
    cdef Text t
    cdef PyObject *made = NULL
    cdef bytes head
    try:
        head = _json_head(key)
        _fresh_bytes(_json_bound(&view, kind) + PyBytes_GET_SIZE(head), &t, &made)
        _write_json(&t, head, &view, kind)
    finally:
        PyBuffer_Release(&view)
    return _finished_bytes(&t, &made)


def json_into(array, out, key="predictions"):
    """The same, written into `out`. Returns the length, or -1 when `out` is too short (its contents are then undefined)."""
    cdef Py_buffer view, target
    cdef int kind = _text_view(array, &view)
    cdef Text t
    try:
        head = _json_head(key)
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
        t.out = <char *>target.buf
        t.end = t.out + target.len
        t.full = False
        _write_json(&t, head, &view, kind)
        length = -1 if t.full else t.out - <char *>target.buf
        PyBuffer_Release(&target)
        return length
    finally:
        PyBuffer_Release(&view)


def encode_csv(array):
    """One row a line, dimensions past the second laid side by side; nan, inf and -inf as numpy writes them."""
    cdef Py_buffer view
    cdef int kind = _text_view(array, &view)
    cdef Text t
    cdef PyObject *made = NULL
    cdef uint64_t rows, columns
    try:
        rows = view.shape[0] if view.ndim else 1
        columns = view.len // view.itemsize // rows if rows else 0
        _fresh_bytes(rows * (columns * (text_item_max(kind) + 1) + 1), &t, &made)
        if <size_t>view.len > GIL_BYTES:
            with nogil:
                text_csv(&t, <const uint8_t *>view.buf, rows, columns, kind)
        else:
            text_csv(&t, <const uint8_t *>view.buf, rows, columns, kind)
    finally:
        PyBuffer_Release(&view)
    return _finished_bytes(&t, &made)
