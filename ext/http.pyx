"""The request parser of http.h as Python sees it: for tests, tools and experiments.

The frontend does not come through here: it cimports http.pxd and parses without making objects.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memset

from http cimport *

KINDS = ("none", "json", "npy", "csv", "raw", "npz", "text", "form", "multipart", "any", "other")

Head = namedtuple(
    "Head",
    "method minor path query fields content_length chunked keep_alive expect_continue expect_other "
    "content_type content_kind accept accept_kind codings head_length skipped",
)


class HttpError(ValueError):
    """A refusal. status: what to answer; code: its stable word; str: what to tell the client."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status = status
        self.code = code


cdef object refusal(int code):
    return HttpError(http_error_status(code), http_error_word(code).decode(), http_error_text(code).decode())


cdef int set_limits(HttpLimits *limits, dict changes) except -1:
    cdef dict known
    http_limits_default(limits)
    if changes:
        known = limits[0]
        if not changes.keys() <= known.keys():
            raise TypeError(f"unknown limits {sorted(changes.keys() - known.keys())}; there are {sorted(known)}")
        limits[0] = {**known, **changes}
    return 0


cdef bytes span_bytes(const uint8_t *buf, HttpSpan span):
    return PyBytes_FromStringAndSize(<const char *>buf + span.offset, span.length)


cdef object head_object(const uint8_t *buf, const HttpHead *head):
    cdef HttpSpan name, value
    cdef size_t at = 0
    cdef const uint8_t *block = buf + head.fields.offset
    fields = []
    while http_next_field(block, head.fields.length, &at, &name, &value):
        fields.append((span_bytes(block, name), span_bytes(block, value)))
    return Head(
        http_method_name(head.method).decode(),
        head.minor,
        span_bytes(buf, head.path),
        span_bytes(buf, head.query),
        fields,
        head.content_length if head.flags & HTTP_HAS_LENGTH else None,
        bool(head.flags & HTTP_CHUNKED),
        bool(head.flags & HTTP_KEEP_ALIVE),
        bool(head.flags & HTTP_EXPECT_CONTINUE),
        bool(head.flags & HTTP_EXPECT_OTHER),
        span_bytes(buf, head.content_type),
        KINDS[head.content_kind],
        span_bytes(buf, head.accept),
        KINDS[head.accept_kind],
        head.codings,
        head.head_length,
        head.skipped,
    )


def parse_head(data, pieces=None, **limits):
    """One head from the start of *data* (any contiguous buffer).

    pieces: lengths in which the bytes are shown to the parser, one call more each time; whatever they leave comes last.
    limits: fields of HttpLimits to change, such as max_line=100.
    Returns Head, or None when the head is not complete. Raises HttpError.
    """
    cdef Py_buffer view
    cdef HttpLimits bounds
    cdef HttpScan scan
    cdef HttpHead head
    cdef size_t shown = 0
    cdef int outcome = HTTP_INCOMPLETE
    set_limits(&bounds, limits)
    memset(&scan, 0, sizeof(scan))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        for piece in [*(pieces or ()), view.len]:
            shown = min(shown + <size_t>piece, <size_t>view.len)
            outcome = http_parse_head(<const uint8_t *>view.buf, shown, &bounds, &scan, &head)
            if outcome < 0:
                raise refusal(outcome)
            if outcome == HTTP_OK:
                return head_object(<const uint8_t *>view.buf, &head)
        return None
    finally:
        PyBuffer_Release(&view)


cdef class ChunkDecoder:
    """Decodes one chunked body. limits: as for parse_head."""

    cdef HttpChunks chunks
    cdef HttpLimits limits
    cdef readonly bint done
    cdef readonly size_t used

    def __init__(self, **limits):
        set_limits(&self.limits, limits)
        http_chunks_start(&self.chunks)

    @property
    def announced(self):
        """Bytes of data that came, and those that the current chunk will still bring."""
        return http_chunks_announced(&self.chunks)

    def feed(self, data):
        """The data among these bytes. `used` then says how many were taken: less than all once `done`. Raises HttpError."""
        cdef Py_buffer view
        cdef const uint8_t *piece = NULL
        cdef size_t used = 0, length = 0
        cdef int outcome = HTTP_CHUNK_DATA
        out = []
        self.used = 0
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while outcome == HTTP_CHUNK_DATA:
                outcome = http_chunks_next(&self.chunks, &self.limits, <const uint8_t *>view.buf + self.used,
                                           view.len - self.used, &used, &piece, &length)
                self.used += used
                if outcome < 0:
                    raise refusal(outcome)
                if length:
                    out.append(PyBytes_FromStringAndSize(<const char *>piece, length))
            self.done = outcome == HTTP_CHUNK_END
        finally:
            PyBuffer_Release(&view)
        return b"".join(out)


cdef class Reader:
    """Requests from the bytes of one connection, framed as the frontend frames them. limits: as for parse_head."""

    cdef HttpLimits limits
    cdef HttpScan scan
    cdef bytearray pending
    cdef object head
    cdef object decoder
    cdef list body
    cdef size_t lacking
    cdef dict changes

    def __init__(self, **limits):
        set_limits(&self.limits, limits)
        self.changes = limits
        self.pending = bytearray()
        memset(&self.scan, 0, sizeof(self.scan))

    @property
    def pending_bytes(self):
        """Bytes fed and not taken yet; while feed() yields a request, those behind it."""
        return len(self.pending)

    @property
    def is_idle(self):
        """Whether the bytes so far end where a request ends."""
        return self.head is None and not self.pending

    def feed(self, data):
        """Yields (Head, body) of each request that is now complete; raises HttpError behind the good ones."""
        self.pending += data
        while True:
            if self.head is None and not self.take_head():
                return
            if not self.take_body():
                return
            request = self.head, b"".join(self.body)
            self.head = None
            yield request

    cdef bint take_head(self) except -1:
        cdef HttpHead head
        cdef const uint8_t *buf = <const uint8_t *><char *>self.pending
        cdef int outcome = http_parse_head(buf, len(self.pending), &self.limits, &self.scan, &head)
        if outcome < 0:
            raise refusal(outcome)
        if outcome == HTTP_INCOMPLETE:
            return False
        self.head = head_object(buf, &head)
        self.decoder = ChunkDecoder(**self.changes) if self.head.chunked else None
        self.lacking = head.content_length
        self.body = []
        del self.pending[:head.head_length]
        memset(&self.scan, 0, sizeof(self.scan))
        return True

    cdef bint take_body(self) except -1:
        cdef size_t n
        if self.decoder is not None:
            self.body.append(self.decoder.feed(self.pending))
            del self.pending[:self.decoder.used]
            return self.decoder.done
        n = min(self.lacking, <size_t>len(self.pending))
        self.body.append(bytes(self.pending[:n]))
        del self.pending[:n]
        self.lacking -= n
        return self.lacking == 0


def split_path(bytes path not None, room=None):
    """The decoded segments of a path, as bytes. room: of the scratch buffer, len(path) unless told. Raises HttpError."""
    cdef HttpPath out
    cdef size_t space = len(path) if room is None else room
    cdef bytes scratch = bytes(space)
    cdef uint8_t *target = <uint8_t *>PyBytes_AsString(scratch)
    cdef int outcome = http_split_path(<const uint8_t *><const char *>path, len(path), &out, target, space)
    if outcome < 0:
        raise refusal(outcome)
    return [span_bytes(target, out.segments[i]) for i in range(out.count)]


def field_ok(bytes name not None, bytes value not None):
    """Whether a response field may go out as it is."""
    return bool(http_field_ok(<const uint8_t *><const char *>name, len(name), <const uint8_t *><const char *>value, len(value)))


def field_is_owned(bytes name not None):
    """Whether the server alone writes this response field."""
    return bool(http_field_is_owned(<const uint8_t *><const char *>name, len(name)))
