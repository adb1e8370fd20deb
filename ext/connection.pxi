"""A client's connection: bytes in, requests out of them, answers in order, bytes out."""

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


@cython.final
cdef class Connection:
    """asyncio.BufferedProtocol of one client. See the module's drawing; states and what ends them:

        HEAD    a head, or the idle time-out (no byte yet) or the head's (from its first byte)
        BODY    `remaining` bytes, or the body's time-out without progress, which each byte puts off by what it is worth at
                the least rate
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
    cdef uint64_t held_bytes    # slots of unanswered requests
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
        transport.set_write_buffer_limits(high=0 if self.fd >= 0 else 1)  # uvloop's TLS compares with >=
        self.deadline_ns = monotonic_ns() + frontend.idle_timeout_ns
        frontend.connections.add(self)
        frontend.accepted += 1
        if len(frontend.connections) > frontend.max_connections + SURPLUS_CONNECTIONS:
            self.give_up()
        elif frontend.is_draining or len(frontend.connections) > frontend.max_connections:
            self.refuse(503, b"the server has as many connections as it may have (HEADRACE_MAX_CONNECTIONS); try again later",
                        b"retry-after: 1\r\n")
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
        return self.fd >= 0  # TLS knows no half close

    def pause_writing(self):
        self.is_paused = True
        self.unsent = 0
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
        return self if self.fd >= 0 else memoryview(self)  # TLS transports ask for its length, too

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.target, self.target_length, False, flags)

    def buffer_updated(self, Py_ssize_t count):
        cdef Frontend frontend = self.frontend
        frontend.now_ns = monotonic_ns()
        frontend.was_read = True
        if self.state >= LINGER:
            self.dropped_bytes += count
            if self.dropped_bytes > LINGER_BYTES:
                self.give_up()
            return
        if self.is_closing and self.state == HEAD:
            self.block()  # nothing behind the last request is looked at, and its answer is still to come
            return
        if self.state == BODY and self.sink == TO_SLOT and self.rest_length == 0:
            self.filling.body_length += <uint32_t>count
            self.remaining -= count
            self.progress(count)
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
                if self.depth >= PIPELINE_MOST or self.is_paused or (self.depth and self.held_bytes >= PIPELINE_BYTES):
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
                self.is_in_head = False
                self.deadline_ns = frontend.now_ns + (
                    frontend.idle_timeout_ns if self.state == HEAD else frontend.body_timeout_ns)
            elif self.state == BODY:
                used = min(<uint64_t>(length - at), self.remaining)
                self.store(data + at, used)
                at += used
                self.remaining -= used
                self.progress(used)
                if self.remaining == 0:
                    self.end_body()
            else:
                used = 0
                outcome = self.take_chunk(data + at, length - at, &used)
                at += used
                if self.state == CHUNKS and not self.is_starving:
                    self.progress(used)
                if outcome == HTTP_INCOMPLETE:
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
        cdef object name
        cdef int target
        exchange.arrival_ns = frontend.now_ns
        exchange.method = head.method
        exchange.kind = head.content_kind
        exchange.accept = head.accept_kind
        exchange.codings = head.codings
        exchange.keep_alive = head.flags & HTTP_KEEP_ALIVE and not frontend.is_draining
        exchange.is_http10 = head.minor == 0
        target = http_split_path(data + head.path.offset, head.path.length, &path, frontend.scratch, sizeof(frontend.scratch))
        if target != HTTP_OK:
            return self.decline(exchange, http_error_status(target), http_error_text(target), b"")
        if head.flags & HTTP_EXPECT_OTHER:
            return self.decline(exchange, 417, b"the only expectation that can be met is 100-continue", b"")
        if head.timeout_ms == ~<uint64_t>0:
            return self.decline(exchange, 400, b"X-Headrace-Timeout-Ms must be a whole number of milliseconds from 1 to "
                                b"999999999999, sent once", b"")
        target = frontend.find_target(&path, self.surfaces)
        if target == TARGET_NONE:
            return self.decline(exchange, 404, b"Requested resource is not found, please refer to API document.", b"")
        if head.method == HTTP_OTHER:
            return self.decline(exchange, 501, b"this method is not known here", b"")
        if head.method == HTTP_OPTIONS and frontend.preflight is not None and b"\naccess-control-request-method:" in (
                <bytes>(<char *>data)[:head.head_length]).lower():
            exchange.kind = 0
            exchange.fields = frontend.preflight
            return self.answer_early(exchange, 200)
        if not frontend.is_allowed(target, data):
            return self.decline(exchange, 401, b"this path asks for a bearer token (HEADRACE_TOKEN_FILE)",
                                b'www-authenticate: Bearer realm="headrace"\r\n')
        if target == TARGET_LIVE or target == TARGET_READY:
            if head.method != HTTP_GET and head.method != HTTP_HEAD:
                return self.decline(exchange, 405, b"/health is for GET", b"allow: GET, HEAD\r\n")
            exchange.kind = MEDIA_JSON
            exchange.text = frontend.readiness_text if target == TARGET_READY else b'{\n  "status": "live"\n}\n'
            return self.answer_early(exchange, frontend.readiness_status if target == TARGET_READY else 200)
        if target == TARGET_PING:
            exchange.kind = MEDIA_JSON
            exchange.text = frontend.health_text
            return self.answer_early(exchange, frontend.health_status)
        if target == TARGET_EXECUTION:
            exchange.kind = MEDIA_JSON
            exchange.text = frontend.execution_text
            return self.answer_early(exchange, 200)
        if target in (TARGET_MANAGE, TARGET_CONSOLE, TARGET_API) or head.method == HTTP_OPTIONS:
            if head.codings & CODED_BODY:
                return self.decline(exchange, 415, b"a management request is read as it is, without a content-encoding",
                                    b"accept-encoding: identity\r\n")
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
            if head.method == HTTP_TRACE or head.method == HTTP_CONNECT:
                return self.decline(exchange, 405, b"a prediction is asked for with POST", b"allow: GET, POST, PUT\r\n")
            name = frontend.name_of(target, &path, (<char *>data)[head.query.offset:head.query.offset + head.query.length])
            route = frontend.default_route if name is None else frontend.routes.get(name)
            if route is None:
                return self.decline_unknown(exchange, name)
            exchange.tally = route.tally
            if head.content_length > frontend.max_request:
                return self.decline(exchange, 413, frontend.too_large_text, b"")
            if route.refusal is not None:
                return self.decline_refused(exchange, route)
            if frontend.is_surplus(exchange, route):
                return self.answer_early(exchange, 503)
            if not frontend.lease_for(exchange, self, data, behind, route):
                return 0
            exchange.route = route
            exchange.deadline_ns = exchange.arrival_ns + (
                min(route.timeout_ns, head.timeout_ms * 1000000) if head.timeout_ms else route.timeout_ns)
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

    cdef int decline_unknown(self, Exchange exchange, object name) except -1:
        if name is None:
            return self.decline(exchange, 400, b"Parameter model_name is required. No single model answers at /invocations; "
                                b"name one, as in /models/NAME/invoke", b"")
        exchange.kind = MEDIA_JSON
        exchange.text = self.frontend.render_error(404, "Model not found: " + (<bytes>name).decode("utf-8", "replace"))
        return self.answer_early(exchange, 404)

    cdef int decline_refused(self, Exchange exchange, Route route) except -1:
        """503 before the body is read: the model is set aside."""
        exchange.kind = MEDIA_JSON
        exchange.text = self.frontend.render_error(503, route.refusal)
        exchange.fields = self.frontend.refusal_fields(route)
        return self.answer_early(exchange, 503)

    cdef int refuse(self, unsigned int status, const char *text, bytes fields=b"") except -1:
        """Answers what is no request, or one that does not go on; the connection ends behind it."""
        cdef Exchange exchange = self.filling
        self.end_incomplete()
        if exchange is None and (self.state == BODY or self.state == CHUNKS):
            return self.end_behind_last()  # a body that is thrown away: its request has had its answer
        if exchange is None:
            exchange = new_exchange(self)
            self.append(exchange)
        else:
            self.frontend.leave_route(exchange)
            self.frontend.drop_slots(exchange)
        exchange.keep_alive = False
        exchange.kind = MEDIA_JSON
        exchange.text = self.frontend.render_error(status, (<bytes>text).decode("utf-8"))
        exchange.fields = fields
        exchange.status = status
        exchange.state = READY
        self.filling = None
        self.collected = None
        self.is_dirty = True
        return self.end_behind_last()

    cdef int end_behind_last(self) except -1:
        """No request behind the last one that was taken is looked at; with its answer the connection ends."""
        self.is_closing = True
        self.is_in_head = self.is_expecting = self.is_starving = False
        self.state = HEAD
        self.rest_length = 0
        if self.last is None:
            return self.linger()
        self.last.keep_alive = False
        return 0

    cdef int store(self, const uint8_t *data, size_t length) except -1:
        if self.sink == TO_SLOT:
            memcpy(self.frontend.slot_start(self.filling.slot) + self.filling.body_length, data, length)
            self.filling.body_length += <uint32_t>length
            self.frontend.copied_bytes += length
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
        exchange.whole_ns = self.frontend.now_ns
        if not exchange.keep_alive:
            self.is_closing = True
        if self.sink == TO_SLOT:
            self.frontend.admit(exchange)
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

    cdef inline int progress(self, uint64_t count) except -1:
        """Bytes of a body came: they put the deadline off by what they are worth at HEADRACE_MIN_RATE, at most by the time-out."""
        cdef Frontend frontend = self.frontend
        self.deadline_ns = min(self.deadline_ns + count * frontend.byte_ns, frontend.now_ns + frontend.body_timeout_ns)
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
        cdef uint64_t until = self.deadline_ns
        cdef bint was_starving = self.is_starving
        self.is_blocked = self.is_starving = False
        self.frontend.now_ns = monotonic_ns()
        if was_starving:
            self.deadline_ns = self.frontend.now_ns + self.frontend.body_timeout_ns
        self.parse_rest()
        if was_starving and self.is_starving:
            self.deadline_ns = until  # it waits on, and its time runs
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
        cdef size_t skipped
        cdef int connection
        cdef bint keep_alive = True
        self.is_dirty = False
        while not self.is_paused and self.state < LINGER:
            exchange = self.first
            if exchange is None or exchange.state != READY:
                break
            fields = PyBytes_AS_STRING(exchange.fields)
            fields_length = PyBytes_GET_SIZE(exchange.fields)
            if exchange.text is not None:
                body = <const uint8_t *>PyBytes_AS_STRING(exchange.text)
                body_length = PyBytes_GET_SIZE(exchange.text)
            else:
                body = frontend.slot_start(exchange.answer.slot) + exchange.answer.body_offset
                body_length = exchange.answer.body_length
            if filled + RESPONSE_HEAD_MAX + RESPONSE_COMMON_MAX + fields_length + COPY_MOST > OUT_BUFFER:
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
            # A model that says how its answers may be cached knows better.
            skipped = 0
            if fields_length and response_has_field(fields, fields_length, b"cache-control", 13):
                skipped = frontend.cache_length
            request_id_text(frontend.header.id_prefix, exchange.request_id, text)
            filled += response_head(out + filled, exchange.status, exchange.kind, body_length, text,
                                    response_date(&frontend.date), connection, fields, fields_length,
                                    PyBytes_AS_STRING(frontend.common) + skipped, PyBytes_GET_SIZE(frontend.common) - skipped)
            if exchange.method == HTTP_HEAD or exchange.status == 204 or exchange.status == 304:
                body_length = 0
            frontend.count_answer(exchange, body_length)
            if body_length <= COPY_MOST:
                memcpy(out + filled, body, body_length)
                filled += body_length
                frontend.copied_bytes += body_length
            else:
                self.send_with_body(out, filled, exchange, body, body_length)
                filled = 0
            self.first = exchange.next
            if self.first is None:
                self.last = None
            self.depth -= 1
            self.held_bytes -= exchange.held_bytes
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
        elif (self.is_blocked and not self.is_starving and not self.is_paused and self.depth <= PIPELINE_MOST // 2
                and self.held_bytes < PIPELINE_BYTES):
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
        if self.transport is None or self.state == CLOSED:
            return 0
        if self.is_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self.unsent:
                self.write_deadline_ns = min(self.write_deadline_ns + (self.unsent - unsent) * frontend.byte_ns,
                                             now + frontend.write_timeout_ns)
            self.unsent = unsent
            if now > self.write_deadline_ns:
                self.give_up()
            return 0
        if now <= self.deadline_ns:
            return 0
        if self.state == LINGER:
            self.transport.close()
        elif self.is_starving:
            frontend.overloaded += 1
            self.refuse(503, b"the arena had no room for the request in time (HEADRACE_ARENA); try again later",
                        b"retry-after: %d\r\n" % frontend.retry_after_s())
        elif self.state == BODY or self.state == CHUNKS:
            self.refuse(408, b"the body did not arrive in time (HEADRACE_BODY_TIMEOUT, HEADRACE_MIN_RATE)")
        elif self.is_in_head:
            self.refuse(408, b"the request's head did not arrive in time (HEADRACE_HEADER_TIMEOUT)")
        elif self.first is None:
            self.transport.close()
        if self.is_dirty:
            self.flush()
