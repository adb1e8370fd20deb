"""The data path of a frontend: connections, the arena, the rings, and the order of answers.

    socket --get_buffer--> head buffer --http.h--> Exchange --arena--> slot --submission ring--> worker
    socket <--send-------- head + slot <---------- Exchange <-----------------completion ring---- worker

A small request is copied once, out of the read buffer into its slot; what remains of a larger body is received by the kernel
in the slot itself. An answer is sent from the slot where the worker left it.

Invariants
1. A slot has holders: its exchange, its worker, and buffers that were exported to the transport. It is free when it has none.
2. Answers leave a connection in the order of its requests; an exchange is answered exactly once.
3. Nothing that comes out of a completion ring is used before it was checked against the books here.
4. Unparsed bytes are kept only while a connection is blocked or its head is incomplete, and never more than a bounded number.
"""

from collections import deque

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from arena cimport (
    ARENA_NONE,
    Arena,
    ArenaClass,
    ArenaRange,
    arena_class_of,
    arena_init,
    arena_lease,
    arena_next_period,
    arena_offset,
    arena_release,
    arena_trim_begin,
    arena_trim_end,
)
from http cimport (
    HTTP_CHUNK_END,
    HTTP_CHUNKED,
    HTTP_EXPECT_CONTINUE,
    HTTP_EXPECT_OTHER,
    HTTP_GET,
    HTTP_HEAD,
    HTTP_INCOMPLETE,
    HTTP_KEEP_ALIVE,
    HTTP_OK,
    HTTP_OTHER,
    HTTP_POST,
    HttpChunks,
    HttpHead,
    HttpLimits,
    HttpPath,
    HttpScan,
    HttpSpan,
    http_chunks_announced,
    http_chunks_next,
    http_chunks_start,
    http_error_status,
    http_error_text,
    http_field_is_owned,
    http_field_ok,
    http_is_error,
    http_limits_default,
    http_method_name,
    http_parse_head,
    http_split_path,
)
from layout cimport (
    ARENA_OFFSET,
    COMPLETE_DONE,
    COMPLETE_HELD,
    COMPLETE_NEED,
    COMPLETE_RELEASE,
    LAYOUT_MAGIC,
    LAYOUT_VERSION,
    MAX_WORKERS,
    MEDIA_JSON,
    RINGS_OFFSET,
    SUBMIT_GRANT,
    SUBMIT_RUN,
    BOARD_BYTES,
    BoardHeader,
    Completion,
    Doorbell,
    RingPair,
    SegmentHeader,
    Submission,
    WorkerPage,
    align64,
)
from response cimport (
    CONNECTION_CLOSE,
    CONNECTION_DEFAULT,
    CONNECTION_KEEP_ALIVE,
    REQUEST_ID_LENGTH,
    RESPONSE_HEAD_MAX,
    ResponseDate,
    request_id_text,
    response_date,
    response_head,
)
from ring cimport (
    RingEnd,
    cpu_relax,
    doorbell_must_ring,
    doorbell_park,
    doorbell_unpark,
    ring_attach,
    ring_is_empty,
    ring_pop,
    ring_push,
    ring_reset,
)
from syscalls cimport (
    eventfd_clear,
    file_bytes,
    futex_wake,
    map_shared,
    monotonic_ns,
    punch_hole,
    send_now,
    send_two,
    unmap_shared,
)

cdef enum:
    READ_BUFFER = 65536         # of the whole frontend: what one read takes while a head, or a body behind one, is awaited
    READ_MOST = 524288          # what one read into a slot takes, so that one upload does not hold the loop
    REST_STEP = 4096            # first room for the unparsed bytes of one connection
    PIPELINE_MOST = 128         # unanswered requests of one connection; past that it is not read any more
    ROOM_LEAST = 1024           # room for an answer in a slot
    ROOM_MOST = 65536           # room that is set aside because earlier answers needed it; larger ones ask for a slot
    OUT_BUFFER = 65536          # heads and small bodies on their way to one connection
    COPY_MOST = 4096            # an answer's body up to this size is copied behind its head: one buffer, one slot free at once
    COLLECT_MOST = 1048576      # body of a management request
    DISCARD_MOST = 262144       # body that is read to its end to keep a connection after an error
    SUBMIT_MOST = 768           # requests under way at one worker: leaves room in its rings for grants and releases
    LINGER_BYTES = 524288       # read and thrown away after a refusal, so that a reset does not overtake it
    POLL_SPIN_NS = 3000         # how long one look at the completion rings may last when the loop has nothing else to do
    FIELDS_MOST = 32768         # field lines of one answer
    SPIN_OUTSTANDING = 2        # spin only while so few requests are under way: one wake-up for many costs each little
    LINGER_NS = 1500000000

# Who holds a slot.
cdef enum:
    HOLD_EXCHANGE = 1
    HOLD_WORKER = 2

# Where an exchange stands.
cdef enum:
    FILLING = 0     # its body is still arriving
    QUEUED = 1      # no worker can take it now
    SUBMITTED = 2   # a worker has it
    READY = 3       # answered: by a worker (answer) or from here (text)
    PENDING = 4     # the supervisor was asked

# What a connection waits for.
cdef enum:
    HEAD = 0
    BODY = 1        # `remaining` bytes of it
    CHUNKS = 2
    LINGER = 3      # answered for good; reads only to throw away
    CLOSED = 4

# What becomes of a body.
cdef enum:
    TO_SLOT = 0
    TO_BYTES = 1
    TO_NOTHING = 2

# What a path names.
cdef enum:
    TARGET_NONE = 0
    TARGET_PING = 1
    TARGET_DEFAULT = 2  # the one model that /invocations means
    TARGET_MODEL = 3
    TARGET_MANAGE = 4

# What a listening socket serves.
cdef enum:
    SURFACE_INFERENCE = 1
    SURFACE_MANAGEMENT = 2

INFERENCE = SURFACE_INFERENCE
MANAGEMENT = SURFACE_MANAGEMENT

cdef struct Lease:
    void *exchange          # borrowed; NULL once nobody waits for the answer
    uint64_t request_id
    uint32_t generation     # of the lease: raised when the slot becomes free, so that a late completion names nothing
    uint32_t exports
    uint32_t granted_for    # slot of the request that this one was granted for; ARENA_NONE for a request's own
    uint16_t worker
    uint8_t holds

cdef struct Link:
    RingPair *pair
    RingEnd submit
    RingEnd complete
    Doorbell *bell
    uint32_t outstanding    # slots that the worker holds
    uint32_t busy_at        # place in Frontend.busy while outstanding
    bint is_up


@cython.final
cdef class Route:
    """A model as a frontend knows it: who can run it, and how much is under way."""

    cdef readonly str name
    cdef readonly uint32_t model
    cdef readonly tuple workers
    cdef uint32_t most          # requests under way; past that 503
    cdef readonly uint32_t in_flight
    cdef uint64_t timeout_ns
    cdef uint32_t room          # for an answer, learned from earlier ones
    cdef object waiting         # exchanges that no worker can take now


@cython.final
@cython.freelist(256)
cdef class Exchange:
    """One request and its answer, from the head's last byte to the answer's."""

    cdef Connection connection
    cdef Exchange next
    cdef Route route
    cdef uint64_t request_id
    cdef uint64_t arrival_ns
    cdef uint64_t deadline_ns
    cdef uint32_t slot
    cdef uint32_t body_length
    cdef uint32_t head_length
    cdef uint32_t head_kept     # bytes of the head as it lies in the slot
    cdef uint16_t attempt
    cdef uint8_t state
    cdef uint8_t kind
    cdef uint8_t accept
    cdef uint8_t method
    cdef bint keep_alive
    cdef bint is_http10
    cdef Completion answer
    cdef bytes text             # an answer made here: its body
    cdef bytes fields
    cdef uint16_t status
    cdef object asked           # what the supervisor is asked once the body is there: (path, query, content type)


cdef Exchange new_exchange(Connection connection):
    cdef Exchange exchange = Exchange.__new__(Exchange)
    exchange.connection = connection
    exchange.slot = ARENA_NONE
    exchange.answer.slot = ARENA_NONE
    exchange.method = HTTP_POST
    exchange.kind = MEDIA_JSON
    exchange.fields = b""
    return exchange


cdef bint fields_are_clean(const uint8_t *lines, size_t length) noexcept:
    """Whether these are whole field lines that may go out, and none of them is the server's own (HTTP.md, section 9)."""
    cdef const uint8_t *end = lines + length
    cdef const uint8_t *colon
    cdef const uint8_t *stop
    cdef const uint8_t *value
    while lines < end:
        stop = <const uint8_t *>memchr(lines, 13, end - lines)
        if stop is NULL or stop + 1 >= end or stop[1] != 10:
            return False
        colon = <const uint8_t *>memchr(lines, 58, stop - lines)
        if colon is NULL:
            return False
        value = colon + 1
        while value < stop and value[0] == 32:
            value += 1
        if not http_field_ok(lines, colon - lines, value, stop - value) or http_field_is_owned(lines, colon - lines):
            return False
        lines = stop + 2
    return True


@cython.final
cdef class SlotView:
    """Bytes of a slot on loan to a transport that could not send them all at once."""

    cdef Frontend frontend
    cdef uint32_t slot
    cdef uint8_t *start
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, True, flags)
        self.frontend.leases[self.slot].exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.frontend.leases[self.slot].exports -= 1
        self.frontend.free_if_idle(self.slot)


@cython.final
cdef class Connection:
    """asyncio.BufferedProtocol of one client. See the module's drawing; states and what ends them:

        HEAD    a head, or the idle time-out (no byte yet) or the head's (from its first byte)
        BODY    `remaining` bytes, or the body's time-out without progress
        CHUNKS  the last chunk and trailer, likewise
        LINGER  the peer's end, LINGER_BYTES or LINGER_NS
    """

    cdef Frontend frontend
    cdef object transport
    cdef int fd                 # -1: the transport encrypts, and must do the sending
    cdef int surfaces
    cdef uint8_t state
    cdef uint8_t sink
    cdef bint is_blocked        # reading is paused, unparsed bytes wait: too many requests are unanswered, or the arena is full
    cdef bint is_starving       # blocked for want of a slot
    cdef bint is_closing        # no request after the present one is looked at
    cdef bint is_in_head        # its first byte has come
    cdef bint is_paused         # the transport still has bytes of ours to send
    cdef bint is_dirty          # answers became ready
    cdef bint saw_eof
    cdef bint is_expecting      # the client waits for 100 Continue
    cdef uint32_t depth
    cdef Exchange first
    cdef Exchange last
    cdef Exchange filling
    cdef uint64_t remaining
    cdef uint64_t deadline_ns
    cdef uint64_t write_deadline_ns
    cdef Py_ssize_t unsent      # bytes that the transport had at the last sweep
    cdef uint64_t dropped_bytes
    cdef uint64_t incomplete_bytes  # what this connection's unfinished body counts against the arena's share
    cdef HttpChunks chunks
    cdef HttpScan scan
    cdef uint8_t *rest
    cdef size_t rest_length
    cdef size_t rest_room
    cdef uint8_t *target
    cdef Py_ssize_t target_length
    cdef bytearray collected

    def __dealloc__(self):
        free(self.rest)

    # -- what the transport calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef Frontend frontend = self.frontend
        self.transport = transport
        self.fd = -1
        if transport.get_extra_info("ssl_object") is None:
            self.fd = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=0)
        self.deadline_ns = monotonic_ns() + frontend.idle_timeout_ns
        frontend.connections.add(self)
        frontend.accepted += 1
        if frontend.is_draining or len(frontend.connections) > frontend.max_connections:
            self.refuse(503, b"the server has as many connections as it may have (HEADRACE_MAX_CONNECTIONS); try again later")
            self.flush()

    def connection_lost(self, exc):
        cdef Frontend frontend = self.frontend
        cdef Exchange exchange = self.first
        self.state = CLOSED
        frontend.connections.discard(self)
        self.end_incomplete()
        while exchange is not None:
            frontend.abandon(exchange)
            exchange.connection = None
            exchange = exchange.next
        self.first = self.last = self.filling = None
        self.depth = 0
        self.transport = None
        self.collected = None
        free(self.rest)
        self.rest = NULL
        self.rest_length = self.rest_room = 0

    def eof_received(self):
        """A half close is no abort: what was asked completely is answered first."""
        self.saw_eof = True
        if self.state < LINGER and (self.filling is not None or self.state != HEAD or self.is_in_head):
            self.refuse(400, b"the connection ended within a request")
            self.flush()
        elif self.first is None:
            self.transport.close()
        return True

    def pause_writing(self):
        self.is_paused = True
        self.write_deadline_ns = monotonic_ns() + self.frontend.write_timeout_ns

    def resume_writing(self):
        self.is_paused = False
        self.frontend.now_ns = monotonic_ns()
        if self.state == LINGER:
            self.deadline_ns = self.frontend.now_ns + LINGER_NS
        self.flush()
        self.frontend.serve_waiting()

    def get_buffer(self, sizehint):
        cdef Frontend frontend = self.frontend
        cdef Exchange exchange = self.filling
        if self.state == BODY and self.sink == TO_SLOT and self.rest_length == 0:
            self.target = frontend.slot_start(exchange.slot) + exchange.body_length
            self.target_length = min(self.remaining, <uint64_t>READ_MOST)
        elif self.rest_length:
            self.reserve_rest(self.rest_length + REST_STEP)
            self.target = self.rest + self.rest_length
            self.target_length = self.rest_room - self.rest_length
        else:
            self.target = frontend.read_buffer
            self.target_length = READ_BUFFER
        return self

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.target, self.target_length, False, flags)

    def buffer_updated(self, Py_ssize_t count):
        cdef Frontend frontend = self.frontend
        frontend.now_ns = monotonic_ns()
        frontend.was_read = True
        if self.state == LINGER or (self.is_closing and self.state == HEAD):
            self.dropped_bytes += count
            if self.dropped_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        if self.state == BODY and self.sink == TO_SLOT and self.rest_length == 0:
            self.filling.body_length += <uint32_t>count
            self.remaining -= count
            self.deadline_ns = frontend.now_ns + frontend.body_timeout_ns
            if self.remaining == 0:
                self.end_body()
        elif self.rest_length:
            self.rest_length += count
            self.parse_rest()
        else:
            self.parse(frontend.read_buffer, count)
        if self.is_dirty:
            self.flush()
        frontend.poke()

    # -- bytes in ----------------------------------------------------------------------------------------------------------

    cdef int reserve_rest(self, size_t room) except -1:
        cdef uint8_t *grown
        if room > self.rest_room:
            room = max(room, 2 * self.rest_room)
            grown = <uint8_t *>realloc(self.rest, room)
            if grown is NULL:
                raise MemoryError()
            self.rest = grown
            self.rest_room = room
        return 0

    cdef int parse_rest(self) except -1:
        """Parses what was kept, and keeps what is still incomplete."""
        cdef uint8_t *kept = self.rest
        cdef size_t length = self.rest_length
        self.rest = NULL
        self.rest_length = self.rest_room = 0
        try:
            self.parse(kept, length)
        finally:
            free(kept)
        return 0

    cdef int parse(self, uint8_t *data, size_t length) except -1:
        """Takes requests out of the bytes; keeps the rest of them when they end within a head or the connection is blocked."""
        cdef Frontend frontend = self.frontend
        cdef size_t at = 0
        cdef size_t used = 0
        cdef int outcome
        while at < length and self.state < LINGER:
            if self.state == HEAD:
                if self.is_closing:
                    return 0
                if self.depth >= PIPELINE_MOST or self.is_paused:
                    self.block()
                    break
                outcome = http_parse_head(data + at, length - at, &frontend.limits, &self.scan, &frontend.head)
                if outcome == HTTP_INCOMPLETE:
                    if not self.is_in_head:
                        self.is_in_head = True
                        self.deadline_ns = frontend.now_ns + frontend.header_timeout_ns
                    break
                used = frontend.head.head_length
                memset(&self.scan, 0, sizeof(self.scan))
                if outcome != HTTP_OK:
                    self.refuse(http_error_status(outcome), http_error_text(outcome))
                    return 0
                if not self.begin(data + at, length - at - used):
                    self.starve()
                    break
                at += used
                self.is_in_head = self.is_starving = False
                self.deadline_ns = frontend.now_ns + (
                    frontend.idle_timeout_ns if self.state == HEAD else frontend.body_timeout_ns)
            elif self.state == BODY:
                used = min(<uint64_t>(length - at), self.remaining)
                self.store(data + at, used)
                at += used
                self.remaining -= used
                self.deadline_ns = frontend.now_ns + frontend.body_timeout_ns
                if self.remaining == 0:
                    self.end_body()
            else:
                used = 0
                outcome = self.take_chunk(data + at, length - at, &used)
                at += used
                if outcome == HTTP_INCOMPLETE:
                    if not self.is_blocked:
                        self.deadline_ns = frontend.now_ns + frontend.body_timeout_ns
                    break
        if at < length and self.state < LINGER and not (self.is_closing and self.state == HEAD):
            self.reserve_rest(length - at)
            memcpy(self.rest, data + at, length - at)
            self.rest_length = length - at
        return 0

    cdef int begin(self, uint8_t *data, size_t behind) except -1:
        """A head is complete: decides what becomes of the request. 0 when it must wait for a slot, and come again."""
        cdef Frontend frontend = self.frontend
        cdef HttpHead *head = &self.frontend.head
        cdef Exchange exchange = new_exchange(self)
        cdef Route route = None
        cdef HttpPath path
        cdef int target
        exchange.arrival_ns = frontend.now_ns
        exchange.method = head.method
        exchange.kind = head.content_kind
        exchange.accept = head.accept_kind
        exchange.keep_alive = head.flags & HTTP_KEEP_ALIVE and not frontend.is_draining
        exchange.is_http10 = head.minor == 0
        target = http_split_path(data + head.path.offset, head.path.length, &path, frontend.scratch, sizeof(frontend.scratch))
        if target != HTTP_OK:
            return self.decline(exchange, http_error_status(target), http_error_text(target), b"")
        if head.flags & HTTP_EXPECT_OTHER:
            return self.decline(exchange, 417, b"the only expectation that can be met is 100-continue", b"")
        target = frontend.find_target(&path, self.surfaces)
        if target == TARGET_NONE:
            return self.decline(exchange, 404, b"there is nothing at this path", b"")
        if head.method == HTTP_OTHER:
            return self.decline(exchange, 501, b"this method is not known here", b"")
        if target == TARGET_PING:
            if head.method != HTTP_GET and head.method != HTTP_HEAD:
                return self.decline(exchange, 405, b"/ping is for GET", b"allow: GET, HEAD\r\n")
            exchange.kind = MEDIA_JSON
            exchange.text = frontend.health_text
            return self.answer_early(exchange, frontend.health_status)
        if target == TARGET_MANAGE:
            if head.content_length > COLLECT_MOST:
                return self.decline(exchange, 413, b"a management request may have a body of at most 1048576 bytes", b"")
            exchange.asked = (
                (<char *>data)[head.path.offset:head.path.offset + head.path.length].decode("latin-1"),
                (<char *>data)[head.query.offset:head.query.offset + head.query.length].decode("latin-1"),
                (<char *>data)[head.content_type.offset:head.content_type.offset + head.content_type.length].decode("latin-1"),
                self.surfaces,
            )
            self.collected = bytearray()
            self.sink = TO_BYTES
        else:
            if head.method != HTTP_POST:
                return self.decline(exchange, 405, b"a prediction is asked for with POST", b"allow: POST\r\n")
            route = frontend.find_route(target, &path)
            if route is None:
                return self.decline_unknown(exchange, target, &path)
            if head.content_length > frontend.max_request:
                return self.decline(exchange, 413, frontend.too_large_text, b"")
            if route.in_flight >= route.most:
                frontend.overloaded += 1
                return self.decline(exchange, 503, b"the model's queue is full (HEADRACE_QUEUE); try again later", b"retry-after: 1\r\n")
            if not frontend.lease_for(exchange, self, data, behind, route):
                return 0
            exchange.route = route
            exchange.deadline_ns = exchange.arrival_ns + route.timeout_ns
            route.in_flight += 1
            self.sink = TO_SLOT
        self.append(exchange)
        self.filling = exchange
        if head.flags & HTTP_CHUNKED:
            self.state = CHUNKS
            http_chunks_start(&self.chunks)
        elif head.content_length:
            self.state = BODY
            self.remaining = head.content_length
        else:
            self.end_body()
            return 1
        self.is_expecting = head.flags & HTTP_EXPECT_CONTINUE and behind == 0
        if self.is_expecting:
            self.is_dirty = True
        return 1

    cdef int append(self, Exchange exchange) except -1:
        exchange.request_id = self.frontend.next_id
        self.frontend.next_id += 1
        if self.first is None:
            self.first = exchange
        else:
            self.last.next = exchange
        self.last = exchange
        self.depth += 1
        return 0

    cdef int answer_early(self, Exchange exchange, unsigned int status) except -1:
        """Answers from the head alone. A short body is read to its end and thrown away; before a long one the connection ends."""
        cdef HttpHead *head = &self.frontend.head
        exchange.state = READY
        exchange.status = status
        if exchange.text is None:
            exchange.text = b""
        self.append(exchange)
        self.is_dirty = True
        if head.flags & HTTP_EXPECT_CONTINUE or head.content_length > DISCARD_MOST or (
                head.flags & HTTP_CHUNKED and status >= 400):
            if head.content_length or head.flags & HTTP_CHUNKED:
                exchange.keep_alive = False
        if not exchange.keep_alive:
            self.is_closing = True
        elif head.flags & HTTP_CHUNKED or head.content_length:
            self.sink = TO_NOTHING
            self.state = CHUNKS if head.flags & HTTP_CHUNKED else BODY
            self.remaining = head.content_length
            http_chunks_start(&self.chunks)
        return 1

    cdef int decline(self, Exchange exchange, unsigned int status, const char *text, bytes fields) except -1:
        exchange.kind = MEDIA_JSON
        exchange.text = self.frontend.render_error(status, (<bytes>text).decode("utf-8"))
        exchange.fields = fields
        return self.answer_early(exchange, status)

    cdef int decline_unknown(self, Exchange exchange, int target, HttpPath *path) except -1:
        cdef HttpSpan *name = &path.segments[1]
        if target == TARGET_DEFAULT:
            return self.decline(exchange, 404, b"no single model answers at /invocations: name one, as in /models/NAME/invoke", b"")
        text = "Model not found: " + (<char *>self.frontend.scratch)[name.offset:name.offset + name.length].decode("utf-8", "replace")
        exchange.kind = MEDIA_JSON
        exchange.text = self.frontend.render_error(404, text)
        return self.answer_early(exchange, 404)

    cdef int refuse(self, unsigned int status, const char *text) except -1:
        """Answers what is no request, or one that does not go on; the connection ends behind it."""
        cdef Exchange exchange = self.filling
        self.end_incomplete()
        if exchange is None or exchange.state != FILLING:
            exchange = new_exchange(self)
            self.append(exchange)
        else:
            self.frontend.leave_route(exchange)
            self.frontend.drop_slots(exchange)
        exchange.keep_alive = False
        exchange.kind = MEDIA_JSON
        exchange.text = self.frontend.render_error(status, (<bytes>text).decode("utf-8"))
        exchange.status = status
        exchange.state = READY
        self.filling = None
        self.collected = None
        self.is_closing = True
        self.is_in_head = self.is_expecting = False
        self.state = HEAD
        self.rest_length = 0
        self.is_dirty = True
        return 0

    cdef int store(self, const uint8_t *data, size_t length) except -1:
        if self.sink == TO_SLOT:
            memcpy(self.frontend.slot_start(self.filling.slot) + self.filling.body_length, data, length)
            self.filling.body_length += <uint32_t>length
        elif self.sink == TO_BYTES:
            self.collected.extend((<const char *>data)[:length])
        return 0

    cdef int take_chunk(self, const uint8_t *data, size_t length, size_t *used) except -1:
        """One step in a chunked body. HTTP_INCOMPLETE: more bytes are needed, or more room."""
        cdef Frontend frontend = self.frontend
        cdef HttpChunks before = self.chunks
        cdef const uint8_t *piece = NULL
        cdef size_t piece_length = 0
        cdef uint64_t most = frontend.max_request
        cdef int outcome = http_chunks_next(&self.chunks, &frontend.limits, data, length, used, &piece, &piece_length)
        if outcome == HTTP_CHUNK_END:
            self.end_body()
            return HTTP_OK
        if http_is_error(outcome):
            self.refuse(http_error_status(outcome), http_error_text(outcome))
            return HTTP_OK
        if self.sink != TO_SLOT:
            most = COLLECT_MOST if self.sink == TO_BYTES else DISCARD_MOST
        if http_chunks_announced(&self.chunks) > most:
            self.refuse(413, frontend.too_large_text if self.sink == TO_SLOT else b"the body is longer than this path takes")
            return HTTP_OK
        if piece_length:
            if self.sink == TO_SLOT and not frontend.grow(self, piece_length):
                self.chunks = before
                used[0] = 0
                self.starve()
                return HTTP_INCOMPLETE
            self.store(piece, piece_length)
        return outcome

    cdef int end_body(self) except -1:
        cdef Exchange exchange = self.filling
        self.state = HEAD
        self.is_expecting = False
        self.end_incomplete()
        self.deadline_ns = self.frontend.now_ns + self.frontend.idle_timeout_ns
        if exchange is None:
            return 0
        self.filling = None
        if not exchange.keep_alive:
            self.is_closing = True
        if self.sink == TO_SLOT:
            self.frontend.submit(exchange)
        else:
            exchange.state = PENDING
            body, self.collected = self.collected, None
            self.frontend.ask(exchange, body)
        return 0

    cdef int end_incomplete(self) except -1:
        self.frontend.incomplete_bytes -= self.incomplete_bytes
        self.incomplete_bytes = 0
        return 0

    cdef int block(self) except -1:
        if not self.is_blocked:
            self.is_blocked = True
            self.transport.pause_reading()
        return 0

    cdef int starve(self) except -1:
        """No slot to be had: the bytes wait, unread ones in the kernel, until one is."""
        if not self.is_starving:
            self.is_starving = True
            self.is_in_head = False
            self.deadline_ns = self.frontend.now_ns + self.frontend.body_timeout_ns
        self.frontend.starving.append(self)
        return self.block()

    cdef int unblock(self) except -1:
        """Goes on with the bytes that were kept."""
        self.is_blocked = False
        self.frontend.now_ns = monotonic_ns()
        self.parse_rest()
        if not self.is_blocked and self.state < LINGER and not self.saw_eof:
            self.transport.resume_reading()
        if self.is_dirty:
            self.flush()
        return 0

    # -- bytes out ---------------------------------------------------------------------------------------------------------

    cdef int flush(self) except -1:
        """Sends the answers whose turn it is: heads and small bodies of all in one piece, large bodies from their slots."""
        cdef Frontend frontend = self.frontend
        cdef Exchange exchange
        cdef char *out = frontend.out
        cdef char text[REQUEST_ID_LENGTH]
        cdef size_t filled = 0
        cdef const char *fields
        cdef size_t fields_length
        cdef const uint8_t *body
        cdef size_t body_length
        cdef uint8_t *slot
        cdef int connection
        cdef bint keep_alive = True
        self.is_dirty = False
        while not self.is_paused and self.state < LINGER:
            exchange = self.first
            if exchange is None or exchange.state != READY:
                break
            if exchange.text is not None:
                fields = PyBytes_AS_STRING(exchange.fields)
                fields_length = PyBytes_GET_SIZE(exchange.fields)
                body = <const uint8_t *>PyBytes_AS_STRING(exchange.text)
                body_length = PyBytes_GET_SIZE(exchange.text)
            else:
                slot = frontend.slot_start(exchange.answer.slot)
                fields = <const char *>slot + exchange.answer.offset
                fields_length = exchange.answer.fields_length
                body = slot + exchange.answer.body_offset
                body_length = exchange.answer.body_length
            if filled + RESPONSE_HEAD_MAX + fields_length + COPY_MOST > OUT_BUFFER:
                self.send(out, filled)
                filled = 0
                if self.is_paused:
                    break
            keep_alive = exchange.keep_alive
            connection = CONNECTION_DEFAULT
            if not keep_alive:
                connection = CONNECTION_CLOSE
            elif exchange.is_http10:
                connection = CONNECTION_KEEP_ALIVE
            request_id_text(frontend.header.id_prefix, exchange.request_id, text)
            filled += response_head(out + filled, exchange.status, exchange.kind, body_length, text,
                                    response_date(&frontend.date), connection, fields, fields_length)
            if exchange.method == HTTP_HEAD or exchange.status == 204 or exchange.status == 304:
                body_length = 0
            if body_length <= COPY_MOST:
                memcpy(out + filled, body, body_length)
                filled += body_length
            else:
                self.send_with_body(out, filled, exchange, body, body_length)
                filled = 0
            frontend.count_answer(exchange.status)
            self.first = exchange.next
            if self.first is None:
                self.last = None
            self.depth -= 1
            exchange.next = None
            exchange.connection = None
            frontend.drop_slots(exchange)
            if not keep_alive:
                break
        if filled and self.state < LINGER:
            self.send(out, filled)
        if self.state >= LINGER:
            return 0
        if self.first is None and not self.is_in_head and self.state == HEAD:
            self.deadline_ns = frontend.now_ns + frontend.idle_timeout_ns
        if not keep_alive or (self.saw_eof and self.first is None):
            self.linger()
        elif self.is_expecting and self.first is self.filling and not self.is_paused:
            self.is_expecting = False
            memcpy(out, b"HTTP/1.1 100 Continue\r\n\r\n", 25)
            self.send(out, 25)
        elif self.is_blocked and not self.is_starving and not self.is_paused and self.depth <= PIPELINE_MOST // 2:
            self.unblock()
        return 0

    cdef int send(self, const char *data, size_t length) except -1:
        cdef ssize_t sent = 0
        if self.fd >= 0:
            sent = send_now(self.fd, data, length)
            if sent == <ssize_t>length:
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.give_up()
                    return 0
                sent = 0
        self.transport.write(PyBytes_FromStringAndSize(data + sent, length - sent))
        return 0

    cdef int send_with_body(self, const char *head, size_t head_length, Exchange exchange,
                            const uint8_t *body, size_t body_length) except -1:
        """Head from the buffer, body from where it lies. What the socket does not take at once the transport gets as a view."""
        cdef ssize_t sent = 0
        cdef SlotView view
        if self.fd >= 0:
            sent = send_two(self.fd, head, head_length, body, body_length)
            if sent == <ssize_t>(head_length + body_length):
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.give_up()
                    return 0
                sent = 0
        if sent < <ssize_t>head_length:
            self.transport.write(PyBytes_FromStringAndSize(head + sent, head_length - sent))
            sent = head_length
        sent -= head_length
        if exchange.text is not None:
            self.transport.write(memoryview(exchange.text)[sent:])
            return 0
        view = SlotView.__new__(SlotView)
        view.frontend = self.frontend
        view.slot = exchange.answer.slot
        view.start = <uint8_t *>body + sent
        view.length = body_length - sent
        self.transport.write(memoryview(view))
        return 0

    cdef int give_up(self) except -1:
        """The peer is gone."""
        self.state = CLOSED
        self.transport.abort()
        return 0

    cdef int linger(self) except -1:
        """No more answers: says so, then reads until the peer has them all, so that a reset does not overtake them."""
        self.state = LINGER
        self.deadline_ns = monotonic_ns() + LINGER_NS
        if self.saw_eof or not self.transport.can_write_eof():
            self.transport.close()
            return 0
        self.transport.write_eof()
        if self.is_blocked:
            self.is_blocked = self.is_starving = False
            self.transport.resume_reading()
        return 0

    cdef int sweep(self, uint64_t now) except -1:
        """Enforces the one deadline that the connection has now."""
        cdef Frontend frontend = self.frontend
        cdef Py_ssize_t unsent
        if self.transport is None:
            return 0
        if self.is_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent != self.unsent:
                self.unsent = unsent
                self.write_deadline_ns = now + frontend.write_timeout_ns
            elif now > self.write_deadline_ns:
                self.transport.abort()
            return 0
        if now <= self.deadline_ns:
            return 0
        if self.state == LINGER:
            self.transport.close()
        elif self.is_starving:
            frontend.overloaded += 1
            self.refuse(503, b"the arena had no room for the request in time (HEADRACE_ARENA); try again later")
        elif self.state == BODY or self.state == CHUNKS:
            self.refuse(408, b"the body did not arrive in time (HEADRACE_BODY_TIMEOUT)")
        elif self.is_in_head:
            self.refuse(408, b"the request's head did not arrive in time (HEADRACE_HEADER_TIMEOUT)")
        elif self.first is None:
            self.transport.close()
        if self.is_dirty:
            self.flush()
        return 0


@cython.final
cdef class Frontend:
    """One frontend's books: its segment, the models it knows, and what is under way.

    board_fd, segment_fd, eventfd: as the supervisor made them. `largest`: as create_segment was told.
    limits: dict of max_request, max_response, max_connections, queue limits and the time-outs in ms (see frontend.py).
    render_error: (status, text) -> body of an error answer. ask: (Exchange, method, path, query, content type, body, surfaces)
    passes a management request on; its answer comes through `answer`.
    """

    cdef SegmentHeader *header
    cdef uint8_t *base
    cdef uint64_t length
    cdef uint8_t *board
    cdef int segment_fd
    cdef int eventfd
    cdef Arena arena
    cdef Lease *leases
    cdef Link *links
    cdef uint32_t *busy             # workers that hold slots
    cdef uint32_t busy_count
    cdef uint64_t now_ns
    cdef uint64_t next_id
    cdef HttpLimits limits
    cdef HttpHead head              # the one that was parsed last
    cdef ResponseDate date
    cdef uint8_t *read_buffer
    cdef char *out
    cdef uint8_t scratch[16384]
    cdef object loop
    cdef object poll_callback
    cdef object render_error
    cdef object ask_supervisor
    cdef dict routes                # model name as bytes -> Route
    cdef Route default_route
    cdef readonly set connections
    cdef object starving            # connections that wait for a slot, first come first
    cdef list needs                 # (Exchange, worker, bytes) that wait for a larger slot
    cdef list dirty
    cdef bytes health_text
    cdef bytes too_large_text
    cdef unsigned int health_status
    cdef readonly bint is_draining
    cdef bint is_polling
    cdef bint was_read              # since the last poll
    cdef uint64_t spin_ns
    cdef uint64_t gap_ns            # how long completions have let themselves be waited for of late (moving mean)
    cdef uint64_t waiting_since_ns
    cdef uint64_t max_request
    cdef uint64_t max_response
    cdef uint64_t incomplete_bytes  # slots whose bodies are still arriving
    cdef uint64_t incomplete_most
    cdef Py_ssize_t max_connections
    cdef uint16_t retries
    cdef uint64_t header_timeout_ns
    cdef uint64_t body_timeout_ns
    cdef uint64_t idle_timeout_ns
    cdef uint64_t write_timeout_ns
    cdef readonly uint64_t accepted
    cdef readonly uint64_t overloaded
    cdef readonly uint64_t parks
    cdef readonly uint64_t polls
    cdef readonly uint64_t invalid_completions
    cdef uint64_t answers[6]        # by hundreds of the status

    def __cinit__(self, loop, int board_fd, int segment_fd, int eventfd, unsigned long long arena_bytes,
                  unsigned long long largest, dict limits, render_error, ask):
        cdef int64_t length = file_bytes(segment_fd)
        self.loop = loop
        self.segment_fd = segment_fd
        self.eventfd = eventfd
        self.length = length if length > 0 else 0
        arena_init(&self.arena, arena_bytes, largest)
        if self.length != ARENA_OFFSET + self.arena.bytes or file_bytes(board_fd) != <int64_t>BOARD_BYTES:
            raise ValueError("not a board and a segment of this build: the processes come from different builds")
        self.base = <uint8_t *>map_shared(segment_fd, self.length, True)
        self.board = <uint8_t *>map_shared(board_fd, BOARD_BYTES, True)
        self.leases = <Lease *>calloc(self.arena.slot_count, sizeof(Lease))
        self.links = <Link *>calloc(MAX_WORKERS, sizeof(Link))
        self.busy = <uint32_t *>calloc(MAX_WORKERS, sizeof(uint32_t))
        self.read_buffer = <uint8_t *>malloc(READ_BUFFER)
        self.out = <char *>malloc(OUT_BUFFER + 64)
        if (self.base is NULL or self.board is NULL or self.leases is NULL or self.links is NULL or self.busy is NULL
                or self.read_buffer is NULL or self.out is NULL):
            raise MemoryError()
        self.header = <SegmentHeader *>self.base
        if self.header.magic != LAYOUT_MAGIC or self.header.version != LAYOUT_VERSION:
            raise ValueError("not a segment of this build: the processes come from different builds")
        http_limits_default(&self.limits)
        self.render_error = render_error
        self.ask_supervisor = ask
        self.poll_callback = self.poll
        self.routes = {}
        self.connections = set()
        self.starving = deque()
        self.needs = []
        self.dirty = []
        self.next_id = 1
        self.max_request = limits["max_request"]
        self.max_response = limits["max_response"]
        self.max_connections = limits["max_connections"]
        self.retries = limits["retries"]
        self.header_timeout_ns = <uint64_t>limits["header_timeout_ms"] * 1000000
        self.body_timeout_ns = <uint64_t>limits["body_timeout_ms"] * 1000000
        self.idle_timeout_ns = <uint64_t>limits["idle_timeout_ms"] * 1000000
        self.write_timeout_ns = <uint64_t>limits["write_timeout_ms"] * 1000000
        self.spin_ns = <uint64_t>limits["spin_us"] * 1000
        self.incomplete_most = arena_bytes // 2
        self.too_large_text = b"the body is longer than %d bytes (HEADRACE_MAX_REQUEST); raise it or send less" % self.max_request
        self.set_health(503, "Starting")

    def __dealloc__(self):
        if self.base is not NULL:
            unmap_shared(self.base, self.length)
        if self.board is not NULL:
            unmap_shared(self.board, BOARD_BYTES)
        free(self.leases)
        free(self.links)
        free(self.busy)
        free(self.read_buffer)
        free(self.out)

    # -- what the supervisor says ------------------------------------------------------------------------------------------

    def protocol(self, int surfaces):
        """A new connection's protocol: INFERENCE, MANAGEMENT or both."""
        cdef Connection connection = Connection.__new__(Connection)
        connection.frontend = self
        connection.surfaces = surfaces
        return connection

    def set_health(self, unsigned int status, str text):
        """What /ping answers."""
        self.health_status = status
        self.health_text = b'{\n  "status": "%s"\n}\n' % text.encode()

    def set_route(self, str name, unsigned int model, workers, unsigned int most, unsigned long long timeout_ms, bint is_default):
        """A model that requests may name, and the workers that hold it. With no workers its requests wait."""
        key = name.encode()
        cdef Route route = self.routes.get(key)
        if route is None or route.model != model:
            route = Route.__new__(Route)
            route.name = name
            route.model = model
            route.room = ROOM_LEAST
            route.waiting = deque()
            self.routes[key] = route
        for worker in workers:
            self._worker(worker)
        route.workers = tuple(workers)
        route.most = most
        route.timeout_ns = timeout_ms * 1000000
        if is_default:
            self.default_route = route
        elif self.default_route is route:
            self.default_route = None
        self.resubmit(route, route.most)

    def remove_route(self, str name):
        """No new request may name the model; those under way go on."""
        cdef Route route = self.routes.pop(name.encode(), None)
        cdef Exchange exchange
        if route is None:
            return
        if self.default_route is route:
            self.default_route = None
        waiting, route.waiting = route.waiting, deque()
        for exchange in waiting:
            if exchange.state == QUEUED and exchange.connection is not None:
                self.answer_error(exchange, 404, f"Model not found: {name}")
        self.flush_dirty()

    def worker_up(self, unsigned int worker):
        """A worker is attached: its rings may be used."""
        cdef Link *link = &self.links[self._worker(worker)]
        link.pair = <RingPair *>(self.base + RINGS_OFFSET) + worker
        link.bell = &(<WorkerPage *>(self.board + sizeof(BoardHeader)) + worker).bell
        ring_attach(&link.submit, &link.pair.submit, &link.pair.submissions[0], True)
        ring_attach(&link.complete, &link.pair.complete, &link.pair.completions[0], False)
        link.is_up = True
        cdef Route route
        for route in self.routes.values():
            self.resubmit(route, route.most)

    def worker_down(self, unsigned int worker):
        """A worker was reaped: takes its last completions, then what it left undone goes elsewhere or is answered."""
        cdef Link *link = &self.links[self._worker(worker)]
        cdef Lease *lease
        cdef Exchange exchange
        cdef uint32_t slot
        cdef list orphans = []
        if not link.is_up:
            return
        self.drain()
        link.is_up = False
        for slot in self._held_slots():
            lease = &self.leases[slot]
            if lease.holds & HOLD_WORKER and lease.worker == worker:
                exchange = <Exchange>lease.exchange if lease.exchange is not NULL else None
                if exchange is not None and lease.granted_for != ARENA_NONE:
                    exchange.answer.slot = ARENA_NONE  # granted for an answer that never came
                    lease.exchange = NULL
                    lease.holds = HOLD_WORKER
                elif exchange is not None and exchange.state == SUBMITTED:
                    orphans.append(exchange)
                self.worker_let_go(link, slot)
        self.needs = [need for need in self.needs if need[1] != worker]
        ring_reset(&link.pair.submit)
        ring_reset(&link.pair.complete)
        for exchange in orphans:
            exchange.attempt += 1
            if exchange.attempt > self.retries:
                self.answer_error(exchange, 503, "the worker that ran the request died, and so did the one it was given to next"
                                  if self.retries else "the worker that ran the request died (HEADRACE_RETRIES=0)")
            else:
                self.submit(exchange)
        self.flush_dirty()

    cdef unsigned int _worker(self, unsigned int worker) except? 0xffffffff:
        if worker >= MAX_WORKERS:
            raise ValueError(f"worker {worker} is not below {MAX_WORKERS}")
        return worker

    def answer(self, Exchange exchange, unsigned int status, bytes body, str content_type, dict fields):
        """The supervisor's answer to a management request. Field names and values are the supervisor's own, so clean."""
        if exchange.connection is None or exchange.state != PENDING:
            return
        lines = [f"content-type: {content_type}\r\n"] + [f"{name}: {value}\r\n" for name, value in fields.items()]
        exchange.fields = "".join(lines).encode("latin-1")
        exchange.text = body
        exchange.status = status
        exchange.kind = 0
        self.ready(exchange)
        self.flush_dirty()

    def drain_connections(self):
        """No further request on any connection: idle ones end now, the others with their last answer."""
        cdef Connection connection
        self.is_draining = True
        for connection in list(self.connections):
            if connection.state == HEAD and connection.first is None and not connection.is_in_head:
                connection.linger()
            elif connection.last is not None:
                connection.last.keep_alive = False

    def unanswered(self):
        """Requests under way on all connections."""
        cdef Connection connection
        cdef uint64_t found = 0
        for connection in self.connections:
            found += connection.depth
        return found

    # -- requests to workers -----------------------------------------------------------------------------------------------

    cdef int find_target(self, HttpPath *path, int surfaces) except -1:
        cdef int found = TARGET_NONE
        if path.count == 1:
            if self.segment_is(path, 0, b"invocations"):
                found = TARGET_DEFAULT
            elif self.segment_is(path, 0, b"ping"):
                found = TARGET_PING
            elif self.segment_is(path, 0, b"models") or self.segment_is(path, 0, b"metrics"):
                found = TARGET_MANAGE
        elif path.count == 2:
            if self.segment_is(path, 0, b"predictions"):
                found = TARGET_MODEL
            elif self.segment_is(path, 0, b"models"):
                found = TARGET_MANAGE
        elif path.count == 3 and self.segment_is(path, 0, b"models") and self.segment_is(path, 2, b"invoke"):
            found = TARGET_MODEL
        if found != TARGET_NONE and not surfaces & (SURFACE_MANAGEMENT if found == TARGET_MANAGE else SURFACE_INFERENCE):
            found = TARGET_NONE
        return found

    cdef inline bint segment_is(self, HttpPath *path, int index, bytes text):
        cdef HttpSpan *span = &path.segments[index]
        return (span.length == <uint32_t>PyBytes_GET_SIZE(text)
                and memcmp(self.scratch + span.offset, PyBytes_AS_STRING(text), span.length) == 0)

    cdef Route find_route(self, int target, HttpPath *path):
        if target == TARGET_DEFAULT:
            return self.default_route
        cdef HttpSpan *name = &path.segments[1]
        return self.routes.get(PyBytes_FromStringAndSize(<char *>self.scratch + name.offset, name.length))

    cdef inline uint8_t *slot_start(self, uint32_t slot) noexcept:
        return self.base + ARENA_OFFSET + arena_offset(&self.arena, slot)

    cdef inline uint64_t slot_capacity(self, uint32_t slot) noexcept:
        return arena_class_of(&self.arena, slot).stride

    cdef uint32_t lease(self, uint64_t needed) except? 0xfffffffe:
        """A slot, if need be at the price of warm ones of other sizes. ARENA_NONE when the arena is full."""
        cdef uint32_t slot = arena_lease(&self.arena, needed)
        if slot == ARENA_NONE and self.reclaim():
            slot = arena_lease(&self.arena, needed)
        return slot

    cdef bint reclaim(self) except -1:
        """Gives all pages back that no leased slot needs."""
        cdef ArenaRange range_
        cdef ArenaClass *k
        cdef uint32_t index
        cdef bint found = False
        for index in range(self.arena.class_count):
            k = &self.arena.classes[index]
            if k.warm == 0 or k.trimming:
                continue
            range_ = arena_trim_begin(&self.arena, k, 0)
            if range_.length:
                punch_hole(self.segment_fd, ARENA_OFFSET + range_.offset, range_.length)
            if k.trimming:
                found = True
                arena_trim_end(k)
        return found

    cdef bint lease_for(self, Exchange exchange, Connection connection, uint8_t *data, size_t behind, Route route) except -1:
        """Leases a slot for a request whose head is complete, and puts the head at its end. False: there is none now."""
        cdef HttpHead *head = &self.head
        cdef uint64_t head_length = head.head_length - head.skipped
        cdef uint64_t body = head.content_length
        cdef uint64_t needed, capacity
        cdef uint32_t slot
        cdef bint is_incomplete = body > behind or head.flags & HTTP_CHUNKED
        if head.flags & HTTP_CHUNKED:
            body = REST_STEP
        needed = align64(body) + align64(head_length) + route.room
        if is_incomplete and self.incomplete_bytes and self.incomplete_bytes + needed > self.incomplete_most:
            return False
        slot = self.lease(needed)
        if slot == ARENA_NONE:
            return False
        capacity = self.slot_capacity(slot)
        self.take_slot(exchange, slot, ARENA_NONE)
        exchange.slot = slot
        exchange.head_length = <uint32_t>head_length
        memcpy(self.slot_start(slot) + capacity - align64(head_length), data + head.skipped, head_length)
        if is_incomplete:
            connection.incomplete_bytes = capacity
            self.incomplete_bytes += capacity
        return True

    cdef int take_slot(self, Exchange exchange, uint32_t slot, uint32_t granted_for) except -1:
        cdef Lease *lease = &self.leases[slot]
        lease.exchange = <void *>exchange
        lease.holds = HOLD_EXCHANGE
        lease.granted_for = granted_for
        return 0

    cdef bint grow(self, Connection connection, size_t more) except -1:
        """Room for more of a chunked body: in its slot, or in one twice as large that it moves to. False: there is none now."""
        cdef Exchange exchange = connection.filling
        cdef uint32_t slot = exchange.slot
        cdef uint32_t larger
        cdef uint64_t capacity = self.slot_capacity(slot)
        cdef uint64_t needed = align64(exchange.body_length + more) + align64(exchange.head_length) + exchange.route.room
        cdef uint8_t *target
        if needed <= capacity:
            return True
        needed = min(max(needed, 2 * capacity), align64(self.max_request) + align64(exchange.head_length) + exchange.route.room)
        if self.incomplete_bytes - connection.incomplete_bytes and self.incomplete_bytes + needed > self.incomplete_most:
            return False
        larger = self.lease(needed)
        if larger == ARENA_NONE:
            return False
        needed = self.slot_capacity(larger)
        target = self.slot_start(larger)
        memcpy(target, self.slot_start(slot), exchange.body_length)
        memcpy(target + needed - align64(exchange.head_length),
               self.slot_start(slot) + capacity - align64(exchange.head_length), exchange.head_length)
        self.take_slot(exchange, larger, ARENA_NONE)
        self.exchange_let_go(slot)
        exchange.slot = larger
        self.incomplete_bytes += needed - connection.incomplete_bytes
        connection.incomplete_bytes = needed
        return True

    cdef int submit(self, Exchange exchange) except -1:
        """Gives a request to the worker with the least under way; where none can take it, it waits."""
        cdef Route route = exchange.route
        cdef Link *link
        cdef Link *best = NULL
        cdef uint32_t chosen = 0
        cdef uint32_t worker
        cdef Lease *lease = &self.leases[exchange.slot]
        cdef Submission entry
        for worker in route.workers:
            link = &self.links[worker]
            if link.is_up and link.outstanding < SUBMIT_MOST and (best is NULL or link.outstanding < best.outstanding):
                best = link
                chosen = worker
        if best is NULL:
            exchange.state = QUEUED
            route.waiting.append(exchange)
            return 0
        memset(&entry, 0, sizeof(entry))
        entry.op = SUBMIT_RUN
        entry.request_id = exchange.request_id
        entry.arrival_ns = exchange.arrival_ns
        entry.deadline_ns = exchange.deadline_ns
        entry.slot = exchange.slot
        entry.generation = lease.generation
        entry.offset64 = <uint32_t>((ARENA_OFFSET + arena_offset(&self.arena, exchange.slot)) // 64)
        entry.capacity64 = <uint32_t>(self.slot_capacity(exchange.slot) // 64)
        entry.body_length = exchange.body_length
        entry.head_length = exchange.head_length
        entry.model = route.model
        entry.attempt = exchange.attempt
        entry.kind = exchange.kind
        entry.accept = exchange.accept
        if not ring_push(&best.submit, &entry):
            exchange.state = QUEUED
            route.waiting.append(exchange)
            return 0
        lease.request_id = exchange.request_id
        exchange.answer.slot = ARENA_NONE
        exchange.state = SUBMITTED
        self.worker_takes(chosen, exchange.slot)
        if doorbell_must_ring(best.bell):
            futex_wake(&best.bell.parked)
        if not self.is_polling:
            self.start_polling()
        return 0

    cdef int resubmit(self, Route route, Py_ssize_t most) except -1:
        """Gives up to `most` waiting requests to workers; those that no worker can take wait on."""
        cdef Exchange exchange
        most = min(most, <Py_ssize_t>len(route.waiting))
        for _ in range(most):
            exchange = route.waiting.popleft()
            if exchange.state == QUEUED and exchange.connection is not None:
                self.submit(exchange)
        return 0

    cdef int worker_takes(self, uint32_t worker, uint32_t slot) except -1:
        cdef Link *link = &self.links[worker]
        self.leases[slot].worker = <uint16_t>worker
        self.leases[slot].holds |= HOLD_WORKER
        if link.outstanding == 0:
            link.busy_at = self.busy_count
            self.busy[self.busy_count] = worker
            self.busy_count += 1
        link.outstanding += 1
        return 0

    cdef int worker_let_go(self, Link *link, uint32_t slot) except -1:
        cdef uint32_t last
        self.leases[slot].holds &= ~HOLD_WORKER
        link.outstanding -= 1
        if link.outstanding == 0:
            self.busy_count -= 1
            last = self.busy[self.busy_count]
            self.busy[link.busy_at] = last
            self.links[last].busy_at = link.busy_at
        return self.free_if_idle(slot)

    cdef int exchange_let_go(self, uint32_t slot) except -1:
        self.leases[slot].exchange = NULL
        self.leases[slot].holds &= ~HOLD_EXCHANGE
        return self.free_if_idle(slot)

    cdef int free_if_idle(self, uint32_t slot) except -1:
        cdef Lease *lease = &self.leases[slot]
        if lease.holds == 0 and lease.exports == 0:
            lease.generation += 1
            if not arena_release(&self.arena, slot):
                raise AssertionError(f"slot {slot} was not leased")
        return 0

    cdef int drop_slots(self, Exchange exchange) except -1:
        """An exchange has no more use for its slots."""
        cdef uint32_t own = exchange.slot
        cdef uint32_t granted = exchange.answer.slot
        exchange.slot = exchange.answer.slot = ARENA_NONE
        if own != ARENA_NONE:
            self.exchange_let_go(own)
        if granted != ARENA_NONE and granted != own:
            self.exchange_let_go(granted)
        return 0

    cdef int leave_route(self, Exchange exchange) except -1:
        """The exchange is no longer under way at its model: an answer is there, or nobody waits for one."""
        cdef Route route = exchange.route
        if route is not None:
            exchange.route = None
            route.in_flight -= 1
            if route.waiting:
                self.resubmit(route, 1)
        return 0

    cdef int abandon(self, Exchange exchange) except -1:
        """The client is gone: nobody waits for this any more. What a worker has, it keeps until it says so."""
        exchange.state = READY
        self.leave_route(exchange)
        return self.drop_slots(exchange)

    cdef int ready(self, Exchange exchange) except -1:
        cdef Connection connection = exchange.connection
        exchange.state = READY
        if connection is not None and not connection.is_dirty:
            connection.is_dirty = True
            self.dirty.append(connection)
        return 0

    cdef int answer_error(self, Exchange exchange, unsigned int status, str text) except -1:
        """Answers from here a request that has a slot."""
        self.leave_route(exchange)
        self.drop_slots(exchange)
        exchange.text = self.render_error(status, text)
        exchange.kind = MEDIA_JSON
        exchange.status = status
        exchange.fields = b"retry-after: 1\r\n" if status == 503 else b""
        return self.ready(exchange)

    cdef int ask(self, Exchange exchange, object body) except -1:
        path, query, content_type, surfaces = exchange.asked
        method = (<bytes>http_method_name(exchange.method)).decode("ascii")
        self.ask_supervisor(exchange, method, path, query, content_type, bytes(body), surfaces)
        return 0

    # -- answers from workers ----------------------------------------------------------------------------------------------

    cdef int drain(self) except -1:
        """Takes all completions, sends all answers whose turn it is. Returns the number of completions."""
        cdef int count = 0
        cdef uint32_t i = self.busy_count
        cdef Link *link
        cdef Completion completion
        while i > 0:
            i -= 1
            link = &self.links[self.busy[i]]
            while ring_pop(&link.complete, &completion):
                if count == 0:
                    self.learn_gap(completion.finished_ns)
                count += 1
                self.complete(link, &completion)
                if link.outstanding == 0:
                    break
        if self.dirty:
            self.flush_dirty()
        if count:
            self.serve_waiting()
        return count

    cdef int learn_gap(self, uint64_t finished_ns) except -1:
        """Takes note how long after the last look with a result the next completion came; how late it was seen is no matter."""
        cdef uint64_t gap = finished_ns - self.waiting_since_ns if finished_ns > self.waiting_since_ns else 0
        self.gap_ns = (3 * self.gap_ns + min(gap, 8 * self.spin_ns)) // 4
        self.waiting_since_ns = self.now_ns
        return 0

    cdef int flush_dirty(self) except -1:
        cdef Connection connection
        dirty, self.dirty = self.dirty, []
        for connection in dirty:
            if connection.transport is not None:
                connection.flush()
        return 0

    cdef int serve_waiting(self) except -1:
        """Slots may have become free: for answers that need a larger one, then for requests that wait for one."""
        cdef Connection connection
        cdef Py_ssize_t count
        if self.needs:
            needs, self.needs = self.needs, []
            for exchange, worker, request_id, length in needs:
                self.grant(exchange, worker, request_id, length)
        count = len(self.starving)
        while count > 0:
            count -= 1
            connection = self.starving.popleft()
            if connection.is_starving and connection.is_blocked and connection.transport is not None:
                connection.unblock()
                if connection.is_starving:
                    break
        return 0

    cdef int complete(self, Link *link, Completion *completion) except -1:
        cdef uint32_t slot = completion.slot
        cdef Lease *lease
        cdef Lease *own
        cdef Exchange exchange
        cdef uint64_t capacity
        cdef uint32_t worker = <uint32_t>(link - self.links)
        if slot >= self.arena.slot_count:
            self.invalid_completions += 1
            return 0
        lease = &self.leases[slot]
        if (lease.generation != completion.generation or not lease.holds & HOLD_WORKER or lease.worker != worker
                or lease.request_id != completion.request_id):
            self.invalid_completions += 1
            return 0
        if completion.op == COMPLETE_RELEASE:
            return self.worker_let_go(link, slot)
        exchange = <Exchange>lease.exchange if lease.exchange is not NULL else None
        if completion.op == COMPLETE_NEED:
            return self.grant(exchange, worker, completion.request_id,
                              align64(completion.fields_length) + align64(completion.body_length))
        capacity = self.slot_capacity(slot)
        if (completion.op != COMPLETE_DONE or completion.status < 200 or completion.status > 599
                or <uint64_t>completion.offset + completion.fields_length > capacity
                or <uint64_t>completion.body_offset + completion.body_length > capacity
                or completion.fields_length > FIELDS_MOST
                or not fields_are_clean(self.slot_start(slot) + completion.offset, completion.fields_length)):
            self.invalid_completions += 1
            self.worker_let_go(link, slot)
            if exchange is not None and exchange.state == SUBMITTED:
                self.answer_error(exchange, 500, "the worker gave an answer that cannot be sent")
            return 0
        if lease.granted_for != ARENA_NONE:
            # The request's own slot is let go by its worker as well, unless the model still looks at the body.
            own = &self.leases[lease.granted_for]
            if not completion.flags & COMPLETE_HELD and own.holds & HOLD_WORKER and own.request_id == completion.request_id:
                self.worker_let_go(link, lease.granted_for)
            self.worker_let_go(link, slot)
        elif not completion.flags & COMPLETE_HELD:
            if exchange is None:
                return self.worker_let_go(link, slot)
            self.worker_let_go(link, slot)
        if exchange is None or exchange.state != SUBMITTED:
            return 0
        if exchange.answer.slot != ARENA_NONE and exchange.answer.slot != slot:
            self.exchange_let_go(exchange.answer.slot)  # granted, and not used
        exchange.answer = completion[0]
        exchange.status = completion.status
        exchange.kind = completion.kind
        self.learn_room(exchange)
        self.leave_route(exchange)
        return self.ready(exchange)

    cdef int learn_room(self, Exchange exchange) except -1:
        """Sets room aside for answers as large as this model's have been, so that they fit behind the body."""
        cdef Route route = exchange.route
        cdef uint64_t used = align64(exchange.answer.fields_length) + align64(exchange.answer.body_length)
        if used > route.room:
            route.room = <uint32_t>min(used, <uint64_t>ROOM_MOST)
        elif used < route.room // 4 and route.room > ROOM_LEAST:
            route.room -= route.room // 64
        return 0

    cdef int grant(self, Exchange exchange, uint32_t worker, uint64_t request_id, uint64_t length) except -1:
        """Gives a worker a larger slot for an answer, or refuses one that is too large or that nobody waits for."""
        cdef Link *link = &self.links[worker]
        cdef Submission entry
        cdef uint32_t slot = ARENA_NONE
        memset(&entry, 0, sizeof(entry))
        entry.op = SUBMIT_GRANT
        entry.request_id = request_id
        if exchange is not None and exchange.state == SUBMITTED and exchange.answer.slot == ARENA_NONE and (
                length <= self.max_response + FIELDS_MOST):
            slot = self.lease(length)
            if slot == ARENA_NONE:
                self.needs.append((exchange, worker, request_id, length))
                return 0
            self.take_slot(exchange, slot, exchange.slot)
            self.leases[slot].request_id = request_id
            self.worker_takes(worker, slot)
            exchange.answer.slot = slot
            entry.slot = slot
            entry.generation = self.leases[slot].generation
            entry.offset64 = <uint32_t>((ARENA_OFFSET + arena_offset(&self.arena, slot)) // 64)
            entry.capacity64 = <uint32_t>(self.slot_capacity(slot) // 64)
        if not ring_push(&link.submit, &entry):
            if slot != ARENA_NONE:
                exchange.answer.slot = ARENA_NONE
                self.exchange_let_go(slot)
                self.worker_let_go(link, slot)
            self.needs.append((exchange, worker, request_id, length))
            return 0
        if doorbell_must_ring(link.bell):
            futex_wake(&link.bell.parked)
        return 0

    # -- turns of the loop -------------------------------------------------------------------------------------------------

    cdef int poke(self) except -1:
        """After each read: completions are taken whenever the loop is here anyway."""
        if self.busy_count:
            self.drain()
        elif self.dirty:
            self.flush_dirty()
        return 0

    cdef int start_polling(self) except -1:
        self.is_polling = True
        self.waiting_since_ns = self.now_ns
        doorbell_unpark(&self.header.bell)
        self.loop.call_soon(self.poll_callback)
        return 0

    def poll(self):
        """A turn of the loop while workers have requests: takes completions, then comes again, or sleeps until it is woken.

        As long as completions come densely the frontend keeps turning, so that no worker pays a system call to wake it.
        """
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t until
        cdef uint32_t i
        cdef bint quiet = True
        self.polls += 1
        self.now_ns = now
        if self.drain() == 0 and self.busy_count and not self.was_read:
            until = now + POLL_SPIN_NS
            while quiet and now < until:
                for i in range(self.busy_count):
                    if not ring_is_empty(&self.links[self.busy[i]].complete):
                        quiet = False
                cpu_relax()
                now = monotonic_ns()
            if not quiet:
                self.drain()
        else:
            quiet = False
        self.was_read = False
        if self.busy_count == 0:
            self.is_polling = False
            return
        if quiet and (now - self.waiting_since_ns >= (self.spin_ns if self.gap_ns <= self.spin_ns else 0)
                      or self.links[self.busy[0]].outstanding > SPIN_OUTSTANDING):
            doorbell_park(&self.header.bell)
            if self.drain() == 0:
                self.parks += 1
                self.is_polling = False
                return
            doorbell_unpark(&self.header.bell)
        self.loop.call_soon(self.poll_callback)

    def wake(self):
        """A worker rang: the eventfd is readable."""
        eventfd_clear(self.eventfd)
        self.now_ns = monotonic_ns()
        self.drain()
        if self.busy_count and not self.is_polling:
            self.start_polling()

    def sweep(self):
        """Enforces all deadlines; a few times a second."""
        cdef Connection connection
        cdef Exchange exchange
        cdef Route route
        cdef uint64_t now = monotonic_ns()
        self.now_ns = now
        self.drain()
        for connection in list(self.connections):
            connection.sweep(now)
        for slot in self._held_slots():
            if self.leases[slot].exchange is NULL:
                continue
            exchange = <Exchange>self.leases[slot].exchange
            if exchange.slot == slot and exchange.state in (QUEUED, SUBMITTED) and now > exchange.deadline_ns:
                self.answer_error(exchange, 504, "the request was not answered in time (HEADRACE_TIMEOUT)")
        for route in self.routes.values():
            if route.waiting:
                self.resubmit(route, route.most)
        self.serve_waiting()
        self.flush_dirty()
        if self.busy_count and not self.is_polling:
            self.start_polling()  # parks afresh: a worker that died before it rang has taken the announcement with it

    def _held_slots(self):
        """Numbers of all leased slots."""
        cdef ArenaClass *k
        cdef uint32_t c, index
        found = []
        for c in range(self.arena.class_count):
            k = &self.arena.classes[c]
            if k.leased:
                for index in range(k.warm):
                    if not k.free_words[index // 64] >> (index % 64) & 1:
                        found.append(k.first + index)
        return found

    def trim_begin(self):
        """Takes slots that no recent period needed out of use. Returns (class, offset in the segment, length) of each range,
        for `punch` on another thread and then `trim_end`. To be called once a period of some seconds."""
        cdef ArenaRange found
        cdef ArenaClass *k
        cdef uint32_t index
        ranges = []
        for index in range(self.arena.class_count):
            k = &self.arena.classes[index]
            if k.warm:
                found = arena_trim_begin(&self.arena, k, arena_next_period(k))
                if k.trimming:
                    ranges.append((index, ARENA_OFFSET + found.offset, found.length))
        return ranges

    def punch(self, ranges):
        """Gives the pages of trimmed ranges back to the kernel. Needs no other state, so may run on any thread."""
        cdef uint64_t offset, length
        cdef int fd = self.segment_fd
        for _, offset, length in ranges:
            if length:
                with nogil:
                    punch_hole(fd, offset, length)

    def trim_end(self, ranges):
        for index, _, _ in ranges:
            arena_trim_end(&self.arena.classes[<uint32_t>index])
        self.serve_waiting()

    cdef int count_answer(self, unsigned int status) except -1:
        self.answers[status // 100] += 1
        return 0

    def stats(self):
        """Counters and what is held right now."""
        cdef uint32_t c
        cdef ArenaClass *k
        slots = {}
        for c in range(self.arena.class_count):
            k = &self.arena.classes[c]
            if k.warm:
                slots[str(k.stride)] = {"leased": k.leased, "warm": k.warm}
        return {
            "connections": len(self.connections),
            "accepted": self.accepted,
            "unanswered": self.unanswered(),
            "answers": {f"{hundred}xx": self.answers[hundred] for hundred in range(1, 6)},
            "overloaded": self.overloaded,
            "invalid_completions": self.invalid_completions,
            "slots_leased": len(self._held_slots()),
            "slots": slots,
            "arena_committed_bytes": self.arena.committed_bytes,
            "arena_exhausted": self.arena.exhausted,
            "incomplete_bytes": self.incomplete_bytes,
            "polls": self.polls,
            "parks": self.parks,
        }
