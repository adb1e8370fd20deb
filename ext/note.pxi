"""What is told of single requests, where somebody wants to know: nobody pays for it but those who do."""

cdef enum:
    NOTE_TEXT_MOST = 256    # bytes of a path, and of a target model's name, that are kept


@cython.final
@cython.freelist(64)
cdef class Note:
    """One request as it is told of. Times are CLOCK_MONOTONIC; 0: there is none. Texts are bounded, and may hold anything."""

    cdef readonly str client            # its address and port
    cdef readonly str method
    cdef readonly str path              # as sent, without the query; None: no head could be read
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
    cdef uint64_t prefix
    cdef uint64_t number

    @property
    def id(self):
        """As the answer's x-request-id has it."""
        cdef char text[REQUEST_ID_LENGTH]
        request_id_text(self.prefix, self.number, text)
        return (<bytes>text[:REQUEST_ID_LENGTH]).decode("ascii")


@cython.final
cdef class Notes:
    """Takes note of requests, and tells of them once a turn of the loop.

    hear: gets a list of Notes. share: of requests that are told of, 0 to 1; those with a status of 500 or more always are.
    """

    cdef object loop
    cdef object hear
    cdef object tell_callback
    cdef list ready
    cdef bint is_sampling
    cdef uint64_t sampled_most

    def __cinit__(self, loop, hear, double share):
        self.loop = loop
        self.hear = hear
        self.tell_callback = self.tell
        self.ready = []
        self.is_sampling = share > 0
        self.sampled_most = <uint64_t>(share * 18446744073709551616.0) if share < 1 else ~<uint64_t>0

    cdef Note begin(self, Connection connection, const uint8_t *data):
        """Of the head that was parsed last; data NULL: of what is no request."""
        cdef HttpHead *head = &connection.frontend.head
        cdef HttpSpan span
        cdef Note note = Note.__new__(Note)
        if connection.client is None:
            connection.client = client_text(connection.transport.get_extra_info("peername"))
        note.client = connection.client
        if data is NULL:
            return note
        note.method = (<bytes>http_method_name(head.method)).decode("ascii")
        note.path = bounded_text(data + head.path.offset, head.path.length)
        span = note_target_model(data + head.fields.offset, head.fields.length)
        if span.length:
            note.target_model = bounded_text(data + head.fields.offset + span.offset, span.length)
        return note

    cdef int end(self, Exchange exchange, unsigned int status, uint64_t now, uint64_t response_bytes) except -1:
        """The exchange's answer goes out, or nobody waits for it any more."""
        cdef Note note = exchange.note
        exchange.note = None
        if status < 500 and not (self.is_sampling and note_is_sampled(exchange.request_id, self.sampled_most)):
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


cdef str bounded_text(const uint8_t *start, size_t length):
    if length > NOTE_TEXT_MOST:
        return PyBytes_FromStringAndSize(<const char *>start, NOTE_TEXT_MOST).decode("latin-1") + "..."
    return PyBytes_FromStringAndSize(<const char *>start, length).decode("latin-1")


cdef str client_text(object peer):
    """ADDRESS:PORT, or [ADDRESS]:PORT; a dash for what has none."""
    if not isinstance(peer, tuple):
        return "-"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
