"""One request and its answer, and the models that requests may name."""

# Where an exchange stands.
cdef enum:
    FILLING = 0     # its body is still arriving
    QUEUED = 1      # no worker can take it now
    SUBMITTED = 2   # a worker has it
    READY = 3       # answered: by a worker (answer) or from here (text)
    PENDING = 4     # the supervisor was asked


@cython.final
cdef class Route:
    """A model as a frontend knows it: who can run it, and how much is under way."""

    cdef readonly str name
    cdef readonly uint32_t model
    cdef readonly tuple workers
    cdef uint32_t most          # requests under way; past that 503
    cdef readonly uint32_t in_flight
    cdef uint64_t timeout_ns
    cdef uint32_t room          # for an answer, learned from earlier ones
    cdef object waiting         # exchanges that no worker can take now
    cdef bint is_gone           # no request may name it any more
    cdef str refusal            # why no request is taken at present; None: they are
    cdef uint64_t refused_until_ns
    cdef uint64_t ended         # requests that left since the last sweep
    cdef double ended_per_s     # moving mean over sweeps in which any were under way; 0: none yet
    cdef Tally tally
    cdef uint64_t asked         # requests since tally() was asked
    cdef uint64_t used_ns       # the latest request since uses() was asked; 0: none
    cdef bint is_woken          # the supervisor was told that requests wait though no worker has the model

    cdef unsigned int retry_after_s(self) except? 0:
        """When to come again: the time that what is under way will take at the rate of late, 1 to RETRY_AFTER_MOST_S."""
        if self.ended_per_s <= 0:
            return 1
        return <unsigned int>min(max(self.in_flight / self.ended_per_s + 0.5, 1.0), <double>RETRY_AFTER_MOST_S)

    cdef int learn_rate(self, double seconds) except -1:
        """Takes note how many requests left in these seconds."""
        if self.in_flight or self.ended:
            rate = self.ended / seconds
            self.ended_per_s = rate if self.ended_per_s == 0 else (3 * self.ended_per_s + rate) / 4
            self.ended = 0
        return 0


@cython.final
@cython.freelist(256)
cdef class Exchange:
    """One request and its answer, from the head's last byte to the answer's."""

    cdef Connection connection
    cdef Exchange next
    cdef Route route
    cdef Tally tally            # of the model that was asked for; None: of none
    cdef uint64_t request_id
    cdef uint64_t arrival_ns    # of its head
    cdef uint64_t whole_ns      # when its body was complete
    cdef uint64_t deadline_ns
    cdef uint32_t slot
    cdef uint32_t body_length
    cdef uint32_t head_length
    cdef uint64_t held_bytes    # of slots that were leased for it
    cdef uint16_t attempt       # workers that died after they had begun it
    cdef uint8_t state
    cdef uint8_t kind
    cdef uint8_t accept
    cdef uint8_t codings
    cdef uint8_t method
    cdef bint is_admitted       # it is counted among those under way at its route
    cdef bint keep_alive
    cdef bint is_http10
    cdef Completion answer
    cdef bytes text             # an answer made here: its body
    cdef bytes fields
    cdef uint16_t status
    cdef Note note              # None: it is not told of
    cdef object asked           # what the supervisor is asked once the body is there: (path, query, content type)


cdef Exchange new_exchange(Connection connection):
    cdef Exchange exchange = Exchange.__new__(Exchange)
    exchange.connection = connection
    exchange.slot = ARENA_NONE
    exchange.answer.slot = ARENA_NONE
    exchange.method = HTTP_POST
    exchange.kind = MEDIA_JSON
    exchange.fields = b""
    return exchange


cdef bint fields_are_clean(const uint8_t *lines, size_t length) noexcept:
    """Whether these are whole field lines that may go out, and none of them is the server's own (RFC 9110, section 5).

    The first may be a reason phrase, as response.h has it.
    """
    cdef const uint8_t *end = lines + length
    cdef const uint8_t *colon
    cdef const uint8_t *stop
    cdef const uint8_t *value
    cdef size_t phrase = response_phrase_line(<const char *>lines, length)
    if phrase:
        stop = lines + phrase - 2
        if phrase > PHRASE_MOST or stop[0] != 13:
            return False
        lines += 1
        while lines < stop:
            if (lines[0] < 32 and lines[0] != 9) or lines[0] == 127:
                return False
            lines += 1
        lines += 2
    while lines < end:
        stop = <const uint8_t *>memchr(lines, 13, end - lines)
        if stop is NULL or stop + 1 >= end or stop[1] != 10:
            return False
        colon = <const uint8_t *>memchr(lines, 58, stop - lines)
        if colon is NULL:
            return False
        value = colon + 1
        while value < stop and value[0] == 32:
            value += 1
        if not http_field_ok(lines, colon - lines, value, stop - value) or http_field_is_owned(lines, colon - lines):
            return False
        lines = stop + 2
    return True
