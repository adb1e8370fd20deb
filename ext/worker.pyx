"""A worker's end of the shared memory: requests come out of submission rings, answers go into completion rings.

    segment (one a frontend)
      submission ring --take--> ModelQueue --next_batch--> [Request, ...] --model--> Request.reply --> completion ring

Invariants
1. A Request is answered exactly once; `Port.settle` answers what a batch left unanswered.
2. Request bytes are mapped read-only: nothing in this process can change a body, so a redelivery gets it as it came.
3. A slot that a model still holds a view of is not given back: its DONE says HELD, and a RELEASE follows the last view.
"""

from collections import deque
from collections.abc import Mapping
from os import dup

import orjson

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from layout cimport (
    BOARD_BYTES,
    CODED_ANSWER,
    CODED_BODY,
    MARKS_OFFSET,
    SLOTS_MAX,
    SUBMIT_ALONE,
    COMPLETE_DONE,
    COMPLETE_HELD,
    COMPLETE_NEED,
    COMPLETE_RELEASE,
    ARENA_OFFSET,
    LAYOUT_MAGIC,
    LAYOUT_VERSION,
    MAX_FRONTENDS,
    MAX_WORKERS,
    MEDIA_CSV,
    MEDIA_JSON,
    MEDIA_TEXT,
    RINGS_OFFSET,
    SUBMIT_GRANT,
    SUBMIT_RUN,
    WORKER_IDLE,
    WORKER_LOADING,
    WORKER_RUNNING,
    BoardHeader,
    Completion,
    Doorbell,
    RingPair,
    SegmentHeader,
    SlotMark,
    Submission,
    WorkerPage,
    align64,
)
from response cimport REQUEST_ID_LENGTH, media_text, request_id_text
from ring cimport (
    RingEnd,
    cpu_relax,
    doorbell_must_ring,
    doorbell_park,
    doorbell_unpark,
    load_acquire,
    load_relaxed,
    ring_attach,
    ring_is_empty,
    ring_pop,
    ring_push,
    store_relaxed,
)
from fault cimport crash_point, fault_memcpy
from syscalls cimport eventfd_bump, file_bytes, futex_wait, map_shared, monotonic_ns, unmap_shared

cdef enum:
    PARK_NS = 1000000000  # a death wakes no futex waiter: look around once a second
    SPIN_BATCH = 2        # spin only while batches have been as small as this
    SAMPLES = 128         # batches that a tuner learns from at once; or, of slow batches, fewer after a while:
    FEW_SAMPLES = 8
    LEARN_NS = 200000000


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
cdef class Segment:
    """One frontend's shared memory as a worker sees it: mapped twice, once read-only for what models get to see."""

    cdef SegmentHeader *header
    cdef uint8_t *base
    cdef uint8_t *bodies
    cdef SlotMark *marks
    cdef uint64_t length
    cdef RingEnd submit
    cdef RingEnd complete
    cdef int eventfd
    cdef bint unrung  # completions were published since the frontend's doorbell was last looked at
    cdef object backlog  # completions that found the ring full, oldest first

    def __cinit__(self, int fd, int eventfd, unsigned int frontend, unsigned int worker):
        cdef int64_t length = file_bytes(fd)
        self.eventfd = -1
        if length < <int64_t>sizeof(SegmentHeader):
            raise ValueError(f"descriptor {fd} is no segment: {length} bytes")
        self.length = length
        self.eventfd = dup(eventfd)  # lives as long as the segment, which a view that is held keeps
        self.base = <uint8_t *>map_shared(fd, self.length, True)
        self.bodies = <uint8_t *>map_shared(fd, self.length, False)
        if self.base is NULL or self.bodies is NULL:
            raise OSError(f"mmap failed for a segment of {length} bytes")
        self.header = <SegmentHeader *>self.base
        if (self.header.magic != LAYOUT_MAGIC or self.header.version != LAYOUT_VERSION
                or self.header.segment_bytes != self.length or self.header.frontend != frontend):
            raise ValueError(f"not the segment of frontend {frontend}: the processes come from different builds")
        self.marks = <SlotMark *>(self.base + MARKS_OFFSET)
        cdef RingPair *pair = <RingPair *>(self.base + RINGS_OFFSET) + worker
        ring_attach(&self.submit, &pair.submit, &pair.submissions[0], False)
        ring_attach(&self.complete, &pair.complete, &pair.completions[0], True)
        self.backlog = deque()

    def __dealloc__(self):
        if self.base is not NULL:
            unmap_shared(self.base, self.length)
        if self.bodies is not NULL:
            unmap_shared(self.bodies, self.length)
        if self.eventfd >= 0:
            close(self.eventfd)

    cdef int push(self, Completion *completion) except -1:
        """Publishes a completion; one that finds the ring full waits its turn, the worker does not."""
        self.unrung = True
        if self.backlog:
            self.flush_backlog()
        if self.backlog or not ring_push(&self.complete, completion):
            self.backlog.append(PyBytes_FromStringAndSize(<char *>completion, sizeof(Completion)))
        return 0

    cdef int flush_backlog(self) except -1:
        while self.backlog:
            entry = self.backlog[0]
            if not ring_push(&self.complete, PyBytes_AS_STRING(entry)):
                return 0
            self.backlog.popleft()
            self.unrung = True
        return 0


@cython.final
@cython.freelist(64)
cdef class SlotBody:
    """The body of one request where it lies: read-only memory that stays valid while anybody has a view of it."""

    cdef Segment segment
    cdef uint8_t *start
    cdef Py_ssize_t length
    cdef uint32_t exports
    cdef bint held  # the answer went out while views were alive: the last one to go gives the slot back
    cdef Completion release

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, True, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.let_go()

    cdef int let_go(self) except -1:
        self.exports -= 1
        if self.exports == 0 and self.held:
            self.held = False
            self.segment.push(&self.release)
        return 0


@cython.final
cdef class SlotRoom:
    """Writable memory behind a request's body, where its answer may be made in place."""

    cdef SlotBody body  # whose slot this is: a view of the room keeps it as one of the body does
    cdef uint8_t *start
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, False, flags)
        self.body.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.body.let_go()


@cython.final
@cython.freelist(256)
cdef class Request:
    """One request, on shared memory. See headrace.Request for what a model may use of it."""

    cdef Port port
    cdef Segment segment
    cdef Submission entry
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
        """Whether nobody waits for the answer any more: the client is gone, or the deadline has passed."""
        return (load_relaxed(&self.segment.marks[self.entry.slot].cancelled) == self.entry.request_id
                or monotonic_ns() > self.entry.deadline_ns)

    cdef bint begin(self, uint64_t now_ns) except -1:
        """Marks the request as begun. False when nobody waits for it any more: then it is given back at once."""
        cdef SlotMark *mark = &self.segment.marks[self.entry.slot]
        if load_relaxed(&mark.cancelled) == self.entry.request_id:
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

    def count_copy(self, uint64_t length):
        """Adds to the worker's count of bytes that were copied in user space."""
        self.port.page.copied_bytes += length

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
            answer.slot = self.entry.slot
            answer.generation = self.entry.generation
            answer.status = status
            answer.kind = kind
            answer.batch_rows = self.port.batch_rows
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
                self.answered = True
                self.port.ask_for_room(self, body, fields)
                return
            memcpy(self.segment.base + slot + fields_at, PyBytes_AS_STRING(fields), fields_length)
            if data != self.segment.base + slot + body_at and data != self.segment.bodies + slot + body_at:
                fault_memcpy(b"worker.mid_write", self.segment.base + slot + body_at, data, length)
                self.port.page.copied_bytes += length
            answer.offset = <uint32_t>fields_at
            answer.body_offset = <uint32_t>body_at
            self.answered = True
        finally:
            PyBuffer_Release(&view)
        self.finish()

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
        return 0


@cython.final
cdef class ModelQueue:
    """Requests that wait for one model, oldest first, and the rule by which they become batches.

    A batch takes what waits, up to `most` members and `most_bytes` of bodies (one larger member runs alone). While fewer than
    `crowd` wait it is put off until the oldest has waited for `delay_ns` or, with a linger, until nothing has come or gone for
    `linger_ns`. A tuner sets these four anew from samples (headrace.tuner says what they are); without one they stay.
    """

    cdef object servable
    cdef object waiting
    cdef uint64_t waiting_bytes  # of bodies
    cdef uint32_t model
    cdef Py_ssize_t most
    cdef uint64_t most_bytes
    cdef Py_ssize_t crowd
    cdef uint64_t linger_ns
    cdef uint64_t delay_ns
    cdef object tuner
    cdef list samples
    cdef uint64_t learned_ns
    # The batch that runs, or ran last; times are CLOCK_MONOTONIC.
    cdef Py_ssize_t members
    cdef Py_ssize_t depth  # of the queue when it was formed
    cdef uint64_t oldest_ns  # arrival of its oldest member
    cdef uint64_t begun_ns
    cdef uint64_t ended_ns  # also without a tuner
    cdef uint64_t waited_ns
    cdef uint64_t turnaround_ns
    cdef uint64_t asking_ns  # end of the last batch, 0 once a request came after it
    cdef uint64_t unasked_ns  # end of the batch before that, likewise
    cdef uint64_t last_arrival_ns

    cdef int add(self, Request request) except -1:
        cdef uint64_t arrival = request.entry.arrival_ns
        self.waiting.append(request)
        self.waiting_bytes += request.entry.body_length
        if self.tuner is not None:
            # Rings are looked into after a batch, so what came during it is seen when it has ended.
            if 0 < self.unasked_ns < arrival:
                self.turnaround_ns = arrival - self.unasked_ns
                self.unasked_ns = 0
            if 0 < self.asking_ns < arrival:
                self.turnaround_ns = arrival - self.asking_ns
                self.asking_ns = 0
            self.last_arrival_ns = arrival
        return 0

    cdef uint64_t due(self):
        """When the next batch is to be formed of what waits; 0 for now."""
        cdef Py_ssize_t count = len(self.waiting)
        if count >= self.crowd or self.waiting_bytes >= self.most_bytes:
            return 0
        cdef uint64_t due = (<Request>self.waiting[0]).entry.arrival_ns + self.delay_ns
        if self.linger_ns:
            due = min(due, max(self.last_arrival_ns, self.ended_ns) + self.linger_ns)
        return due

    cdef Request pop(self):
        cdef Request request = self.waiting.popleft()
        self.waiting_bytes -= request.entry.body_length
        return request

    cdef int begin(self, list batch, Py_ssize_t depth, uint64_t now) except -1:
        """Takes note of a batch; all of it is for the tuner."""
        self.members = len(batch)
        self.depth = depth
        self.oldest_ns = (<Request>batch[0]).entry.arrival_ns
        self.begun_ns = now
        self.waited_ns = now - min(now, max(self.oldest_ns, self.ended_ns))
        return 0

    cdef int end(self, uint64_t now) except -1:
        self.ended_ns = now
        self.unasked_ns = self.asking_ns
        self.asking_ns = now
        return 0

    cdef int learn(self) except -1:
        """After a batch and a look into the rings: makes a sample of it, and now and then a new plan of all samples."""
        self.samples.append((
            self.members, self.depth, len(self.waiting), self.ended_ns - self.begun_ns, self.ended_ns - self.oldest_ns,
            self.waited_ns, self.turnaround_ns,
        ))
        self.turnaround_ns = 0
        if len(self.samples) >= SAMPLES or (len(self.samples) >= FEW_SAMPLES and self.ended_ns - self.learned_ns > LEARN_NS):
            self.most, self.crowd, self.linger_ns, self.delay_ns = self.tuner.learn(self.samples)
            self.samples.clear()
            self.learned_ns = self.ended_ns
        return 0


@cython.final
cdef class Port:
    """All that a worker exchanges with the frontends.

    render: (exception, request) -> the arguments of Request.reply that answer it.
    spin_us: longest spin before the worker sleeps; it spins only while requests come that densely.
    codings: a headrace.compression.Codings; None: bodies are shown as they came, answers go out as they are.
    """

    cdef WorkerPage *page
    cdef void *board
    cdef readonly unsigned int index
    cdef object render
    cdef uint64_t max_response
    cdef object codings
    cdef uint64_t compress_min  # bytes of an answer
    cdef uint64_t spin_ns
    cdef uint64_t gap_ns  # from the beginning of a wait to the arrival that ended it: moving mean of late, at most a few spins
    cdef uint64_t waiting_from_ns  # beginning of the last wait; 0 once its gap is known
    cdef uint64_t control_seen
    cdef uint64_t started_ns
    cdef uint32_t batch_rows
    cdef list segments
    cdef RingEnd *submits[MAX_FRONTENDS]
    cdef int submit_count
    cdef dict queues
    cdef ModelQueue running  # whose batch runs, or ended just now
    cdef list deferred
    cdef dict in_need  # (frontend's slot, generation) by request id and segment -> (Request, body, fields)

    def __cinit__(self, int board_fd, unsigned int index, object render, unsigned long long max_response, unsigned int spin_us,
                  object codings=None):
        if index >= MAX_WORKERS:
            raise ValueError(f"worker {index} is not below {MAX_WORKERS}")
        if file_bytes(board_fd) != <int64_t>BOARD_BYTES:
            raise ValueError(f"descriptor {board_fd} is no board of this build")
        self.board = map_shared(board_fd, BOARD_BYTES, True)
        if self.board is NULL:
            raise OSError("mmap failed for the board")
        cdef BoardHeader *header = <BoardHeader *>self.board
        if header.magic != LAYOUT_MAGIC or header.version != LAYOUT_VERSION:
            raise ValueError("not a board of this build: the processes come from different builds")
        self.page = <WorkerPage *>(<uint8_t *>self.board + sizeof(BoardHeader)) + index
        self.index = index
        self.render = render
        self.max_response = max_response
        self.codings = codings
        self.compress_min = codings.min_bytes if codings is not None and codings.min_bytes else ~<uint64_t>0
        self.spin_ns = <uint64_t>spin_us * 1000
        self.gap_ns = 8 * self.spin_ns
        self.segments = [None] * MAX_FRONTENDS
        self.queues = {}
        self.deferred = []
        self.in_need = {}

    def __dealloc__(self):
        if self.board is not NULL:
            unmap_shared(self.board, BOARD_BYTES)

    def attach(self, unsigned int frontend, int segment_fd, int eventfd):
        """Maps a frontend's segment, in place of the one that an earlier frontend of that number had."""
        if frontend >= MAX_FRONTENDS:
            raise ValueError(f"frontend {frontend} is not below {MAX_FRONTENDS}")
        self.segments[frontend] = Segment(segment_fd, eventfd, frontend, self.index)
        self.in_need = {key: need for key, need in self.in_need.items() if (<Request>need[0]).segment in self.segments}
        cdef Segment segment
        self.submit_count = 0
        for found in self.segments:
            if found is not None:
                segment = found
                self.submits[self.submit_count] = &segment.submit
                self.submit_count += 1

    def serve(self, unsigned int model, servable):
        """From now on requests for `model` are batched for `servable` (a headrace.loaders.Servable), by its limits."""
        cdef ModelQueue queue = ModelQueue.__new__(ModelQueue)
        queue.servable = servable
        queue.waiting = deque()
        queue.model = model
        queue.most = servable.max_batch_size
        queue.most_bytes = servable.max_batch_bytes
        queue.delay_ns = servable.max_batch_delay_ns
        queue.crowd = queue.most if queue.delay_ns and servable.tuner is None else 0
        queue.tuner = servable.tuner
        queue.samples = []
        self.queues[model] = queue

    def withdraw(self, unsigned int model):
        """Stops to serve `model`. Returns the requests that still wait for it."""
        cdef ModelQueue queue = self.queues.pop(model)
        if self.running is queue:
            self.running = None
        return list(queue.waiting)

    def waiting(self, unsigned int model):
        """Number of requests that wait for `model`, after a look into the rings."""
        self.take()
        return len((<ModelQueue>self.queues[model]).waiting)

    cdef int take(self) except -1:
        """Moves all submissions into the queues of their models."""
        cdef Segment segment
        cdef Submission entry
        for found in self.segments:
            if found is None:
                continue
            segment = found
            if segment.backlog:
                segment.flush_backlog()
            if not ring_is_empty(&segment.submit):
                crash_point(b"worker.before_take")
            while ring_pop(&segment.submit, &entry):
                self.accept(segment, &entry)
        return 0

    cdef int accept(self, Segment segment, Submission *entry) except -1:
        """Queues a request, or uses a grant. What cannot be right is given back untouched: any process that maps the segment
        may have spoilt the entry, and the other requests here are none the worse for it."""
        cdef uint64_t capacity = <uint64_t>entry.capacity64 * 64
        cdef uint64_t start = <uint64_t>entry.offset64 * 64
        cdef Request request = Request.__new__(Request)
        request.port = self
        request.segment = segment
        request.entry = entry[0]
        if entry.op == SUBMIT_GRANT and self.use_room(request):
            return 0
        if (entry.op != SUBMIT_RUN or start < ARENA_OFFSET or start + capacity > segment.length or entry.slot >= SLOTS_MAX
                or align64(entry.body_length) + align64(entry.head_length) > capacity):
            self.page.invalid_submissions += 1
            request.give_back(500)
            self.ring(segment)
            return 0
        crash_point(b"worker.after_take")
        self.page.requests += 1
        if self.waiting_from_ns:
            self.learn_gap(entry.arrival_ns)
        found = self.queues.get(entry.model)
        if found is None:
            request.fail(LookupError(entry.model))
            self.ring(segment)
            return 0
        request.servable = (<ModelQueue>found).servable
        (<ModelQueue>found).add(request)
        return 0

    def control_waits(self):
        """Whether control messages came since this was last asked. Read them all after a yes."""
        cdef uint64_t sent = load_acquire(&self.page.control_sent)
        if sent == self.control_seen:
            return False
        self.control_seen = sent
        return True

    def next_batch(self, bint heed_control=True):
        """(servable, [Request, ...]) of the model that has waited longest; None when control messages wait, or when nothing
        came for a second. Sleeps meanwhile.

        A model waits since its oldest request came, or since its last batch ended, whichever is later: so a model with a
        backlog does not keep one with a single request waiting for more than a batch of each.
        heed_control=False: only what is in the queues now, whatever control messages wait; nothing waits for company.
        """
        cdef ModelQueue queue
        cdef ModelQueue best
        cdef uint64_t since, longest, due, next_due
        cdef uint64_t now = 0
        cdef list batch
        while True:
            self.take()
            if self.running is not None:
                if self.running.tuner is not None:
                    self.running.learn()
                self.running = None
            if heed_control and load_acquire(&self.page.control_sent) != self.control_seen:
                return None
            best = None
            longest = next_due = ~<uint64_t>0
            now = 0
            for queue in self.queues.values():
                if not queue.waiting:
                    continue
                if queue.crowd and heed_control:
                    due = queue.due()
                    if due:
                        now = now or monotonic_ns()
                        if now < due:
                            next_due = min(next_due, due)
                            continue
                since = max((<Request>queue.waiting[0]).entry.arrival_ns, queue.ended_ns)
                if since < longest:
                    best, longest = queue, since
            if best is not None:
                batch = self.form(best)
                if batch:
                    return best.servable, batch
            elif not heed_control or not self.wait(next_due):
                return None

    cdef list form(self, ModelQueue queue):
        """A batch of what waits, by the queue's limits; empty when nobody waited for any of it any more."""
        cdef list batch = []
        cdef Request head
        cdef uint64_t room = queue.most_bytes
        cdef Py_ssize_t depth = len(queue.waiting)
        self.started_ns = monotonic_ns()
        while queue.waiting and <Py_ssize_t>len(batch) < queue.most:
            head = queue.waiting[0]
            if batch and (head.entry.body_length > room or head.entry.flags & SUBMIT_ALONE):
                break
            queue.pop()
            if not head.begin(self.started_ns):
                continue
            batch.append(head)
            room -= min(room, <uint64_t>head.entry.body_length)
            if head.entry.flags & SUBMIT_ALONE:
                break
        if batch:
            crash_point(b"worker.begun")
            self.page.batches += 1
            self.batch_rows = <uint32_t>len(batch)
            self.running = queue
            if queue.tuner is not None:
                queue.begin(batch, depth, self.started_ns)
            self.enter(WORKER_RUNNING, queue.model)
        return batch

    cdef int enter(self, uint64_t state, uint64_t model) except -1:
        """Says on the board what this loop does, and since when."""
        store_relaxed(&self.page.state_model, model)
        store_relaxed(&self.page.state_since_ns, self.started_ns)
        store_relaxed(&self.page.state, state)
        store_relaxed(&self.page.turns, self.page.turns + 1)
        return 0

    def loading(self, unsigned int model):
        """Says on the board that a model is being loaded."""
        self.started_ns = monotonic_ns()
        self.enter(WORKER_LOADING, model)

    def idle(self):
        self.started_ns = monotonic_ns()
        self.enter(WORKER_IDLE, 0)

    def settle(self, list batch, object missing):
        """Ends a batch: answers with `missing` whoever was left without an answer, publishes what waited, wakes frontends."""
        cdef Request request
        for request in batch:
            if not request.answered:
                request.fail(missing)
        if self.deferred:
            for request in self.deferred:
                request.publish()
            self.deferred.clear()
        for found in self.segments:
            if found is not None and (<Segment>found).unrung:
                self.ring(found)
        if self.running is not None:
            self.running.end(monotonic_ns())

    cdef int ring(self, Segment segment) except -1:
        segment.unrung = False
        if doorbell_must_ring(&segment.header.bell):
            self.page.bells += 1
            eventfd_bump(segment.eventfd)
        return 0

    cdef int ask_for_room(self, Request request, object body, bytes fields) except -1:
        """The answer does not fit into the slot: keep it here and ask the frontend for a larger one."""
        cdef Completion need
        memset(&need, 0, sizeof(need))
        need.op = COMPLETE_NEED
        need.request_id = request.entry.request_id
        need.slot = request.entry.slot
        need.generation = request.entry.generation
        need.fields_length = request.answer.fields_length
        need.body_length = request.answer.body_length
        request.view = None
        self.in_need[id(request.segment), request.entry.request_id] = (request, body, fields)
        request.segment.push(&need)
        return 0

    cdef bint use_room(self, Request grant) except -1:
        """The frontend granted a slot for an answer that waited, or refused one (capacity 0). False when no answer waits for it:
        then it is to be given back."""
        cdef Segment segment = grant.segment
        cdef uint64_t capacity = <uint64_t>grant.entry.capacity64 * 64
        cdef uint64_t base = <uint64_t>grant.entry.offset64 * 64
        found = self.in_need.pop((id(segment), grant.entry.request_id), None)
        if found is None:
            return capacity == 0
        cdef Request request = found[0]
        cdef object body = found[1]
        cdef bytes fields = found[2]
        cdef uint64_t body_at = align64(<uint64_t>len(fields))
        cdef Completion *answer = &request.answer
        cdef bint fits = base >= ARENA_OFFSET and base + capacity <= segment.length and body_at + answer.body_length <= capacity
        cdef Py_buffer view
        found = None
        if not fits:
            body = fields = None
            request.answered = False
            request.fail(BufferError())
            self.ring(segment)
            return True
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        memcpy(segment.base + base, PyBytes_AS_STRING(fields), len(fields))
        memcpy(segment.base + base + body_at, view.buf, answer.body_length)
        self.page.copied_bytes += answer.body_length
        PyBuffer_Release(&view)
        body = None
        answer.slot = grant.entry.slot
        answer.generation = grant.entry.generation
        answer.offset = 0
        answer.body_offset = <uint32_t>body_at
        request.publish()
        self.ring(segment)
        return True

    cdef int learn_gap(self, uint64_t arrival_ns) except -1:
        """Takes note how long after the beginning of a wait the next request came; how late we woke up is no matter."""
        cdef uint64_t gap = arrival_ns - self.waiting_from_ns if arrival_ns > self.waiting_from_ns else 0
        self.gap_ns = (3 * self.gap_ns + min(gap, 8 * self.spin_ns)) / 4
        self.waiting_from_ns = 0
        return 0

    cdef bint is_quiet(self) noexcept nogil:
        """Nothing to take, nothing to hear."""
        cdef int i
        for i in range(self.submit_count):
            if not ring_is_empty(self.submits[i]):
                return False
        return load_acquire(&self.page.control_sent) == self.control_seen

    cdef bint wait(self, uint64_t due_ns) except -1:
        """Spins, then sleeps, until there is news or `due_ns` comes. False after a second without either.

        A sleep and wake-up across cores costs some 50 us, a look at the rings 0.2 us, so while requests come densely the
        worker spins for up to spin_us. It sleeps at once where they do not, and where they come in batches: one wake-up for
        several requests costs each little, and the core is of more use to whoever sends them.
        """
        cdef uint64_t start = monotonic_ns()
        cdef uint64_t now = start
        cdef uint64_t limit = start + (self.spin_ns if self.gap_ns <= self.spin_ns and self.batch_rows <= SPIN_BATCH else 0)
        cdef bint quiet = True
        if due_ns - start < self.spin_ns:
            limit = due_ns  # a sleep takes longer than that
        self.started_ns = self.waiting_from_ns = start
        self.enter(WORKER_IDLE, 0)
        with nogil:
            while quiet and now < limit and now < due_ns:
                quiet = self.is_quiet()
                cpu_relax()
                now = monotonic_ns()
            if not quiet:
                self.page.spins += 1
            elif now < due_ns:
                self.page.parks += 1
                doorbell_park(&self.page.bell)
                quiet = self.is_quiet()
                if quiet:
                    futex_wait(&self.page.bell.parked, 1, min(<uint64_t>PARK_NS, due_ns - now))
                doorbell_unpark(&self.page.bell)
                quiet = self.is_quiet()
                now = monotonic_ns()
        PyErr_CheckSignals()
        return not quiet or now >= due_ns
