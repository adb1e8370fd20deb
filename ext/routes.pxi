"""Which models there are and who can run them, as the supervisor says; workers that come and go."""


cdef class Routes(Dispatch):
    """Keeps the table of routes and the links to workers, and sees to requests that wait for either."""

    cdef Route default_route

    def set_route(self, str name, unsigned int model, workers, unsigned int most, unsigned long long timeout_ms, bint is_default,
                  str refusal="", unsigned long long retry_after_s=0, bint is_named=True):
        """A model that requests may name, and the workers that hold it. With no workers its requests wait; with a *refusal*
        they are answered 503 with that text. is_named: it is counted by itself, rather than with all the rest."""
        cdef Exchange exchange
        key = name.encode()
        cdef Route route = self.routes.get(key)
        if route is None or route.model != model:
            if route is not None:
                self.remove_route(name)
            route = Route.__new__(Route)
            route.name = name
            route.model = model
            route.room = ROOM_LEAST
            route.waiting = deque()
            self.routes[key] = route
        for worker in workers:
            self._worker(worker)
        route.workers = tuple(workers)
        if not is_named:
            self.tallies.leave(name)
        route.tally = self.tallies.of(name, is_named)
        route.is_woken = False
        route.most = most
        route.timeout_ns = timeout_ms * 1000000
        route.refusal = refusal or None
        route.refused_until_ns = monotonic_ns() + retry_after_s * 1000000000
        if is_default:
            self.default_route = route
        elif self.default_route is route:
            self.default_route = None
        if route.refusal is not None:
            waiting, route.waiting = route.waiting, deque()
            for exchange in waiting:
                if exchange.state == QUEUED and exchange.connection is not None:
                    self.turn_away(exchange)
            self.flush_dirty()
        self.resubmit(route, route.most)
        self.wake_if_nowhere(route)

    def remove_route(self, str name):
        """No new request may name the model; those under way go on."""
        cdef Route route = self.routes.pop(name.encode(), None)
        if route is None:
            return
        if self.default_route is route:
            self.default_route = None
        route.is_gone = True
        self.tallies.leave(name)
        self.answer_waiting(route, 404, f"Model not found: {name}")

    def refuse(self, str name, unsigned int model, unsigned int status, str text):
        """The model cannot be loaded again now: answers what waits for it. The next request has it tried anew."""
        cdef Route route = self.routes.get(name.encode())
        if route is not None and route.model == model:
            route.is_woken = False
            self.answer_waiting(route, status, text)

    cdef int answer_waiting(self, Route route, unsigned int status, str text) except -1:
        cdef Exchange exchange
        waiting, route.waiting = route.waiting, deque()
        for exchange in waiting:
            if exchange.state == QUEUED:
                self.answer_error(exchange, status, text)
        self.flush_dirty()
        return 0

    def worker_up(self, unsigned int worker):
        """A worker is attached: its rings may be used."""
        cdef Link *link = &self.links[self._worker(worker)]
        link.pair = <RingPair *>(self.base + RINGS_OFFSET) + worker
        link.bell = &(<WorkerPage *>(self.board + sizeof(BoardHeader)) + worker).bell
        ring_attach(&link.submit, &link.pair.submit, &link.pair.submissions[0], True)
        ring_attach(&link.complete, &link.pair.complete, &link.pair.completions[0], False)
        link.is_up = True
        link.is_suspect = False
        cdef Route route
        for route in self.routes.values():
            self.resubmit(route, route.most)

    def worker_down(self, unsigned int worker, bint out_of_memory=False):
        """A worker was reaped: takes its last completions, then what it left undone goes elsewhere or is answered.

        out_of_memory: the kernel ended it for want of memory, so what cannot be delivered again is 507 rather than 503.
        """
        cdef Link *link = &self.links[self._worker(worker)]
        cdef Lease *lease
        cdef Exchange exchange
        cdef uint32_t slot
        cdef list orphans = []  # (Exchange, whether it was begun)
        if not link.is_up:
            return
        self.drain()
        link.is_up = False
        for slot in self._held_slots():
            lease = &self.leases[slot]
            if lease.holds & (HOLD_WORKER | HOLD_VIEW) and lease.worker == worker:
                exchange = <Exchange>lease.exchange if lease.exchange is not NULL else None
                if exchange is not None and lease.is_granted:
                    exchange.answer.slot = ARENA_NONE  # granted for an answer that never came
                    lease.exchange = NULL
                    lease.holds &= ~HOLD_EXCHANGE
                elif exchange is not None and exchange.state == SUBMITTED:
                    orphans.append((exchange, load_relaxed(&self.marks[slot].begun) == exchange.request_id))
                self.worker_let_go(link, slot)
        self.needs = [need for need in self.needs if need[1] != worker]
        ring_reset(&link.pair.submit)
        ring_reset(&link.pair.complete)
        self.redelivered += len(orphans)
        for exchange, was_begun in orphans:
            self.redeliver(exchange, was_begun, out_of_memory)
        self.flush_dirty()

    cdef unsigned int _worker(self, unsigned int worker) except? 0xffffffff:
        if worker >= MAX_WORKERS:
            raise ValueError(f"worker {worker} is not below {MAX_WORKERS}")
        return worker
