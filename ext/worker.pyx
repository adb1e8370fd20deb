"""A worker's end of the shared memory: requests come out of submission rings, answers go into completion rings.

    segment (one a frontend)
      submission ring --take--> ModelQueue --next_batch--> [Request, ...] --model--> Request.reply --> completion ring

One extension module in four files, since its classes call each other for every request:

    segment.pxi      a frontend's memory, and views of its slots
    request.pxi      one request, and its answer
    model_queue.pxi  what waits for one model, and when it becomes a batch
    worker.pyx       the port: rings, batches, sleep

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

include "segment.pxi"
include "request.pxi"
include "model_queue.pxi"


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
    cdef uint64_t taken_ns  # last look into a ring that had something
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
        cdef Segment segment = Segment(segment_fd, eventfd, frontend, self.index)
        if self.segments[frontend] is not None:
            (<Segment>self.segments[frontend]).is_lost = True  # what waits of it is dropped when its turn comes
        self.segments[frontend] = segment
        self.in_need = {key: need for key, need in self.in_need.items() if (<Request>need[0]).segment in self.segments}
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
        queue.limit()
        self.queues[model] = queue

    def limit(self, unsigned int model):
        """The limits of the servable of `model` have changed. Between two batches; what waits goes on waiting."""
        (<ModelQueue>self.queues[model]).limit()

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
                self.taken_ns = monotonic_ns()
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
        request.taken_ns = self.taken_ns
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
        if self.page.state > WORKER_IDLE:
            store_relaxed(&self.page.busy_ns, self.page.busy_ns + self.started_ns - self.page.state_since_ns)
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
        crash_point(b"worker.in_need")
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
        fault_memcpy(b"worker.mid_grant", segment.base + base + body_at, view.buf, answer.body_length)
        request.count_copy(answer.body_length)
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
