"""A frontend's shared memory as a worker sees it, and views of what lies in its slots."""


@cython.final
cdef class Segment:
    """One frontend's shared memory as a worker sees it: mapped twice, once read-only for what models get to see."""

    cdef SegmentHeader *header
    cdef uint8_t *base
    cdef uint8_t *bodies
    cdef SlotMark *marks
    cdef uint64_t length
    cdef RingEnd submit
    cdef RingEnd complete
    cdef int eventfd
    cdef bint is_lost  # its frontend is dead and has a successor with a segment of its own: nobody reads answers here
    cdef bint unrung  # completions were published since the frontend's doorbell was last looked at
    cdef object backlog  # completions that found the ring full, oldest first

    def __cinit__(self, int fd, int eventfd, unsigned int frontend, unsigned int worker):
        cdef int64_t length = file_bytes(fd)
        self.eventfd = -1
        if length < <int64_t>sizeof(SegmentHeader):
            raise ValueError(f"descriptor {fd} is no segment: {length} bytes")
        self.length = length
        self.eventfd = dup(eventfd)  # lives as long as the segment, which a view that is held keeps
        self.base = <uint8_t *>map_shared(fd, self.length, True)
        self.bodies = <uint8_t *>map_shared(fd, self.length, False)
        if self.base is NULL or self.bodies is NULL:
            raise OSError(f"mmap failed for a segment of {length} bytes")
        self.header = <SegmentHeader *>self.base
        if (self.header.magic != LAYOUT_MAGIC or self.header.version != LAYOUT_VERSION
                or self.header.segment_bytes != self.length or self.header.frontend != frontend):
            raise ValueError(f"not the segment of frontend {frontend}: the processes come from different builds")
        self.marks = <SlotMark *>(self.base + MARKS_OFFSET)
        cdef RingPair *pair = <RingPair *>(self.base + RINGS_OFFSET) + worker
        ring_attach(&self.submit, &pair.submit, &pair.submissions[0], False)
        ring_attach(&self.complete, &pair.complete, &pair.completions[0], True)
        self.backlog = deque()

    def __dealloc__(self):
        if self.base is not NULL:
            unmap_shared(self.base, self.length)
        if self.bodies is not NULL:
            unmap_shared(self.bodies, self.length)
        if self.eventfd >= 0:
            close(self.eventfd)

    cdef int push(self, Completion *completion) except -1:
        """Publishes a completion; one that finds the ring full waits its turn, the worker does not."""
        self.unrung = True
        if self.backlog:
            self.flush_backlog()
        if self.backlog or not ring_push(&self.complete, completion):
            self.backlog.append(PyBytes_FromStringAndSize(<char *>completion, sizeof(Completion)))
        return 0

    cdef int flush_backlog(self) except -1:
        while self.backlog:
            entry = self.backlog[0]
            if not ring_push(&self.complete, PyBytes_AS_STRING(entry)):
                return 0
            self.backlog.popleft()
            self.unrung = True
        return 0


@cython.final
@cython.freelist(64)
cdef class SlotBody:
    """The body of one request where it lies: read-only memory that stays valid while anybody has a view of it."""

    cdef Segment segment
    cdef uint8_t *start
    cdef Py_ssize_t length
    cdef uint32_t exports
    cdef bint held  # the answer went out while views were alive: the last one to go gives the slot back
    cdef Completion release

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, True, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.let_go()

    cdef int let_go(self) except -1:
        self.exports -= 1
        if self.exports == 0 and self.held:
            self.held = False
            self.segment.push(&self.release)
        return 0


@cython.final
cdef class SlotRoom:
    """Writable memory behind a request's body, where its answer may be made in place."""

    cdef SlotBody body  # whose slot this is: a view of the room keeps it as one of the body does
    cdef uint8_t *start
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, False, flags)
        self.body.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.body.let_go()
