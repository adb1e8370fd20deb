"""The load generator's core (load.h) and its histogram, for Python. engine/headrace/loadgen.py is what to use."""

import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from http cimport HttpLimits, http_limits_default
from syscalls cimport monotonic_ns


cdef extern from "load.h" nogil:
    enum:
        HISTOGRAM_BUCKETS
        LOAD_SAMPLE
        LOAD_DONE
        LOAD_FAILED
        LOAD_CLOSED_LOOP
        LOAD_CONSTANT
        LOAD_POISSON
        LOAD_OUTCOMES

    ctypedef struct CHistogram "Histogram":
        uint64_t count
        uint64_t sum
        uint64_t min
        uint64_t max
        uint64_t buckets[1]

    void histogram_clear(CHistogram *h)
    uint64_t histogram_lower(uint32_t index)
    uint64_t histogram_width(uint32_t index)
    void histogram_add(CHistogram *h, uint64_t value, uint64_t count)
    void histogram_merge(CHistogram *h, const CHistogram *other)
    uint64_t histogram_ranked(const CHistogram *h, uint64_t rank)

    int ANSWER_BAD, ANSWER_MORE, ANSWER_DATA, ANSWER_WHOLE

    ctypedef struct Answer:
        uint16_t status
        uint8_t closes

    void answer_start(Answer *a)
    void answer_free(Answer *a)
    int answer_has_begun(const Answer *a)
    int answer_next(Answer *a, const HttpLimits *limits, const uint8_t *buf, size_t len, size_t *used,
                    const uint8_t **data, size_t *data_len)
    int answer_end(Answer *a)

    ctypedef struct LoadRequest:
        const uint8_t *head
        const uint8_t *body
        const uint8_t *expected
        size_t head_bytes
        size_t body_bytes
        size_t expected_bytes
        int is_compared
        uint32_t alias
        double keep
        uint64_t sent
        uint64_t good

    ctypedef struct LoadCounts:
        uint64_t by_outcome[1]
        uint64_t sent

    ctypedef struct CLoad "Load":
        int loop
        double gap_ns
        uint64_t warm_up_ns
        uint64_t duration_ns
        uint64_t grace_ns
        uint64_t timeout_ns
        uint64_t keep_every
        uint64_t keep_max_bytes
        LoadRequest *requests
        uint32_t request_count
        int has_begun
        uint64_t begin_ns
        uint64_t random
        uint8_t *sample
        size_t sample_bytes
        uint32_t sample_request
        uint16_t sample_status
        LoadCounts warm_up
        LoadCounts measured
        uint64_t statuses[600]
        uint64_t ended_good
        uint64_t received_bytes
        uint64_t sent_bytes
        uint64_t connect_errors
        uint64_t reconnects
        int last_errno
        CHistogram good
        CHistogram refused
        CHistogram interval
        CHistogram lateness

    int load_address(CLoad *l, int family, const char *host, uint16_t port)
    CLoad *load_create(uint32_t connection_count, uint32_t request_count)
    void load_destroy(CLoad *l)
    void load_judge(CLoad *l, int is_right)
    int load_run(CLoad *l, uint64_t until_ns)

OUTCOMES = ("good", "refused", "wrong", "lost", "malformed", "late", "unsent")
LOOPS = {"closed": LOAD_CLOSED_LOOP, "constant": LOAD_CONSTANT, "poisson": LOAD_POISSON}


cdef class Histogram:
    """How often which duration was seen, in nanoseconds; each is known to within 1/256 of itself. 58 KiB, whatever it holds."""

    cdef CHistogram h

    def __cinit__(self):
        histogram_clear(&self.h)

    def add(self, unsigned long long value_ns, unsigned long long count=1):
        """Enter a duration, `count` times."""
        histogram_add(&self.h, value_ns, count)

    def merge(self, Histogram other not None):
        """Add all of another histogram to this one."""
        histogram_merge(&self.h, &other.h)

    @property
    def count(self):
        return self.h.count

    @property
    def min_ns(self):
        """The least duration, exactly; 0 when there is none."""
        return self.h.min

    @property
    def max_ns(self):
        """The greatest duration, exactly; 0 when there is none."""
        return self.h.max

    @property
    def mean_ns(self):
        """Of the exact durations; 0.0 when there is none."""
        return self.h.sum / <double>self.h.count if self.h.count else 0.0

    def ranked_ns(self, unsigned long long rank):
        """The duration of this rank, 1 (the least) to count. Raises IndexError for another."""
        if not 1 <= rank <= self.h.count:
            raise IndexError(f"rank {rank} is not from 1 to {self.h.count}")
        return histogram_ranked(&self.h, rank)

    def buckets(self):
        """(least value, width, count) of each bucket that is not empty, from the least."""
        return [
            (histogram_lower(i), histogram_width(i), self.h.buckets[i])
            for i in range(HISTOGRAM_BUCKETS)
            if self.h.buckets[i]
        ]

    def dump(self):
        """All of it as a JSON-able object, which load() reads."""
        counts = {str(i): self.h.buckets[i] for i in range(HISTOGRAM_BUCKETS) if self.h.buckets[i]}
        return {"count": self.h.count, "sum_ns": self.h.sum, "min_ns": self.h.min, "max_ns": self.h.max, "counts": counts}

    @staticmethod
    def load(dict dumped not None):
        """The histogram that was dumped. Raises ValueError for what dump() does not give."""
        cdef Histogram found = Histogram()
        cdef unsigned long long total = 0
        cdef unsigned long index
        try:
            found.h.count, found.h.sum = dumped["count"], dumped["sum_ns"]
            found.h.min, found.h.max = dumped["min_ns"], dumped["max_ns"]
            for key, count in dumped["counts"].items():
                index = int(key)
                if index >= HISTOGRAM_BUCKETS:
                    raise ValueError(f"no bucket {index}")
                found.h.buckets[index] = count
                total += found.h.buckets[index]
        except (LookupError, TypeError, OverflowError, AttributeError, ValueError) as error:
            raise ValueError(f"no dumped histogram: {error!r}") from None
        if total != found.h.count:
            raise ValueError(f"no dumped histogram: its buckets hold {total} of {found.h.count}")
        return found


cdef class Load:
    """One run of load against one address; see loadgen.Plan for what the arguments mean, which it has checked.

    requests: (head, body, expected body or None, keep, alias) each; head holds request line and fields and the blank line.
    One is drawn evenly, and with probability 1 - keep exchanged for number `alias`.
    check: called with (index of the request, status, body) for each `check_every`th good answer; true when it is right.
    """

    cdef CLoad *l
    cdef list held  # what the requests point into
    cdef object check
    cdef bint is_running

    def __cinit__(
        self,
        int family,
        str host,
        uint16_t port,
        list requests,
        *,
        str loop,
        uint32_t connections,
        double rate,
        uint64_t warm_up_ns,
        uint64_t duration_ns,
        uint64_t grace_ns,
        uint64_t timeout_ns,
        uint64_t seed,
        object check=None,
        uint64_t check_every=0,
        uint64_t check_max_bytes=0,
    ):
        cdef CLoad *l = load_create(connections, len(requests))
        if l is NULL:
            raise OSError(errno, os.strerror(errno))
        self.l = l
        l.loop = LOOPS[loop]
        l.gap_ns = 1e9 / rate if rate else 0
        l.warm_up_ns, l.duration_ns = warm_up_ns, duration_ns
        l.grace_ns, l.timeout_ns = grace_ns, timeout_ns
        l.random = seed
        l.keep_every, l.keep_max_bytes = check_every if check is not None else 0, check_max_bytes
        self.check = check
        self.held = requests
        self._take(requests)
        if load_address(l, family, host.encode(), port) < 0:
            raise ValueError(f"{host!r} is no address of family {family}")

    def __dealloc__(self):
        if self.l is not NULL:
            load_destroy(self.l)

    cdef int _take(self, list requests) except -1:
        cdef LoadRequest *r
        cdef Py_ssize_t i
        cdef double keep
        cdef uint32_t alias
        cdef bytes head, body, expected
        for i, (head, body, expected, keep, alias) in enumerate(requests):
            r = &self.l.requests[i]
            r.head, r.head_bytes = <const uint8_t *><const char *>head, len(head)
            r.body, r.body_bytes = <const uint8_t *><const char *>body, len(body)
            r.is_compared = expected is not None
            if expected is not None:
                r.expected, r.expected_bytes = <const uint8_t *><const char *>expected, len(expected)
            if alias >= len(requests):
                raise ValueError(f"request {i}: there is no request {alias} to exchange it for")
            r.keep, r.alias = keep, alias
        return 0

    def run(self, uint64_t slice_ns):
        """Go on for a slice of time. True when the run is over: its time is up and no answer is waited for.

        Raises ConnectionError when no connection could be made at the start, whatever `check` raises, and RuntimeError
        when it runs already.
        """
        if self.is_running:
            raise RuntimeError("this load runs already")
        self.is_running = True
        try:
            return self._run(monotonic_ns() + slice_ns)
        finally:
            self.is_running = False

    cdef bint _run(self, uint64_t until_ns) except -1:
        cdef CLoad *l = self.l
        cdef int code
        while True:
            with nogil:
                code = load_run(l, until_ns)
            if code == LOAD_SAMPLE:
                body = (<const char *>l.sample)[:l.sample_bytes] if l.sample_bytes else b""
                is_right = False
                try:
                    is_right = bool(self.check(l.sample_request, l.sample_status, body))
                finally:
                    load_judge(l, is_right)
            elif code == LOAD_FAILED:
                if not l.has_begun:
                    raise ConnectionError(errno, os.strerror(errno))
                raise OSError(errno, os.strerror(errno))
            else:
                return code == LOAD_DONE

    def take_interval(self):
        """The latencies of good answers since the last call, or the start; warm-up included."""
        cdef Histogram found = Histogram()
        found.h = self.l.interval
        histogram_clear(&self.l.interval)
        return found

    def histograms(self):
        """Measured so far: "latency" of good answers, of "refused" (and wrong) ones, and "lateness" of our own sends."""
        cdef Histogram good = Histogram(), refused = Histogram(), lateness = Histogram()
        good.h, refused.h, lateness.h = self.l.good, self.l.refused, self.l.lateness
        return {"latency": good, "refused": refused, "lateness": lateness}

    def counts(self):
        """What became of the requests so far: outcomes of the warm-up and of the measured time, and what went on beside."""
        cdef CLoad *l = self.l
        return {
            "warm_up": {word: l.warm_up.by_outcome[i] for i, word in enumerate(OUTCOMES)} | {"sent": l.warm_up.sent},
            "measured": {word: l.measured.by_outcome[i] for i, word in enumerate(OUTCOMES)} | {"sent": l.measured.sent},
            "statuses": {i: l.statuses[i] for i in range(600) if l.statuses[i]},
            "requests": [(l.requests[i].sent, l.requests[i].good) for i in range(l.request_count)],
            "ended_good": l.ended_good,
            "sent_bytes": l.sent_bytes,
            "received_bytes": l.received_bytes,
            "connect_errors": l.connect_errors,
            "connect_error": os.strerror(l.last_errno) if l.last_errno else "",
            "reconnects": l.reconnects,
            "elapsed_ns": monotonic_ns() - l.begin_ns if l.has_begun else 0,
        }


def read_answers(list pieces not None):
    """Answers that came in these pieces on one connection, which then ended: [(status, body, whether it closes)].

    What the generator does with bytes, without the sockets. Raises ValueError for what is no HTTP or not whole.
    """
    cdef Answer a
    cdef HttpLimits limits
    cdef const uint8_t *data = NULL
    cdef size_t used = 0, data_bytes = 0
    cdef int code
    found, body = [], b""
    memset(&a, 0, sizeof(a))
    http_limits_default(&limits)
    answer_start(&a)
    try:
        for piece in pieces:
            while piece:
                code = answer_next(&a, &limits, <const uint8_t *><const char *>piece, len(piece), &used, &data, &data_bytes)
                if code == ANSWER_BAD:
                    raise ValueError("no HTTP answer")
                body += (<const char *>data)[:data_bytes] if data_bytes else b""
                piece = piece[used:]
                if code == ANSWER_DATA and not piece:
                    code = answer_next(&a, &limits, data, 0, &used, &data, &data_bytes)
                if code == ANSWER_WHOLE:
                    found.append((a.status, body, bool(a.closes)))
                    body = b""
                    answer_start(&a)
        if answer_has_begun(&a):
            if answer_end(&a) == ANSWER_BAD:
                raise ValueError("the answer is not whole")
            found.append((a.status, body, bool(a.closes)))
        return found
    finally:
        answer_free(&a)
