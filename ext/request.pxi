"""One request in a worker: what a model may read of it, and how it is answered."""


class Headers(Mapping):
    """Field values by case-insensitive name. A name that came more than once has its values joined by ", " (RFC 9110, 5.3).

    raw: list of (name as sent, value), in order.
    """

    __slots__ = ("_values", "raw")

    def __init__(self, raw):
        self.raw = raw
        self._values = {}
        for name, value in raw:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name):
        return self._values[name.lower()]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __repr__(self):
        return f"Headers({self._values!r})"


@cython.final
@cython.freelist(256)
cdef class Request:
    """One request, on shared memory. See headrace.Request for what a model may use of it."""

    cdef Port port
    cdef Segment segment
    cdef Submission entry
    cdef uint64_t taken_ns      # out of the ring
    cdef uint64_t copied_bytes
    cdef SlotBody slot_body
    cdef object view
    cdef object parsed_headers
    cdef bint answered
    cdef bint published
    cdef Completion answer
    cdef readonly object servable

    @property
    def body(self):
        """memoryview, read-only, of the body in shared memory; valid for as long as it is held.

        A body with a content coding is decoded when it is first asked for: then it is memory of this process's own, and
        headrace.compression has the errors that may come up.
        """
        if self.view is None:
            self.check_alive()
            view = memoryview(self.hold())
            if self.is_coded():
                view = memoryview(self.port.codings.decode(view, self.coding(b"content-encoding")))
            self.view = view
        return self.view

    cdef SlotBody hold(self):
        if self.slot_body is None:
            self.slot_body = SlotBody.__new__(SlotBody)
            self.slot_body.segment = self.segment
            self.slot_body.start = self.segment.bodies + <uint64_t>self.entry.offset64 * 64
            self.slot_body.length = self.entry.body_length
        return self.slot_body

    cdef int check_alive(self) except -1:
        """The slot is this request's until the answer is published, and as long as a view is held."""
        if self.published and (self.slot_body is None or self.slot_body.exports == 0):
            raise RuntimeError("the request has been answered and its memory given back; keep what you need of it before that")
        return 0

    cdef bint is_coded(self):
        return self.entry.codings & CODED_BODY and self.port.codings is not None

    cdef str coding(self, bytes name):
        """A field's values as sent, joined; straight from the head, so that this costs little and parses nothing else."""
        values = []
        for line in self.head().split(b"\r\n")[1:]:
            if line[:len(name)].lower() == name and line[len(name):len(name) + 1] == b":":
                values.append(line[len(name) + 1:].decode("latin-1"))
        return ",".join(values)

    @property
    def kind(self):
        """MEDIA_* code of the body's content type."""
        return self.entry.kind

    @property
    def accept_kind(self):
        """MEDIA_* code of the content type that the client wants back."""
        return self.entry.accept

    @property
    def content_type(self):
        return self.headers.get("content-type", "")

    @property
    def accept(self):
        return self.headers.get("accept", "")

    @property
    def id(self):
        """The request's id, a UUID; the client finds it in the answer's x-request-id."""
        cdef char text[REQUEST_ID_LENGTH]
        request_id_text(self.segment.header.id_prefix, self.entry.request_id, text)
        return (<bytes>text[:REQUEST_ID_LENGTH]).decode("ascii")

    @property
    def model_name(self):
        return self.servable.name

    @property
    def attempt(self):
        """Deliveries of this request to workers that died over it, before this one."""
        return self.entry.attempt

    @property
    def arrival_ns(self):
        return self.entry.arrival_ns

    @property
    def deadline_ns(self):
        """CLOCK_MONOTONIC; nobody waits for an answer after it."""
        return self.entry.deadline_ns

    def time_left(self):
        """Seconds until the deadline; negative when it has passed."""
        return (<int64_t>self.entry.deadline_ns - <int64_t>monotonic_ns()) / 1e9

    @property
    def is_abandoned(self):
        """Whether nobody waits for the answer any more: the client or its frontend is gone, or the deadline has passed."""
        return (self.segment.is_lost or load_relaxed(&self.segment.marks[self.entry.slot].cancelled) == self.entry.request_id
                or monotonic_ns() > self.entry.deadline_ns)

    cdef bint begin(self, uint64_t now_ns) except -1:
        """Marks the request as begun. False when nobody waits for it any more: then it is given back at once."""
        cdef SlotMark *mark = &self.segment.marks[self.entry.slot]
        if self.segment.is_lost or load_relaxed(&mark.cancelled) == self.entry.request_id:
            self.give_back(503)
        elif self.entry.deadline_ns < now_ns:
            self.fail(TimeoutError())
        else:
            store_relaxed(&mark.begun, self.entry.request_id)
            return True
        self.port.page.dropped += 1
        self.port.ring(self.segment)
        return False

    cdef int give_back(self, unsigned int status) except -1:
        """An answer without a body, for which not a byte of the slot is touched."""
        memset(&self.answer, 0, sizeof(Completion))
        self.answer.request_id = self.entry.request_id
        self.answer.slot = self.entry.slot
        self.answer.generation = self.entry.generation
        self.answer.status = status
        self.answered = True
        return self.publish()

    cdef bytes head(self):
        self.check_alive()
        cdef uint64_t start = (<uint64_t>self.entry.offset64 + self.entry.capacity64) * 64 - align64(self.entry.head_length)
        return PyBytes_FromStringAndSize(<char *>self.segment.bodies + start, self.entry.head_length)

    @property
    def query(self):
        """The target's query as sent, without the question mark."""
        target = self.head().split(b" ", 2)[1]
        return target.partition(b"?")[2].decode("latin-1")

    @property
    def headers(self):
        """Headers, as sent; without content-encoding and content-length where the body was coded, as it is not any more."""
        if self.parsed_headers is None:
            raw = []
            dropped = ("content-encoding", "content-length") if self.is_coded() else ()
            for line in self.head().decode("latin-1").split("\r\n")[1:]:
                if line:
                    name, _, value = line.partition(":")
                    if name.lower() not in dropped:
                        raw.append((name, value.strip(" \t")))
            self.parsed_headers = Headers(raw)
        return self.parsed_headers

    def json(self):
        """The body as JSON. orjson.JSONDecodeError (a ValueError) when it is none."""
        return orjson.loads(self.body)

    def array(self):
        """The body as an array, by its content type and the model's dtype and shape."""
        return self.servable.decode(self)

    cpdef count_copy(self, uint64_t length):
        """Adds to the worker's count of bytes that were copied in user space, and to the model's."""
        self.port.page.copied_bytes += length
        self.copied_bytes += length

    cdef uint64_t room_start(self):
        return align64(self.entry.body_length)

    cdef uint64_t room_end(self):
        return <uint64_t>self.entry.capacity64 * 64 - align64(self.entry.head_length)

    def response_buffer(self, Py_ssize_t length):
        """Writable memory of `length` bytes in the request's slot, to make the answer in place; None when it has no room."""
        self.check_alive()
        if length < 0 or self.room_start() + <uint64_t>length > self.room_end():
            return None
        cdef SlotRoom room = SlotRoom.__new__(SlotRoom)
        room.body = self.hold()
        room.start = self.segment.base + <uint64_t>self.entry.offset64 * 64 + self.room_start()
        room.length = length
        return memoryview(room)

    def reply(self, unsigned int status, unsigned int kind, body, bytes fields=b""):
        """Answers. body: any contiguous buffer; one that lies in the request's slot is sent from there.

        kind: MEDIA_* code of the content type. fields: further field lines, each `name: value\\r\\n`.
        RuntimeError when the request has been answered before.
        """
        if self.answered:
            raise RuntimeError(f"request {self.id} has been answered before")
        cdef Py_buffer view
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        cdef uint64_t length = <uint64_t>view.len
        cdef uint64_t slot = <uint64_t>self.entry.offset64 * 64
        cdef uint64_t capacity = <uint64_t>self.entry.capacity64 * 64
        cdef uint8_t *data = <uint8_t *>view.buf
        cdef uint64_t fields_length = <uint64_t>len(fields)
        cdef uint64_t fields_at, body_at, end
        cdef Completion *answer = &self.answer
        try:
            if length > self.port.max_response:
                status, kind, body, fields = self.port.render(OverflowError(length), self)
                PyBuffer_Release(&view)
                PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
                length = <uint64_t>view.len
                data = <uint8_t *>view.buf
                fields_length = <uint64_t>len(fields)
            elif length >= self.port.compress_min and self.entry.codings & CODED_ANSWER and kind in (MEDIA_JSON, MEDIA_CSV, MEDIA_TEXT):
                body, fields = self.port.codings.encode(body, fields, self.coding(b"accept-encoding"))
                PyBuffer_Release(&view)
                PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
                length = <uint64_t>view.len
                data = <uint8_t *>view.buf
                fields_length = <uint64_t>len(fields)
            memset(answer, 0, sizeof(Completion))
            answer.request_id = self.entry.request_id
            answer.started_ns = self.port.started_ns
            if self.port.started_ns > self.taken_ns:
                answer.waited_us = <uint32_t>min((self.port.started_ns - self.taken_ns) // 1000, <uint64_t>0xffffffff)
            answer.slot = self.entry.slot
            answer.generation = self.entry.generation
            answer.status = status
            answer.kind = kind
            answer.batch_rows = <uint16_t>min(self.port.batch_rows, <uint32_t>0xffff)
            answer.body_length = <uint32_t>length
            answer.fields_length = <uint32_t>fields_length
            body_at = capacity
            if data >= self.segment.bodies + slot and data + length <= self.segment.bodies + slot + capacity:
                body_at = data - (self.segment.bodies + slot)
            elif data >= self.segment.base + slot and data + length <= self.segment.base + slot + capacity:
                body_at = data - (self.segment.base + slot)
            if body_at < capacity:
                # Made where it lies, the fields go behind it, or behind the body where it is the body itself.
                fields_at = align64(body_at + length)
                if fields_at < self.room_start():
                    fields_at = self.room_start()
                end = fields_at + fields_length
            else:
                fields_at = self.room_start()
                body_at = align64(fields_at + fields_length)
                end = body_at + length
            if end > self.room_end():
                self.port.ask_for_room(self, body, fields)
                self.answered = True
                return
            memcpy(self.segment.base + slot + fields_at, PyBytes_AS_STRING(fields), fields_length)
            if data != self.segment.base + slot + body_at and data != self.segment.bodies + slot + body_at:
                fault_memcpy(b"worker.mid_write", self.segment.base + slot + body_at, data, length)
                self.count_copy(length)
            answer.offset = <uint32_t>fields_at
            answer.body_offset = <uint32_t>body_at
        finally:
            PyBuffer_Release(&view)
        self.finish()
        self.answered = True  # last: where memory lacks on the way, the request is still to be answered

    def fail(self, exc):
        """Answers with the error that `exc` stands for."""
        self.reply(*self.port.render(exc, self))

    cdef int finish(self) except -1:
        """Publishes the answer now, or at the end of the batch when somebody still has a view on the body."""
        self.view = None
        if self.slot_body is None or self.slot_body.exports == 0:
            self.publish()
        else:
            self.port.deferred.append(self)
        return 0

    cdef int publish(self) except -1:
        self.answer.op = COMPLETE_DONE
        self.answer.finished_ns = monotonic_ns()
        self.answer.copied_bytes = <uint32_t>min(self.copied_bytes, <uint64_t>0xffffffff)
        if self.slot_body is not None and self.slot_body.exports != 0:
            self.answer.flags |= COMPLETE_HELD
            memset(&self.slot_body.release, 0, sizeof(Completion))
            self.slot_body.release.op = COMPLETE_RELEASE
            self.slot_body.release.request_id = self.entry.request_id
            self.slot_body.release.slot = self.entry.slot
            self.slot_body.release.generation = self.entry.generation
            self.slot_body.held = True
            self.port.page.held_slots += 1
        self.published = True
        crash_point(b"worker.before_publish")
        self.segment.push(&self.answer)
        crash_point(b"worker.after_publish")
        return 0
