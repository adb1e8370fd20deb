"""Requests to workers, answers from workers, and the turns of the loop in which that happens."""


cdef class Dispatch(Slots):
    """Hands requests to workers and takes their answers. Nothing out of a completion ring is used unchecked."""

    cdef int eventfd
    cdef uint64_t now_ns
    cdef object loop
    cdef object poll_callback
    cdef object render_error
    cdef object on_suspect
    cdef dict routes                # model name as bytes -> Route
    cdef Tallies tallies
    cdef Notes notes                # None: no request is told of
    cdef list needs                 # (Exchange, worker, bytes) that wait for a larger slot
    cdef list dirty
    cdef list used                  # routes that had a request since uses() was asked, or have one under way
    cdef object wake_model
    cdef bint is_polling
    cdef bint was_read              # since the last poll
    cdef uint64_t spin_ns
    cdef uint64_t gap_ns            # how long completions have let themselves be waited for of late (moving mean)
    cdef uint64_t waiting_since_ns
    cdef uint64_t max_response
    cdef uint16_t retries
    cdef uint64_t in_flight         # requests under way at all models
    cdef uint64_t in_flight_most
    cdef unsigned int retry_s       # when to come again if all models together are meant; as of the last sweep
    cdef bytes full_text            # bodies of refusals, made ahead: nothing is cheaper than to turn a request away
    cdef bytes full_together_text
    cdef readonly uint64_t overloaded
    cdef readonly uint64_t abandoned
    cdef readonly uint64_t redelivered
    cdef readonly uint64_t timed_out
    cdef readonly uint64_t parks
    cdef readonly uint64_t polls
    cdef readonly uint64_t bells            # workers that had to be woken
    cdef readonly uint64_t invalid_completions

    # -- requests to workers ---------------------------------------------------------------------------------------------

    cdef int admit(self, Exchange exchange) except -1:
        """A request is whole: from now on it is under way at its model. One whose body is still to come holds no place in a
        queue, lest trickling clients keep the others out; so what was free at its head may be taken by now, or gone."""
        cdef Route route = exchange.route
        if route.is_gone:
            route = self.routes.get(route.name.encode())
            if route is None:
                return self.answer_error(exchange, 404, f"Model not found: {exchange.route.name}")
            exchange.route = route  # another has the name since
            exchange.tally = route.tally
        if self.is_surplus(exchange, route):
            exchange.state = READY
            self.leave_route(exchange)
            self.drop_slots(exchange)
            return self.ready(exchange)
        if fault_strikes(b"frontend.memory"):
            raise MemoryError()
        exchange.is_admitted = True
        route.in_flight += 1
        self.in_flight += 1
        self.note_use(route, exchange.whole_ns)
        return self.submit(exchange)

    cdef bint is_surplus(self, Exchange exchange, Route route) except -1:
        """Whether the model, or all together, have as many requests under way as they may. Then the exchange has its 503."""
        if route.in_flight >= route.most:
            text, seconds = self.full_text, route.retry_after_s()
        elif self.in_flight >= self.in_flight_most:
            text, seconds = self.full_together_text, self.retry_s
        else:
            return False
        self.overloaded += 1
        exchange.kind = MEDIA_JSON
        exchange.text = text
        exchange.fields = b"retry-after: %d\r\n" % seconds
        exchange.status = 503
        return True

    cdef int submit(self, Exchange exchange) except -1:
        """Gives a request to a worker; where none can take it, it waits, unless its model is gone."""
        if exchange.route.refusal is not None:
            return self.turn_away(exchange)
        if not self.hand_over(exchange):
            if exchange.route.is_gone:
                return self.answer_error(exchange, 404, f"Model not found: {exchange.route.name}")
            exchange.state = QUEUED
            exchange.route.waiting.append(exchange)
            self.wake_if_nowhere(exchange.route)
        return 0

    cdef int wake_if_nowhere(self, Route route) except -1:
        """Tells the supervisor, once, that requests wait for a model that no worker has."""
        if route.waiting and not route.workers and not route.is_woken:
            route.is_woken = True
            self.wake_model(route.model)
        return 0

    cdef bint hand_over(self, Exchange exchange) except -1:
        """Gives a request to the worker with the least under way. False when none can take it now."""
        cdef Route route = exchange.route
        cdef Link *link
        cdef Link *best = NULL
        cdef uint32_t chosen = 0
        cdef uint32_t worker
        cdef Lease *lease = &self.leases[exchange.slot]
        cdef Submission entry
        for worker in route.workers:
            link = &self.links[worker]
            if link.is_up and link.under_way < SUBMIT_MOST and (best is NULL or link.under_way < best.under_way):
                best = link
                chosen = worker
        if best is NULL or fault_strikes(b"ring.full"):
            return False
        memset(&entry, 0, sizeof(entry))
        entry.op = SUBMIT_RUN
        entry.flags = SUBMIT_ALONE if exchange.attempt else 0
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
        crash_point(b"frontend.before_submit")
        if not ring_push(&best.submit, &entry):
            return False
        crash_point(b"frontend.after_submit")
        lease.request_id = exchange.request_id
        lease.is_in_need = False
        exchange.answer.slot = ARENA_NONE
        exchange.state = SUBMITTED
        self.worker_takes(chosen, exchange.slot)
        if doorbell_must_ring(best.bell):
            self.bells += 1
            futex_wake(&best.bell.parked)
        if not self.is_polling:
            self.start_polling()
        return True

    cdef inline int note_use(self, Route route, uint64_t now_ns) except -1:
        """For eviction, which takes the model whose last request is the longest ago."""
        if route.used_ns == 0:
            self.used.append(route)
        route.used_ns = now_ns
        route.asked += 1
        return 0

    def uses(self):
        """[(model, its latest request in CLOCK_MONOTONIC ns, requests under way), ...] of models that had requests since this
        was last asked, or have some under way."""
        cdef Route route
        cdef list found = []
        used, self.used = self.used, []
        for route in used:
            found.append((route.model, route.used_ns, route.in_flight))
            if route.in_flight:
                self.used.append(route)
            else:
                route.used_ns = 0
        return found

    cdef int resubmit(self, Route route, Py_ssize_t most) except -1:
        """Gives up to `most` waiting requests to workers, oldest first; those that no worker can take wait on."""
        cdef Exchange exchange
        while most > 0 and route.waiting:
            exchange = route.waiting.popleft()
            if exchange.state == QUEUED:  # else it was answered or abandoned meanwhile
                most -= 1
                if not self.hand_over(exchange):
                    route.waiting.appendleft(exchange)
                    return 0
        return 0

    cdef int redeliver(self, Exchange exchange, bint was_begun, bint out_of_memory) except -1:
        """The worker that had the request is dead. Only what it had begun counts against the request: what it was not
        begun over cannot have killed it. What was begun runs alone from now on, apart from the one that did."""
        exchange.attempt += was_begun
        if exchange.attempt <= self.retries:
            store_relaxed(&self.marks[exchange.slot].begun, 0)
            return self.submit(exchange)
        text = ("the worker that ran the request died, and so did the one it was given to next"
                if self.retries else "the worker that ran the request died (HEADRACE_RETRIES=0)")
        if out_of_memory:
            return self.answer_error(exchange, 507, text + ": the kernel ended it for want of memory")
        return self.answer_error(exchange, 503, text)

    cdef int leave_route(self, Exchange exchange) except -1:
        """The exchange has no more to do with its model: an answer is there, or nobody waits for one."""
        cdef Route route = exchange.route
        if route is not None:
            exchange.route = None
            if not exchange.is_admitted:
                return 0
            route.in_flight -= 1
            route.ended += 1
            self.in_flight -= 1
            if route.waiting:
                self.resubmit(route, 1)
        return 0

    cdef int abandon(self, Exchange exchange) except -1:
        """The client is gone: nobody waits for this any more. What a worker has, it keeps until it says so."""
        self.abandoned += exchange.state != READY
        if exchange.tally is not None:
            count_status(&exchange.tally.counts, STATUS_GONE)
        if exchange.note is not None:
            self.notes.end(exchange, STATUS_GONE, monotonic_ns(), 0)
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
        if status == 503:
            exchange.fields = b"retry-after: %d\r\n" % (exchange.route.retry_after_s() if exchange.route is not None else 1)
        exchange.state = READY  # first: it may wait at its route, which, when it is left, gives the next of its requests away
        self.leave_route(exchange)
        self.drop_slots(exchange)
        exchange.text = self.render_error(status, text)
        exchange.kind = MEDIA_JSON
        exchange.status = status
        return self.ready(exchange)

    cdef int turn_away(self, Exchange exchange) except -1:
        """The model is set aside: 503, with the reason and when to come again."""
        cdef Route route = exchange.route
        self.answer_error(exchange, 503, route.refusal)
        exchange.fields = self.refusal_fields(route)
        return 0

    cdef bytes refusal_fields(self, Route route):
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t left = route.refused_until_ns - now if route.refused_until_ns > now else 0
        return b"retry-after: %d\r\n" % (left // 1000000000 + 1)

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
            for _ in range(RING_ENTRIES):  # one that never stops to publish does not stop the loop
                if not ring_pop(&link.complete, &completion):
                    break
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
        cdef uint64_t place
        cdef uint64_t after = 0
        if self.needs:
            needs, self.needs = self.needs, []
            for exchange, worker, own, request_id, length in needs:
                self.grant(exchange, worker, own, request_id, length)
        while (connection := self.next_due(after)) is not None:
            place = connection.place
            connection.unblock()
            if connection.place == place:
                after = place  # nothing for it yet; others may need less, or something else
        return 0

    cdef int complete(self, Link *link, Completion *completion) except -1:
        cdef uint32_t slot = completion.slot
        cdef uint32_t worker = <uint32_t>(link - self.links)
        cdef Lease *lease = &self.leases[slot if slot < self.arena.slot_count else 0]
        cdef Exchange exchange
        if (slot >= self.arena.slot_count or lease.generation != completion.generation or lease.worker != worker
                or lease.request_id != completion.request_id
                or not lease.holds & (HOLD_VIEW if completion.op == COMPLETE_RELEASE else HOLD_WORKER)):
            return self.disbelieve(link)
        exchange = <Exchange>lease.exchange if lease.exchange is not NULL else None
        if completion.op == COMPLETE_RELEASE:
            return self.worker_let_go(link, slot)
        if completion.op == COMPLETE_NEED:
            if lease.is_granted or lease.is_in_need:
                return self.disbelieve(link)
            lease.is_in_need = True
            return self.grant(exchange, worker, slot, completion.request_id,
                              align64(completion.fields_length) + align64(completion.body_length))
        # An answer: the worker lets go of the request's slot, but for a view that its model keeps, and of the granted one.
        self.end_work(link, lease.partner if lease.is_granted else slot, completion.flags & COMPLETE_HELD)
        if exchange is None or exchange.state != SUBMITTED:
            return 0
        if completion.op != COMPLETE_DONE or not self.take_answer(exchange, completion):
            self.invalid_completions += 1
            return self.answer_error(exchange, 500, "the worker gave an answer that cannot be sent")
        if exchange.answer.slot != ARENA_NONE and exchange.answer.slot != slot:
            self.exchange_let_go(exchange.answer.slot)  # granted, and not used
        exchange.answer = completion[0]
        exchange.status = completion.status
        exchange.kind = completion.kind
        self.learn_room(exchange)
        if exchange.slot != exchange.answer.slot:
            self.exchange_let_go(exchange.slot)  # nobody asks for the body any more, and others need room for their answers
            exchange.slot = ARENA_NONE
        self.leave_route(exchange)
        return self.ready(exchange)

    cdef int disbelieve(self, Link *link) except -1:
        """A completion names nothing that the worker has. Its memory is spoilt: what it holds may never come back by itself,
        so the supervisor is told to end it."""
        self.invalid_completions += 1
        if not link.is_suspect:
            link.is_suspect = True
            self.on_suspect(<uint32_t>(link - self.links))
        return 0

    cdef int end_work(self, Link *link, uint32_t own, bint is_held) except -1:
        """The worker has answered the request of this slot."""
        cdef uint32_t granted = self.leases[own].partner
        if granted != ARENA_NONE and self.leases[granted].holds & HOLD_WORKER:
            self.worker_let_go(link, granted)
        if is_held:
            return self.worker_looks_on(link, own)
        return self.worker_let_go(link, own)

    cdef bint take_answer(self, Exchange exchange, Completion *completion) except -1:
        """Whether the answer lies within its slot and has field lines that may go out; these are copied, then judged."""
        cdef uint64_t capacity = self.slot_capacity(completion.slot)
        cdef uint64_t length = completion.fields_length
        if (completion.status < 200 or completion.status > 599 or length > FIELDS_MOST
                or completion.offset + length > capacity
                or <uint64_t>completion.body_offset + completion.body_length > capacity):
            return False
        if length:
            exchange.fields = PyBytes_FromStringAndSize(<char *>self.slot_start(completion.slot) + completion.offset, length)
            if not fields_are_clean(<uint8_t *>PyBytes_AS_STRING(exchange.fields), length):
                exchange.fields = b""
                return False
        return True

    cdef int learn_room(self, Exchange exchange) except -1:
        """Sets room aside for answers as large as this model's have been, so that they fit behind the body."""
        cdef Route route = exchange.route
        cdef uint64_t used = align64(exchange.answer.fields_length)
        if exchange.answer.slot != exchange.slot or exchange.answer.body_offset >= exchange.body_length:
            used += align64(exchange.answer.body_length)  # else it is the body itself, or a part of it
        if used > route.room:
            route.room = <uint32_t>min(used, <uint64_t>ROOM_MOST)
        elif used < route.room // 4 and route.room > ROOM_LEAST:
            route.room -= route.room // 64
        return 0

    cdef int grant(self, Exchange exchange, uint32_t worker, uint32_t own, uint64_t request_id, uint64_t length) except -1:
        """Gives a worker a larger slot for an answer, or refuses one that is too large or that nobody waits for."""
        cdef Link *link = &self.links[worker]
        cdef Submission entry
        cdef uint32_t slot = ARENA_NONE
        memset(&entry, 0, sizeof(entry))
        entry.op = SUBMIT_GRANT
        entry.request_id = request_id
        entry.slot = own
        if exchange is not None and exchange.state == SUBMITTED and length <= self.max_response + FIELDS_MOST:
            slot = self.lease_for_answer(length)
            if slot == ARENA_NONE:
                self.needs.append((exchange, worker, own, request_id, length))
                return 0
            entry.slot = slot
            entry.generation = self.leases[slot].generation
            entry.offset64 = <uint32_t>((ARENA_OFFSET + arena_offset(&self.arena, slot)) // 64)
            entry.capacity64 = <uint32_t>(self.slot_capacity(slot) // 64)
        crash_point(b"frontend.before_grant")
        if not ring_push(&link.submit, &entry):
            if slot != ARENA_NONE:
                arena_release(&self.arena, slot)
                if slot == self.surplus_slot:
                    self.surplus_slot = ARENA_NONE
            self.needs.append((exchange, worker, own, request_id, length))
            return 0
        if slot != ARENA_NONE:
            self.take_slot(exchange, slot, self.slot_capacity(slot) if self.leases[own].small_bytes else 0)
            self.count_held(exchange, self.slot_capacity(slot))
            self.leases[slot].request_id = request_id
            self.leases[slot].is_granted = True
            self.leases[slot].partner = own
            self.leases[own].partner = slot
            self.worker_takes(worker, slot)
            exchange.answer.slot = slot
        if doorbell_must_ring(link.bell):
            self.bells += 1
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
                      or self.links[self.busy[0]].under_way > SPIN_OUTSTANDING):
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
