"""What is told of single requests, where somebody wants to know: nobody pays for it but those who do."""

cdef enum:
    NOTE_TEXT_MOST = 256        # bytes of a path, and of a target model's name, that are kept
    TRACESTATE_MOST = 512       # bytes; a longer one is dropped (W3C Trace Context, 3.3.1.5: at least so many go on)


@cython.final
@cython.freelist(64)
cdef class Note:
    """One request as it is told of. Times are CLOCK_MONOTONIC; 0: there is none. Texts are bounded, and may hold anything."""

    cdef readonly bint is_logged        # for the access log
    cdef readonly bint is_traced        # for a trace
    cdef readonly bint is_https
    cdef readonly bint is_http10
    cdef readonly str client            # its address and port
    cdef readonly str method            # OTHER: none that is known here
    cdef readonly str path              # as sent, without the query; None: no head could be read
    cdef readonly str route             # of a trace: what the path is a case of
    cdef readonly str model             # None: no model was asked for, or none of that name is known
    cdef readonly str target_model      # as SageMaker names it; None: it did not
    cdef readonly unsigned int status   # STATUS_GONE: the client was gone before its answer
    cdef readonly uint64_t request_bytes
    cdef readonly uint64_t response_bytes
    cdef readonly uint64_t arrival_ns   # of its head
    cdef readonly uint64_t whole_ns     # of its body's last byte
    cdef readonly uint64_t taken_ns     # by its worker
    cdef readonly uint64_t started_ns   # its batch
    cdef readonly uint64_t finished_ns
    cdef readonly uint64_t sent_ns
    cdef readonly uint32_t batch_rows
    cdef readonly uint64_t span_id      # of this request's own span
    cdef readonly uint64_t parent_id    # 0: the trace begins here
    cdef readonly unsigned int parent_flags
    cdef readonly str tracestate
    cdef Trace trace                    # as it goes on: its parent is this request's span
    cdef NoteFields fields
    cdef uint32_t trace_at              # of the traceparent that goes on in the worker's head; 0: there is none yet
    cdef uint32_t head_added            # bytes that this takes
    cdef uint64_t prefix
    cdef uint64_t number

    @property
    def id(self):
        """As the answer's x-request-id has it."""
        cdef char text[REQUEST_ID_LENGTH]
        request_id_text(self.prefix, self.number, text)
        return (<bytes>text[:REQUEST_ID_LENGTH]).decode("ascii")

    @property
    def trace_id(self):
        """128 bits."""
        return <object>self.trace.high << 64 | <object>self.trace.low

    cdef int pass_on(self, uint8_t *head, size_t length) noexcept:
        """Has the head as a worker gets it say that this request's span is the parent of what its handler does. length: with
        head_added."""
        if self.trace_at:
            trace_write_hex(head + self.trace_at + TRACE_PARENT_AT, 16, self.trace.parent)
            trace_write_hex(head + self.trace_at + TRACE_FLAGS_AT, 2, self.trace.flags)
        elif self.head_added:
            head += length - 2 - self.head_added  # where its blank line was
            trace_write_line(head, &self.trace)
            memcpy(head + self.head_added, b"\r\n", 2)
        return 0


@cython.final
cdef class Notes:
    """Takes note of requests, and tells of them once a turn of the loop.

    hear: gets a list of Notes. share: of requests that are logged, 0 to 1, besides all with a status of 500 or more; None: none
    is. sampling: (whether a parent's decision stands, share of the other traces that are sampled); None: no traces. seed: of
    the ids, 64 bits.
    """

    cdef object loop
    cdef object hear
    cdef object tell_callback
    cdef list ready
    cdef bint is_logging
    cdef bint is_tracing
    cdef bint heeds_parent
    cdef uint64_t logged_most
    cdef uint64_t traced_most
    cdef bint logs_some
    cdef bint traces_some
    cdef uint64_t random

    def __cinit__(self, loop, hear, share, sampling, uint64_t seed):
        self.loop = loop
        self.hear = hear
        self.tell_callback = self.tell
        self.ready = []
        self.random = seed
        if share is not None:
            self.is_logging = True
            self.logs_some, self.logged_most = bound_of(share)
        if sampling is not None:
            self.is_tracing = True
            self.heeds_parent = sampling[0]
            self.traces_some, self.traced_most = bound_of(sampling[1])

    cdef Note begin(self, Connection connection, const uint8_t *data):
        """Of the head that was parsed last; data NULL: of what is no request."""
        cdef HttpHead *head = &connection.frontend.head
        cdef const uint8_t *lines
        cdef Note note = Note.__new__(Note)
        if connection.client is None:
            connection.client = client_text(connection.transport.get_extra_info("peername"))
        note.client = connection.client
        if data is NULL:
            return note
        lines = data + head.fields.offset
        note.method = (<bytes>http_method_name(head.method)).decode("ascii")
        note.path = bounded_text(data + head.path.offset, head.path.length)
        note.fields = note_fields(lines, head.fields.length)
        if note.fields.target_model.length:
            note.target_model = bounded_text(lines + note.fields.target_model.offset, note.fields.target_model.length)
        note.is_https = connection.fd < 0
        note.is_http10 = head.minor == 0
        return note

    cdef int trace(self, Note note, str route, const uint8_t *data, HttpHead *head) except -1:
        """A prediction is asked for: decides whether it is traced, as the trace that it is in says, or a new one."""
        cdef const uint8_t *lines = data + head.fields.offset
        cdef NoteFields *fields = &note.fields
        cdef bint has_parent
        if not self.is_tracing:
            return 0
        has_parent = fields.traceparents == 1 and trace_read(lines + fields.traceparent.offset, fields.traceparent.length,
                                                             &note.trace)
        if not has_parent:
            note.trace.high = note_random(&self.random)
            note.trace.low = note_random(&self.random) | 1  # an id of zeros is none
            note.trace.flags = 0
        if has_parent and self.heeds_parent:
            note.is_traced = note.trace.flags & 1
        else:
            note.is_traced = self.traces_some and note.trace.low <= self.traced_most
        if not note.is_traced:
            return 0
        note.route = route
        note.span_id = note_random(&self.random) | 1
        if has_parent:
            note.parent_id = note.trace.parent
            note.parent_flags = <unsigned int>note.trace.flags
            note.trace_at = head.fields.offset + fields.traceparent.offset - head.skipped
            if fields.tracestates:
                note.tracestate = joined_text(lines, head.fields.length, b"tracestate")
        elif fields.traceparents == 0:
            note.head_added = TRACE_LINE_LENGTH
        note.trace.parent = note.span_id
        note.trace.flags |= 1
        return 0

    cdef int end(self, Exchange exchange, unsigned int status, uint64_t now, uint64_t response_bytes) except -1:
        """The exchange's answer goes out, or nobody waits for it any more."""
        cdef Note note = exchange.note
        exchange.note = None
        note.is_logged = self.is_logging and (
            status >= 500 or (self.logs_some and note_is_sampled(exchange.request_id, self.logged_most)))
        if not note.is_logged and not note.is_traced:
            return 0
        note.prefix = exchange.connection.frontend.header.id_prefix
        note.number = exchange.request_id
        note.status = status
        note.request_bytes = exchange.body_length
        note.response_bytes = response_bytes
        note.arrival_ns = exchange.arrival_ns
        note.whole_ns = exchange.whole_ns
        note.sent_ns = now
        if (exchange.text is None and exchange.whole_ns <= exchange.answer.started_ns <= exchange.answer.finished_ns <= now
                and exchange.answer.started_ns):  # else it is no worker's answer, or its worker's memory is spoilt
            note.started_ns = exchange.answer.started_ns
            note.taken_ns = max(exchange.whole_ns,
                                note.started_ns - min(note.started_ns, <uint64_t>exchange.answer.waited_us * 1000))
            note.finished_ns = exchange.answer.finished_ns
            note.batch_rows = exchange.answer.batch_rows
        if not self.ready:
            self.loop.call_soon(self.tell_callback)
        self.ready.append(note)
        return 0

    def tell(self):
        ready, self.ready = self.ready, []
        self.hear(ready)


cdef tuple bound_of(double share):
    """(whether any are in that share of all 64-bit numbers, the largest that is)."""
    bound = min(round(share * 18446744073709551616.0), 18446744073709551616)
    return bound > 0, max(bound - 1, 0)


cdef str bounded_text(const uint8_t *start, size_t length):
    if length > NOTE_TEXT_MOST:
        return PyBytes_FromStringAndSize(<const char *>start, NOTE_TEXT_MOST).decode("latin-1") + "..."
    return PyBytes_FromStringAndSize(<const char *>start, length).decode("latin-1")


cdef str joined_text(const uint8_t *lines, size_t length, bytes name):
    """The values of all fields of that name, as one list (RFC 9110, 5.3); None: longer than TRACESTATE_MOST."""
    cdef HttpSpan found, value
    cdef size_t at = 0
    values = []
    while http_next_field(lines, length, &at, &found, &value):
        if PyBytes_FromStringAndSize(<const char *>lines + found.offset, found.length).lower() == name:
            values.append(PyBytes_FromStringAndSize(<const char *>lines + value.offset, value.length))
    joined = b",".join(values)
    return joined.decode("latin-1") if len(joined) <= TRACESTATE_MOST else None


cdef str client_text(object peer):
    """ADDRESS:PORT, or [ADDRESS]:PORT; a dash for what has none."""
    if not isinstance(peer, tuple):
        return "-"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
