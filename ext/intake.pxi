"""What becomes of a request: from its head to the end of its body."""

# What becomes of a body.
cdef enum:
    TO_SLOT = 0
    TO_BYTES = 1
    TO_NOTHING = 2


cdef class Intake(Sender):
    """What of a connection judges requests: which of them get a slot, go to the supervisor, or are answered at once."""

    cdef int surfaces
    cdef uint8_t sink
    cdef bint is_closing        # no request after the present one is looked at
    cdef bint is_in_head        # its first byte has come
    cdef bint is_expecting      # the client waits for 100 Continue
    cdef Exchange filling
    cdef uint64_t remaining
    cdef int line               # that it waits in for a slot
    cdef uint64_t needed_bytes  # of the slot
    cdef uint64_t asked_ns      # when its request began to wait
    cdef int incomplete_line
    cdef uint64_t incomplete_bytes  # what this connection's unfinished body counts against the arena's share
    cdef HttpChunks chunks
    cdef bytearray collected
    cdef uint8_t *rest          # unparsed bytes
    cdef size_t rest_length
    cdef size_t rest_room

    # -- heads -----------------------------------------------------------------------------------------------------------

    cdef int begin(self, uint8_t *data, size_t behind) except -1:
        """A head is complete: decides what becomes of the request. 0 when it must wait for a slot, and come again."""
        cdef Frontend frontend = self.frontend
        cdef HttpHead *head = &self.frontend.head
        cdef Exchange exchange = new_exchange(<Connection>self)
        cdef Route route = None
        cdef HttpPath path
        cdef object name
        cdef int target
        exchange.arrival_ns = self.asked_ns if self.place else frontend.now_ns
        exchange.method = head.method
        exchange.kind = head.content_kind
        exchange.accept = head.accept_kind
        exchange.codings = head.codings
        exchange.keep_alive = head.flags & HTTP_KEEP_ALIVE and not frontend.is_draining
        exchange.is_http10 = head.minor == 0
        if frontend.notes is not None:
            exchange.note = frontend.notes.begin(<Connection>self, data)
        target = http_split_path(data + head.path.offset, head.path.length, &path, frontend.scratch, sizeof(frontend.scratch))
        if target != HTTP_OK:
            return self.decline(exchange, http_error_status(target), http_error_text(target), b"")
        if head.flags & HTTP_EXPECT_OTHER:
            return self.decline(exchange, 417, b"the only expectation that can be met is 100-continue", b"")
        if head.timeout_ms == ~<uint64_t>0:
            return self.decline(exchange, 400, b"X-Headrace-Timeout-Ms must be a whole number of milliseconds from 1 to "
                                b"999999999999, sent once", b"")
        target = find_target(&path, frontend.scratch, self.surfaces)
        if target == TARGET_PING or target == TARGET_LIVE or target == TARGET_READY:
            exchange.note = None  # asked every few seconds, they would bury all others; a change of health is logged anyway
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
            name = name_of(target, &path, frontend.scratch,
                           (<char *>data)[head.query.offset:head.query.offset + head.query.length])
            if exchange.note is not None:
                frontend.notes.trace(exchange.note, route_text(target, path.count), data, head)
            route = frontend.default_route if name is None else frontend.routes.get(name)
            if route is None:
                return self.decline_unknown(exchange, name)
            exchange.tally = route.tally
            if exchange.note is not None:
                exchange.note.model = route.name
            if head.content_length > frontend.max_request:
                return self.decline(exchange, 413, frontend.too_large_text, b"")
            if route.refusal is not None:
                return self.decline_refused(exchange, route)
            if frontend.is_surplus(exchange, route):
                return self.answer_early(exchange, 503)
            if not frontend.lease_for(exchange, <Connection>self, data, behind, route):
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
            exchange = new_exchange(<Connection>self)
            if self.frontend.notes is not None:
                exchange.note = self.frontend.notes.begin(<Connection>self, NULL)
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
        self.is_in_head = self.is_expecting = False
        self.frontend.leave_line(<Connection>self)
        self.state = HEAD
        self.rest_length = 0
        if self.last is None:
            return self.linger()
        self.last.keep_alive = False
        return 0

    # -- ends of bodies --------------------------------------------------------------------------------------------------

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
            exchange.body_length = <uint32_t>len(body)
            self.frontend.ask(exchange, body)
        return 0

    cdef int end_incomplete(self) except -1:
        return self.frontend.count_incomplete(<Connection>self, LINE_SMALL, 0)
