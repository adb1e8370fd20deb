"""Requests that wait for one model, and when they become a batch."""

cdef enum:
    SAMPLES = 128         # batches that a tuner learns from at once; or, of slow batches, fewer after a while:
    FEW_SAMPLES = 8
    LEARN_NS = 200000000


@cython.final
cdef class ModelQueue:
    """Requests that wait for one model, oldest first, and the rule by which they become batches.

    A batch takes what waits, up to `most` members and `most_bytes` of bodies (one larger member runs alone). While fewer than
    `crowd` wait it is put off until the oldest has waited for `delay_ns` or, with a linger, until nothing has come or gone for
    `linger_ns`. A tuner sets these four anew from samples (headrace.tuner says what they are); without one they stay.
    """

    cdef object servable
    cdef object waiting
    cdef uint64_t waiting_bytes  # of bodies
    cdef Py_ssize_t lone  # of those that wait, how many are to run alone
    cdef uint32_t model
    cdef Py_ssize_t most
    cdef uint64_t most_bytes
    cdef Py_ssize_t crowd
    cdef uint64_t linger_ns
    cdef uint64_t delay_ns
    cdef object tuner
    cdef list samples
    cdef uint64_t learned_ns
    # The batch that runs, or ran last; times are CLOCK_MONOTONIC.
    cdef Py_ssize_t members
    cdef Py_ssize_t depth  # of the queue when it was formed
    cdef uint64_t oldest_ns  # arrival of its oldest member
    cdef uint64_t begun_ns
    cdef uint64_t ended_ns  # also without a tuner
    cdef uint64_t waited_ns
    cdef uint64_t turnaround_ns
    cdef uint64_t asking_ns  # end of the last batch, 0 once a request came after it
    cdef uint64_t unasked_ns  # end of the batch before that, likewise
    cdef uint64_t last_arrival_ns

    cdef int limit(self) except -1:
        """Takes over the limits that the servable has now."""
        self.most = self.servable.max_batch_size
        self.most_bytes = self.servable.max_batch_bytes
        self.delay_ns = self.servable.max_batch_delay_ns
        self.tuner = self.servable.tuner
        self.crowd = self.most if self.delay_ns and self.tuner is None else 0
        self.linger_ns = 0
        self.samples = []
        return 0

    cdef int add(self, Request request) except -1:
        cdef uint64_t arrival = request.entry.arrival_ns
        self.waiting.append(request)
        self.waiting_bytes += request.entry.body_length
        self.lone += request.entry.flags & SUBMIT_ALONE
        if self.tuner is not None:
            # Rings are looked into after a batch, so what came during it is seen when it has ended.
            if 0 < self.unasked_ns < arrival:
                self.turnaround_ns = arrival - self.unasked_ns
                self.unasked_ns = 0
            if 0 < self.asking_ns < arrival:
                self.turnaround_ns = arrival - self.asking_ns
                self.asking_ns = 0
            self.last_arrival_ns = arrival
        return 0

    cdef uint64_t due(self):
        """When the next batch is to be formed of what waits; 0 for now.

        Whoever runs alone is given no company, so neither it nor those before it, who will not have more either, wait for any.
        """
        cdef Py_ssize_t count = len(self.waiting)
        if count >= self.crowd or self.waiting_bytes >= self.most_bytes or self.lone:
            return 0
        cdef uint64_t due = (<Request>self.waiting[0]).entry.arrival_ns + self.delay_ns
        if self.linger_ns:
            due = min(due, max(self.last_arrival_ns, self.ended_ns) + self.linger_ns)
        return due

    cdef Request pop(self):
        cdef Request request = self.waiting.popleft()
        self.waiting_bytes -= request.entry.body_length
        self.lone -= request.entry.flags & SUBMIT_ALONE
        return request

    cdef int begin(self, list batch, Py_ssize_t depth, uint64_t now) except -1:
        """Takes note of a batch; all of it is for the tuner."""
        self.members = len(batch)
        self.depth = depth
        self.oldest_ns = (<Request>batch[0]).entry.arrival_ns
        self.begun_ns = now
        self.waited_ns = now - min(now, max(self.oldest_ns, self.ended_ns))
        return 0

    cdef int end(self, uint64_t now) except -1:
        self.ended_ns = now
        self.unasked_ns = self.asking_ns
        self.asking_ns = now
        return 0

    cdef int learn(self) except -1:
        """After a batch and a look into the rings: makes a sample of it, and now and then a new plan of all samples."""
        self.samples.append((
            self.members, self.depth, len(self.waiting), self.ended_ns - self.begun_ns, self.ended_ns - self.oldest_ns,
            self.waited_ns, self.turnaround_ns,
        ))
        self.turnaround_ns = 0
        if len(self.samples) >= SAMPLES or (len(self.samples) >= FEW_SAMPLES and self.ended_ns - self.learned_ns > LEARN_NS):
            self.most, self.crowd, self.linger_ns, self.delay_ns = self.tuner.learn(self.samples)
            self.samples.clear()
            self.learned_ns = self.ended_ns
        return 0
