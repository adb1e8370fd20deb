"""A client's connection: bytes in, what the transport calls, and deadlines."""


@cython.final
cdef class Connection(Intake):
    """asyncio.BufferedProtocol of one client. See the module's drawing; states and what ends them:

        HEAD    a head, or the idle time-out (no byte yet) or the head's (from its first byte)
        BODY    `remaining` bytes, or the body's time-out without progress, which each byte puts off by what it is worth at
                the least rate
        CHUNKS  the last chunk and trailer, likewise
        LINGER  the peer's end, LINGER_BYTES or LINGER_NS
    """

    cdef uint64_t write_deadline_ns
    cdef Py_ssize_t unsent      # bytes that the transport and the kernel had at the last sweep
    cdef uint64_t dropped_bytes
    cdef HttpScan scan
    cdef uint8_t *target        # of the next read
    cdef Py_ssize_t target_length

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
        frontend.leave_line(self)
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
                    frontend.leave_line(self)  # it waits for its own client, and must not hold up the others
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
                    self.block()
                    break
                frontend.leave_line(self)
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
                if self.state == CHUNKS and not self.place:
                    self.progress(used)
                if outcome == HTTP_INCOMPLETE:
                    break
        if at < length and self.state < LINGER and not (self.is_closing and self.state == HEAD):
            self.reserve_rest(length - at)
            memcpy(self.rest, data + at, length - at)
            self.rest_length = length - at
        return 0

    cdef int store(self, const uint8_t *data, size_t length) except -1:
        if self.sink == TO_SLOT:
            memcpy(self.frontend.slot_start(self.filling.slot) + self.filling.body_length, data, length)
            self.filling.body_length += <uint32_t>length
            self.frontend.copied_bytes += length
            self.filling.tally.counts.copied_bytes += length
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
                self.block()
                return HTTP_INCOMPLETE
            self.store(piece, piece_length)
        return outcome

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

    # -- answers and deadlines ----------------------------------------------------------------------------------------------

    cdef int flush(self) except -1:
        """Sends the answers whose turn it is, and does what waited for that."""
        cdef bint keep_alive = self.send_answers()
        if self.state >= LINGER:
            return 0
        if self.first is None and not self.is_in_head and self.state == HEAD:
            self.deadline_ns = self.frontend.now_ns + self.frontend.idle_timeout_ns
        if not keep_alive or (self.saw_eof and self.first is None):
            self.linger()
        elif self.is_expecting and self.first is self.filling and not self.is_paused:
            self.is_expecting = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", 25)
        elif (self.is_blocked and not self.place and not self.is_paused and self.depth <= PIPELINE_MOST // 2
                and self.held_bytes < PIPELINE_BYTES):
            self.unblock()
        return 0

    cdef int sweep(self, uint64_t now) except -1:
        """Enforces the one deadline that the connection has now."""
        cdef Frontend frontend = self.frontend
        cdef Py_ssize_t unsent
        if self.transport is None or self.state == CLOSED:
            return 0
        if self.is_paused:
            # The transport hears of room in the socket only when a third of it is free: that is no measure of a slow client.
            unsent = self.transport.get_write_buffer_size()
            unsent += unacknowledged(self.transport.get_extra_info("socket").fileno())
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
        elif self.place:
            frontend.overloaded += 1
            self.refuse(503, b"the arena had no room for the request in time (HEADRACE_ARENA); try again later",
                        b"retry-after: %d\r\n" % frontend.retry_s)
        elif self.state == BODY or self.state == CHUNKS:
            self.refuse(408, b"the body did not arrive in time (HEADRACE_BODY_TIMEOUT, HEADRACE_MIN_RATE)")
        elif self.is_in_head:
            self.refuse(408, b"the request's head did not arrive in time (HEADRACE_HEADER_TIMEOUT)")
        elif self.first is None:
            self.transport.close()
        if self.is_dirty:
            self.flush()
