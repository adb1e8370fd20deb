"""The answers of a connection, in the order of its requests, and bytes out."""

# What a connection waits for.
cdef enum:
    HEAD = 0
    BODY = 1        # `remaining` bytes of it
    CHUNKS = 2
    LINGER = 3      # answered for good; reads only to throw away
    CLOSED = 4


cdef class Sender:
    """What of a connection sends: the exchanges that are not answered yet, oldest first, and the transport."""

    cdef Frontend frontend
    cdef object transport
    cdef int fd                 # -1: the transport encrypts, and must do the sending
    cdef uint8_t state
    cdef bint is_blocked        # reading is paused, unparsed bytes wait: too many requests are unanswered, or the arena is full
    cdef uint64_t place         # in the line for a slot; 0: it waits for none
    cdef bint is_paused         # the transport still has bytes of ours to send
    cdef bint is_dirty          # answers became ready
    cdef bint saw_eof
    cdef uint32_t depth
    cdef uint64_t held_bytes    # slots of unanswered requests
    cdef Exchange first
    cdef Exchange last
    cdef uint64_t deadline_ns
    cdef str client             # its address, once somebody wants to know

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

    cdef bint send_answers(self) except -1:
        """Sends those whose turn it is: heads and small bodies of all in one piece, large bodies from their slots.

        False: the connection ends behind the last of them.
        """
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
            crash_point(b"frontend.after_send")
        return keep_alive

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
        self.frontend.leave_line(<Connection>self)
        self.deadline_ns = monotonic_ns() + LINGER_NS
        if self.saw_eof or not self.transport.can_write_eof():
            self.transport.close()
            return 0
        self.transport.write_eof()
        if self.is_blocked:
            self.is_blocked = False
            self.transport.resume_reading()
        return 0
