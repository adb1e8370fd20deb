"""Slots and who holds them; workers and how many slots each holds."""

# Who holds a slot.
cdef enum:
    HOLD_EXCHANGE = 1
    HOLD_WORKER = 2     # it owes a completion
    HOLD_VIEW = 4       # it has answered, but its model still looks at the body: it owes a RELEASE

cdef struct Lease:
    void *exchange          # borrowed; NULL once nobody waits for the answer
    uint64_t request_id
    uint32_t generation     # of the lease: raised when the slot becomes free, so that a late completion names nothing; it
                            # may wrap, for the request's id is compared as well
    uint32_t exports
    uint32_t partner        # the slot that was granted for this one's answer, or for whose answer this one was; ARENA_NONE: none
    uint16_t worker
    uint8_t holds
    bint is_granted         # this one was granted for the answer of its partner
    bint is_in_need         # a larger slot was asked for: once is enough
    uint64_t small_bytes    # what it counts among the slots of small requests

cdef struct Link:
    RingPair *pair
    RingEnd submit
    RingEnd complete
    Doorbell *bell
    uint32_t outstanding    # slots that the worker holds
    uint32_t under_way      # those of them for which it owes a completion
    uint32_t busy_at        # place in Frontend.busy while outstanding
    bint is_up
    bint is_suspect         # it has published what names nothing


@cython.final
cdef class SlotView:
    """Bytes of a slot on loan to a transport that could not send them all at once."""

    cdef Frontend frontend
    cdef uint32_t slot
    cdef uint8_t *start
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, True, flags)
        self.frontend.leases[self.slot].exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.frontend.leases[self.slot].exports -= 1
        self.frontend.free_if_idle(self.slot)


cdef class Slots(Lines):
    """The books of the arena: which slot is leased to which exchange, which worker has it, which buffers are out."""

    cdef SegmentHeader *header
    cdef uint8_t *base
    cdef uint64_t length
    cdef uint8_t *board
    cdef SlotMark *marks
    cdef int segment_fd
    cdef Arena arena
    cdef Lease *leases
    cdef Link *links
    cdef uint32_t *busy             # workers that hold slots
    cdef uint32_t busy_count
    cdef HttpHead head              # the one that was parsed last
    cdef uint32_t surplus_slot      # that was leased over the arena's limit; ARENA_NONE: there is none
    cdef uint64_t max_request
    cdef uint64_t copied_bytes      # of bodies and answers, in user space

    def __dealloc__(self):
        if self.base is not NULL:
            unmap_shared(self.base, self.length)
        if self.board is not NULL:
            unmap_shared(self.board, BOARD_BYTES)
        free(self.leases)
        free(self.links)
        free(self.busy)

    cdef inline uint8_t *slot_start(self, uint32_t slot) noexcept:
        return self.base + ARENA_OFFSET + arena_offset(&self.arena, slot)

    cdef inline uint64_t slot_capacity(self, uint32_t slot) noexcept:
        return arena_class_of(&self.arena, slot).stride

    cdef uint32_t lease(self, uint64_t needed) except? 0xfffffffe:
        """A slot, if need be at the price of warm ones of other sizes. ARENA_NONE when the arena is full."""
        if fault_strikes(b"slot.lease"):
            return ARENA_NONE
        cdef uint32_t slot = arena_lease(&self.arena, needed)
        if slot == ARENA_NONE and self.reclaim():
            slot = arena_lease(&self.arena, needed)
        return slot

    cdef uint32_t lease_for_answer(self, uint64_t needed) except? 0xfffffffe:
        """A slot for an answer: one at a time may go over the arena's limit. Else requests that hold the whole arena, and all need
        room for their answers, would wait for each other."""
        cdef uint32_t slot = self.lease(needed)
        if slot == ARENA_NONE and self.surplus_slot == ARENA_NONE:
            slot = self.surplus_slot = arena_lease_within(&self.arena, needed, ~<uint64_t>0)
        return slot

    cdef bint reclaim(self) except -1:
        """Gives all pages back that no leased slot needs."""
        cdef ArenaRange range_
        cdef ArenaClass *k
        cdef uint32_t index
        cdef bint found = False
        for index in range(self.arena.class_count):
            k = &self.arena.classes[index]
            if k.warm == 0 or k.trimming:
                continue
            range_ = arena_trim_begin(&self.arena, k, 0)
            if range_.length:
                punch_hole(self.segment_fd, ARENA_OFFSET + range_.offset, range_.length)
            if k.trimming:
                found = True
                arena_trim_end(k)
        return found

    cdef bint lease_for(self, Exchange exchange, Connection connection, uint8_t *data, size_t behind, Route route) except -1:
        """Leases a slot for a request whose head is complete, and puts the head at its end. False: it has to wait in line."""
        cdef HttpHead *head = &self.head
        cdef uint64_t head_length = head.head_length - head.skipped
        cdef uint64_t added = exchange.note.head_added if exchange.note is not None else 0
        cdef uint64_t body = head.content_length
        cdef uint64_t place = connection.place or self.next_id
        cdef uint64_t needed, capacity
        cdef uint32_t slot = ARENA_NONE
        cdef uint8_t *target
        cdef bint is_incomplete = body > behind or head.flags & HTTP_CHUNKED
        cdef int line
        if head.flags & HTTP_CHUNKED:
            body = REST_STEP
        needed = align64(body) + align64(head_length + added) + route.room
        line = LINE_LARGE if body > READ_BUFFER else LINE_SMALL if is_incomplete else LINE_WHOLE
        if turns_is_due(&self.turns, line, place, needed):
            slot = self.lease(needed)
        if slot == ARENA_NONE:
            self.stand(connection, line, place, needed)
            return False
        capacity = self.slot_capacity(slot)
        self.take_slot(exchange, slot, 0 if line == LINE_LARGE else capacity)
        self.count_held(exchange, capacity)
        exchange.slot = slot
        exchange.head_length = <uint32_t>(head_length + added)
        target = self.slot_start(slot) + capacity - align64(head_length + added)
        memcpy(target, data + head.skipped, head_length)
        if exchange.note is not None:
            exchange.note.pass_on(target, head_length + added)
        if is_incomplete:
            self.count_incomplete(connection, line, capacity)
        return True

    cdef bint grow(self, Connection connection, size_t more) except -1:
        """Room for more of a chunked body: in its slot, or in one twice as large that it moves to. False: it has to wait in line.

        One that has grown large is not held up by others in line, for they may wait for what it has.
        """
        cdef Exchange exchange = connection.filling
        cdef uint32_t slot = exchange.slot
        cdef uint32_t larger = ARENA_NONE
        cdef uint64_t capacity = self.slot_capacity(slot)
        cdef uint64_t needed = align64(exchange.body_length + more) + align64(exchange.head_length) + exchange.route.room
        cdef uint64_t place = connection.place or exchange.request_id
        cdef uint64_t own = connection.incomplete_bytes
        cdef int line = LINE_LARGE if exchange.body_length + more > READ_BUFFER else LINE_SMALL
        cdef uint8_t *target
        if needed <= capacity:
            return True
        needed = min(max(needed, 2 * capacity), align64(self.max_request) + align64(exchange.head_length) + exchange.route.room)
        self.turns.incomplete_bytes[connection.incomplete_line] -= own
        if (turns_has_share(&self.turns, line, needed) if connection.incomplete_line == LINE_LARGE
                else turns_is_due(&self.turns, line, place, needed)):
            larger = self.lease(needed)
        self.turns.incomplete_bytes[connection.incomplete_line] += own
        if larger == ARENA_NONE:
            self.stand(connection, line, place, needed)
            return False
        needed = self.slot_capacity(larger)
        target = self.slot_start(larger)
        memcpy(target, self.slot_start(slot), exchange.body_length)
        self.copied_bytes += exchange.body_length
        exchange.tally.counts.copied_bytes += exchange.body_length
        memcpy(target + needed - align64(exchange.head_length),
               self.slot_start(slot) + capacity - align64(exchange.head_length), exchange.head_length)
        self.take_slot(exchange, larger, 0 if line == LINE_LARGE else needed)
        self.count_held(exchange, needed - capacity)
        self.exchange_let_go(slot)
        exchange.slot = larger
        self.count_incomplete(connection, line, needed)
        if connection.place:
            self.leave_line(connection)
            connection.deadline_ns = connection.frontend.now_ns + connection.frontend.body_timeout_ns
        return True

    cdef int take_slot(self, Exchange exchange, uint32_t slot, uint64_t small_bytes) except -1:
        cdef Lease *lease = &self.leases[slot]
        lease.small_bytes = small_bytes
        self.turns.small_bytes += small_bytes
        lease.exchange = <void *>exchange
        lease.holds = HOLD_EXCHANGE
        lease.partner = ARENA_NONE
        lease.is_granted = lease.is_in_need = False
        return 0

    cdef int count_held(self, Exchange exchange, uint64_t more) except -1:
        exchange.held_bytes += more
        if exchange.connection is not None:
            exchange.connection.held_bytes += more
        return 0

    cdef int exchange_let_go(self, uint32_t slot) except -1:
        self.leases[slot].exchange = NULL
        self.leases[slot].holds &= ~HOLD_EXCHANGE
        return self.free_if_idle(slot)

    cdef int drop_slots(self, Exchange exchange) except -1:
        """An exchange has no more use for its slots."""
        cdef uint32_t own = exchange.slot
        cdef uint32_t granted = exchange.answer.slot
        exchange.slot = exchange.answer.slot = ARENA_NONE
        if own != ARENA_NONE:
            if self.leases[own].holds & HOLD_WORKER:  # nobody waits for what it would answer
                store_relaxed(&self.marks[own].cancelled, self.leases[own].request_id)
            self.exchange_let_go(own)
        if granted != ARENA_NONE and granted != own:
            self.exchange_let_go(granted)
        return 0

    cdef int free_if_idle(self, uint32_t slot) except -1:
        cdef Lease *lease = &self.leases[slot]
        if lease.holds == 0 and lease.exports == 0:
            lease.generation += 1
            self.turns.small_bytes -= lease.small_bytes
            lease.small_bytes = 0
            if lease.partner != ARENA_NONE:
                self.leases[lease.partner].partner = ARENA_NONE
            if slot == self.surplus_slot:
                self.surplus_slot = ARENA_NONE
            if not arena_release(&self.arena, slot):
                raise AssertionError(f"slot {slot} was not leased")
        return 0

    cdef int worker_takes(self, uint32_t worker, uint32_t slot) except -1:
        cdef Link *link = &self.links[worker]
        self.leases[slot].worker = <uint16_t>worker
        self.leases[slot].holds |= HOLD_WORKER
        if link.outstanding == 0:
            link.busy_at = self.busy_count
            self.busy[self.busy_count] = worker
            self.busy_count += 1
        link.outstanding += 1
        link.under_way += 1
        return 0

    cdef int worker_looks_on(self, Link *link, uint32_t slot) except -1:
        """The worker has answered, and its model still has a view of the body."""
        self.leases[slot].holds = self.leases[slot].holds & ~HOLD_WORKER | HOLD_VIEW
        link.under_way -= 1
        return 0

    cdef int worker_let_go(self, Link *link, uint32_t slot) except -1:
        cdef uint32_t last
        if self.leases[slot].holds & HOLD_WORKER:
            link.under_way -= 1
        self.leases[slot].holds &= ~(HOLD_WORKER | HOLD_VIEW)
        link.outstanding -= 1
        if link.outstanding == 0:
            self.busy_count -= 1
            last = self.busy[self.busy_count]
            self.busy[link.busy_at] = last
            self.links[last].busy_at = link.busy_at
        return self.free_if_idle(slot)

    def _held_slots(self):
        """Numbers of all leased slots."""
        cdef ArenaClass *k
        cdef uint32_t c, index
        found = []
        for c in range(self.arena.class_count):
            k = &self.arena.classes[c]
            if k.leased:
                for index in range(k.warm):
                    if not k.free_words[index // 64] >> (index % 64) & 1:
                        found.append(k.first + index)
        return found

    def trim_begin(self):
        """Takes slots that no recent period needed out of use. Returns (class, offset in the segment, length) of each range,
        for `punch` on another thread and then `trim_end`. To be called once a period of some seconds."""
        cdef ArenaRange found
        cdef ArenaClass *k
        cdef uint32_t index
        ranges = []
        for index in range(self.arena.class_count):
            k = &self.arena.classes[index]
            if k.warm:
                found = arena_trim_begin(&self.arena, k, arena_next_period(k))
                if k.trimming:
                    ranges.append((index, ARENA_OFFSET + found.offset, found.length))
        return ranges

    def punch(self, ranges):
        """Gives the pages of trimmed ranges back to the kernel. Needs no other state, so may run on any thread."""
        cdef uint64_t offset, length
        cdef int fd = self.segment_fd
        for _, offset, length in ranges:
            if length:
                with nogil:
                    punch_hole(fd, offset, length)
