"""The data path of a frontend: connections, the arena, the rings, and the order of answers.

    socket --get_buffer--> head buffer --http.h--> Exchange --arena--> slot --submission ring--> worker
    socket <--send-------- head + slot <---------- Exchange <-----------------completion ring---- worker

A small request is copied once, out of the read buffer into its slot; what remains of a larger body is received by the kernel
in the slot itself. An answer is sent from the slot where the worker left it.

One extension module in twelve files, since its classes call each other for every request:

    tally.pxi        what is counted of each model's requests
    note.pxi         what is told of single requests
    exchange.pxi     one request and its answer, the models that requests may name
    lines.pxi        who waits for a slot
    slots.pxi        who holds which slot
    targets.pxi      what paths mean
    sender.pxi       a connection's answers in order, bytes out
    intake.pxi       what becomes of its requests
    connection.pxi   bytes in, and what its transport calls
    dispatch.pxi     requests to workers, answers from them, turns of the loop
    routes.pxi       which models there are, and which workers are up
    frontend.pyx     what else the supervisor says, what happens a few times a second

Invariants
1. A slot has holders: its exchange, its worker, and buffers that were exported to the transport. It is free when it has none.
2. Answers leave a connection in the order of its requests; an exchange is answered exactly once.
3. Nothing that comes out of a completion ring is used before it was checked against the books here.
4. Unparsed bytes are kept only while a connection is blocked or its head is incomplete, and never more than a bounded number.
"""

from collections import deque
from heapq import heappop, heappush
from urllib.parse import unquote_to_bytes

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
    arena_lease_within,
    arena_next_period,
    arena_offset,
    arena_release,
    arena_trim_begin,
    arena_trim_end,
)
from http cimport (
    HTTP_CHUNK_END,
    HTTP_CHUNKED,
    HTTP_CONNECT,
    HTTP_EXPECT_CONTINUE,
    HTTP_EXPECT_OTHER,
    HTTP_GET,
    HTTP_HEAD,
    HTTP_INCOMPLETE,
    HTTP_KEEP_ALIVE,
    HTTP_OK,
    HTTP_OPTIONS,
    HTTP_OTHER,
    HTTP_POST,
    HTTP_TRACE,
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
    http_next_field,
    http_parse_head,
    http_split_path,
)
from layout cimport (
    ARENA_OFFSET,
    MARKS_OFFSET,
    RING_ENTRIES,
    SUBMIT_ALONE,
    COMPLETE_DONE,
    CODED_BODY,
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
    SlotMark,
    Submission,
    WorkerPage,
    align64,
)
from response cimport (
    CONNECTION_CLOSE,
    CONNECTION_DEFAULT,
    CONNECTION_KEEP_ALIVE,
    REQUEST_ID_LENGTH,
    RESPONSE_COMMON_MAX,
    RESPONSE_HEAD_MAX,
    ResponseDate,
    request_id_text,
    response_date,
    response_has_field,
    response_head,
    response_phrase_line,
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
    load_relaxed,
    store_relaxed,
)
from turns cimport (
    LINE_LARGE,
    LINE_SMALL,
    LINE_WHOLE,
    LINES,
    TURN_NOBODY,
    TurnHead,
    Turns,
    turns_has_share,
    turns_init,
    turns_is_due,
)
from access cimport access_granted
from note cimport (
    TRACE_FLAGS_AT,
    TRACE_LINE_LENGTH,
    TRACE_PARENT_AT,
    NoteFields,
    Trace,
    note_fields,
    note_is_sampled,
    note_random,
    trace_read,
    trace_write_hex,
    trace_write_line,
)
from fault cimport crash_point, fault_strikes
from tally cimport (
    ROW_BOUNDS,
    STATUS_CLASSES,
    STATUS_GONE,
    TIME_BOUNDS,
    TallyCounts,
    Times,
    count_answer,
    count_status,
    count_work,
    known_statuses,
    time_bounds_ns,
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
    unacknowledged,
    unmap_shared,
)

cdef enum:
    READ_BUFFER = 65536         # of the whole frontend: what one read takes while a head, or a body behind one, is awaited
    READ_MOST = 524288          # what one read into a slot takes, so that one upload does not hold the loop
    REST_STEP = 4096            # first room for the unparsed bytes of one connection
    PIPELINE_MOST = 128         # unanswered requests of one connection; past that it is not read any more
    PIPELINE_BYTES = 4194304    # slots that they may hold before it is not read any more; a single one may be larger
    SURPLUS_CONNECTIONS = 256   # beyond the limit that are told so; those past that are closed without a word
    RETRY_AFTER_MOST_S = 30     # what is told to come again later
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
    PHRASE_MOST = 1024          # a handler's reason phrase
    SPIN_OUTSTANDING = 2        # spin only while so few requests are under way: one wake-up for many costs each little
    LINGER_NS = 1500000000

include "tally.pxi"
include "note.pxi"
include "exchange.pxi"
include "lines.pxi"
include "slots.pxi"
include "targets.pxi"
include "sender.pxi"
include "intake.pxi"
include "connection.pxi"
include "dispatch.pxi"
include "routes.pxi"


@cython.final
cdef class Frontend(Routes):
    """One frontend's books: its segment, the models it knows, and what is under way.

    board_fd, segment_fd, eventfd: as the supervisor made them. `largest`: as create_segment was told.
    limits: dict of max_request, max_response, max_connections, queue limits and the time-outs in ms (see frontend.py).
    render_error: (status, text) -> body of an error answer. ask: (Exchange, method, path, query, content type, body, surfaces)
    passes a management request on; its answer comes through `answer`. on_suspect: (worker) says that a worker's memory is spoilt.
    wake: (model's index) says that it has requests and no worker.
    """

    cdef HttpLimits limits
    cdef ResponseDate date
    cdef uint8_t *read_buffer
    cdef char *out
    cdef uint8_t scratch[16384]
    cdef object ask_supervisor
    cdef readonly set connections
    cdef bytes health_text
    cdef bytes too_large_text
    cdef bytes execution_text       # of /execution-parameters
    cdef bytes common               # field lines of every answer: about caches, then about other origins
    cdef size_t cache_length        # of the first part
    cdef bytes preflight            # field lines that answer another origin's question; None when there is none to ask
    cdef unsigned int health_status
    cdef bytes readiness_text
    cdef unsigned int readiness_status
    cdef bytes token                # empty: none is asked for
    cdef bint token_guards_inference
    cdef bint token_guards_reading
    cdef readonly bint is_draining
    cdef Py_ssize_t max_connections
    cdef uint64_t header_timeout_ns
    cdef uint64_t body_timeout_ns
    cdef uint64_t idle_timeout_ns
    cdef uint64_t write_timeout_ns
    cdef uint64_t byte_ns           # by how much a byte puts a deadline off: the inverse of the least rate
    cdef uint64_t swept_ns
    cdef readonly uint64_t accepted
    cdef uint64_t answers[6]        # by hundreds of the status

    def __cinit__(self, loop, int board_fd, int segment_fd, int eventfd, unsigned long long arena_bytes,
                  unsigned long long largest, dict limits, render_error, ask, on_suspect, wake):
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
        self.marks = <SlotMark *>(self.base + MARKS_OFFSET)
        if self.header.magic != LAYOUT_MAGIC or self.header.version != LAYOUT_VERSION:
            raise ValueError("not a segment of this build: the processes come from different builds")
        http_limits_default(&self.limits)
        self.render_error = render_error
        self.ask_supervisor = ask
        self.on_suspect = on_suspect
        self.wake_model = wake
        self.poll_callback = self.poll
        self.routes = {}
        self.tallies = Tallies()
        self.connections = set()
        self.surplus_slot = ARENA_NONE
        turns_init(&self.turns, arena_bytes)
        self.lines = [[] for _ in range(LINES)]
        self.needs = []
        self.dirty = []
        self.used = []
        self.next_id = 1
        self.max_request = limits["max_request"]
        self.max_response = limits["max_response"]
        self.spin_ns = <uint64_t>limits["spin_us"] * 1000
        self.set_limits(limits)
        self.swept_ns = monotonic_ns()
        self.too_large_text = b"the body is longer than %d bytes (HEADRACE_MAX_REQUEST); raise it or send less" % self.max_request
        self.execution_text = self.common = b""
        self.cache_length = 0
        self.retry_s = 1
        self.full_text = render_error(503, "the model's queue is full (HEADRACE_QUEUE); try again later")
        self.full_together_text = render_error(
            503, "the queues of all models together are full (HEADRACE_QUEUE_TOTAL); try again later")
        self.set_health(503, "Starting")
        self.set_readiness(503, b"{}\n")
        self.set_token(b"", False)

    def __dealloc__(self):
        free(self.read_buffer)
        free(self.out)

    # -- what the supervisor says ----------------------------------------------------------------------------------------

    def protocol(self, int surfaces):
        """A new connection's protocol: INFERENCE, MANAGEMENT or both."""
        cdef Connection connection = Connection.__new__(Connection)
        connection.frontend = self
        connection.surfaces = surfaces
        return connection

    def watch(self, hear, share, sampling, unsigned long long seed):
        """From now on *hear* gets, once a turn of the loop, a list of Notes: of requests to be logged, but health checks, and of
        predictions to be traced. See Notes for share, sampling and seed."""
        self.notes = Notes(self.loop, hear, share, sampling, seed)

    def set_limits(self, dict limits):
        """The limits that may change while it runs. A deadline that is set already stays what it is."""
        self.max_connections = limits["max_connections"]
        self.in_flight_most = limits["queue_total"]
        self.retries = limits["retries"]
        self.header_timeout_ns = <uint64_t>limits["header_timeout_ms"] * 1000000
        self.body_timeout_ns = <uint64_t>limits["body_timeout_ms"] * 1000000
        self.idle_timeout_ns = <uint64_t>limits["idle_timeout_ms"] * 1000000
        self.write_timeout_ns = <uint64_t>limits["write_timeout_ms"] * 1000000
        self.byte_ns = 1000000000 // <uint64_t>limits["min_rate"] if limits["min_rate"] else self.body_timeout_ns

    def set_surroundings(self, bytes cache, bytes origin, bytes preflight, bytes execution_text):
        """Field lines that all answers have, those for a preflight request (None: not answered), /execution-parameters."""
        if len(cache) + len(origin) > RESPONSE_COMMON_MAX or (preflight is not None and len(preflight) > FIELDS_MOST):
            raise ValueError(f"more than {RESPONSE_COMMON_MAX} bytes of field lines for every answer")
        self.common, self.cache_length = cache + origin, len(cache)
        self.preflight, self.execution_text = preflight, execution_text

    def set_health(self, unsigned int status, str text):
        """What /ping answers."""
        self.health_status = status
        self.health_text = b'{\n  "status": "%s"\n}\n' % text.encode()

    def set_readiness(self, unsigned int status, bytes text):
        """What /health/ready answers."""
        self.readiness_status = status
        self.readiness_text = text

    def set_token(self, bytes token, bint guards_inference, bint guards_reading=True):
        """The bearer token that management asks for, and inference where *guards_inference*; empty: nobody is asked.

        guards_reading: management asks for it too where it is only read.
        """
        self.token = token
        self.token_guards_inference = guards_inference
        self.token_guards_reading = guards_reading

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
            if connection.state == HEAD and connection.first is None and not connection.is_in_head and not connection.place:
                connection.linger()
            elif connection.last is not None:
                connection.last.keep_alive = False
                connection.is_closing = connection.filling is None  # else it is the last, and closes when its body is there

    def unanswered(self):
        """Requests under way on all connections."""
        cdef Connection connection
        cdef uint64_t found = 0
        for connection in self.connections:
            found += connection.depth
        return found

    def answer_rest(self, str text):
        """Answers 503 what is under way, complete or not: the server ends."""
        cdef Connection connection
        cdef Exchange exchange
        for connection in list(self.connections):
            exchange = connection.first
            while exchange is not None:
                if exchange.state != READY and exchange is not connection.filling:
                    exchange.keep_alive = exchange.keep_alive and exchange.next is not None
                    self.answer_error(exchange, 503, text)
                exchange = exchange.next
            if connection.transport is not None and connection.state < LINGER and (
                    connection.filling is not None or connection.is_in_head or connection.place):
                connection.refuse(503, b"the server ends; try again")
                connection.flush()
        self.flush_dirty()

    # -- what connections ask --------------------------------------------------------------------------------------------

    cdef bint is_allowed(self, int target, const uint8_t *data):
        """Whether the request whose head was just parsed may ask for that."""
        cdef HttpSpan *fields = &self.head.fields
        if not self.token or target in (TARGET_PING, TARGET_LIVE, TARGET_READY, TARGET_CONSOLE):
            return True
        if not self.token_guards_reading and target in (TARGET_MANAGE, TARGET_API) and self.head.method in (
                HTTP_GET, HTTP_HEAD, HTTP_OPTIONS):
            return True
        if not self.token_guards_inference and target in (TARGET_DEFAULT, TARGET_MODEL, TARGET_LEGACY, TARGET_EXECUTION):
            return True
        return access_granted(data + fields.offset, fields.length, <const uint8_t *>PyBytes_AS_STRING(self.token),
                              PyBytes_GET_SIZE(self.token))

    cdef int ask(self, Exchange exchange, object body) except -1:
        path, query, content_type, surfaces = exchange.asked
        method = (<bytes>http_method_name(exchange.method)).decode("ascii")
        self.ask_supervisor(exchange, method, path, query, content_type, bytes(body), surfaces)
        return 0

    cdef int count_answer(self, Exchange exchange, uint64_t response_bytes) except -1:
        """An answer is about to go out."""
        cdef uint64_t now = 0
        self.answers[exchange.status // 100] += 1
        if exchange.tally is not None:
            now = monotonic_ns()
            count_answer(&exchange.tally.counts, exchange.status, exchange.arrival_ns, now, exchange.body_length, response_bytes)
            if response_bytes <= COPY_MOST:  # behind its head, by whoever sends it
                exchange.tally.counts.copied_bytes += response_bytes
            if exchange.text is None:
                exchange.tally.counts.copied_bytes += exchange.answer.copied_bytes
                count_work(&exchange.tally.counts, exchange.whole_ns, exchange.answer.started_ns, exchange.answer.finished_ns,
                           now, exchange.answer.batch_rows)
        if exchange.note is not None:
            self.notes.end(exchange, exchange.status, now or monotonic_ns(), response_bytes)
        return 0

    # -- a few times a second --------------------------------------------------------------------------------------------

    def sweep(self):
        """Enforces all deadlines; a few times a second."""
        cdef Connection connection
        cdef Exchange exchange
        cdef Route route
        cdef uint64_t now = monotonic_ns()
        self.now_ns = now
        self.drain()
        self.retry_s = 1
        for route in self.routes.values():
            route.learn_rate((now - self.swept_ns + 1) / 1e9)
            if route.in_flight:
                self.retry_s = max(self.retry_s, route.retry_after_s())
            if route.waiting:
                route.waiting = deque([exchange for exchange in route.waiting if (<Exchange>exchange).state == QUEUED])
        self.swept_ns = now
        for connection in list(self.connections):
            connection.sweep(now)
        for slot in self._held_slots():
            if self.leases[slot].exchange is NULL:
                continue
            exchange = <Exchange>self.leases[slot].exchange
            if exchange.slot == slot and exchange.state in (QUEUED, SUBMITTED) and now > exchange.deadline_ns:
                self.timed_out += 1
                self.answer_error(exchange, 504, "the request was not answered in time (HEADRACE_TIMEOUT, or what its "
                                  "X-Headrace-Timeout-Ms allowed)")
        for route in self.routes.values():
            if route.waiting:
                self.resubmit(route, route.most)
        self.serve_waiting()
        self.flush_dirty()
        if self.busy_count and not self.is_polling:
            self.start_polling()  # parks afresh: a worker that died before it rang has taken the announcement with it

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
            "abandoned": self.abandoned,
            "redelivered": self.redelivered,
            "timed_out": self.timed_out,
            "invalid_completions": self.invalid_completions,
            "slots_leased": len(self._held_slots()),
            "slots": slots,
            "links": self.links_in_use(),
            "arena_committed_bytes": self.arena.committed_bytes,
            "arena_exhausted": self.arena.exhausted,
            "incomplete_bytes": self.turns.incomplete_bytes[LINE_SMALL] + self.turns.incomplete_bytes[LINE_LARGE],
            "waiting_for_slots": sum([(<Connection>connection).place != 0 for connection in self.connections]),
            "polls": self.polls,
            "parks": self.parks,
            "bells": self.bells,
            "copied_bytes": self.copied_bytes,
        }

    cdef dict links_in_use(self):
        """By worker that is up: entries in its submission ring, and requests under way."""
        cdef uint32_t worker
        cdef Link *link
        found = {}
        for worker in range(MAX_WORKERS):
            link = &self.links[worker]
            if link.is_up:
                depth = load_relaxed(&link.pair.submit.tail) - load_relaxed(&link.pair.submit.head)
                found[str(worker)] = [min(depth, <uint64_t>RING_ENTRIES), link.under_way]
        return found

    def tally(self, Py_ssize_t busiest):
        """What was counted of each model's requests (see Tallies.report), how many each has under way, and which had the most
        requests since this was last asked: {"asked": [[model, requests], ...]}, at most so many and all that are named."""
        cdef Route route
        cdef list named = []
        cdef list others = []
        in_flight = {}
        for route in self.routes.values():
            if route.tally is not self.tallies.rest:
                named.append([route.model, route.asked])
                in_flight[route.name] = route.in_flight
            elif route.asked:
                others.append([route.model, route.asked])
            route.asked = 0
        others.sort(key=lambda found: -found[1])
        report = self.tallies.report()
        report["asked"] = named + others[:busiest]
        report["in_flight"] = in_flight
        report["in_flight_total"] = self.in_flight
        return report
