"""Requests to workers, answers from workers, and the turns of the loop in which that happens."""


cdef class Dispatch(Slots):
    """Hands requests to workers and takes their answers. Nothing out of a completion ring is used unchecked."""

    cdef int eventfd
    cdef uint64_t now_ns
    cdef object loop
    cdef object poll_callback
    cdef object render_error
    cdef dict routes                # model name as bytes -> Route
    cdef object starving            # connections that wait for a slot, first come first
    cdef list needs                 # (Exchange, worker, bytes) that wait for a larger slot
    cdef list dirty
    cdef bint is_polling
    cdef bint was_read              # since the last poll
    cdef uint64_t spin_ns
    cdef uint64_t gap_ns            # how long completions have let themselves be waited for of late (moving mean)
    cdef uint64_t waiting_since_ns
    cdef uint64_t max_response
    cdef uint16_t retries
    cdef readonly uint64_t overloaded
    cdef readonly uint64_t parks
    cdef readonly uint64_t polls
    cdef readonly uint64_t invalid_completions

    # -- requests to workers ---------------------------------------------------------------------------------------------

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
        entry.codings = exchange.codings
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

    # -- answers from workers --------------------------------------------------------------------------------------------

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

    # -- turns of the loop -----------------------------------------------------------------------------------------------

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

    def trim_end(self, ranges):
        for index, _, _ in ranges:
            arena_trim_end(&self.arena.classes[<uint32_t>index])
        self.serve_waiting()
