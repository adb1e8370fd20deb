"""The shared memory itself: making the board and the segments, and the supervisor's side of them.

Everything is a memfd, passed on by descriptor: no name in /dev/shm to leak or to run out of, and no page before it is used.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from arena cimport Arena, arena_init
from fault cimport FAULTS_COMPILED_IN
from layout cimport (
    ARENA_OFFSET,
    BOARD_BYTES,
    LAYOUT_MAGIC,
    LAYOUT_VERSION,
    MAX_FRONTENDS,
    MAX_WORKERS,
    WORKER_LOADING,
    BoardHeader,
    SegmentHeader,
    WorkerPage,
)
from ring cimport doorbell_must_ring, load_relaxed, store_release
from syscalls cimport file_bytes, futex_wake, map_shared, memfd_sealed, unmap_shared

STATES = ("booting", "idle", "running", "loading")
FRONTENDS_MAX = MAX_FRONTENDS
HAS_FAULTS = bool(FAULTS_COMPILED_IN)  # a debug build, which HEADRACE_FAULT may tell to fail
WORKERS_MAX = MAX_WORKERS

cdef enum:
    HEAD_ROOM = 65536      # longest head that is accepted
    RESPONSE_ROOM = 65536  # most that is set aside for an answer behind the body, or for field lines before a large one


def largest_slot(unsigned long long max_request, unsigned long long max_response):
    """Bytes of the largest slot that these limits ask for: a payload, with a head and room for an answer around it."""
    return max(max_request, max_response) + HEAD_ROOM + RESPONSE_ROOM


def segment_bytes(unsigned long long arena_bytes, unsigned long long largest):
    """Address space of a segment whose arena may commit `arena_bytes` and has slots of up to `largest` bytes."""
    cdef Arena arena
    arena_init(&arena, arena_bytes, largest)
    return ARENA_OFFSET + arena.bytes


cdef int _begin_with(int fd, object header) except -1:
    """Writes the header; closes the descriptor when that fails."""
    try:
        if os.pwrite(fd, header, 0) != len(header):
            raise OSError("short write to shared memory")
    except BaseException:
        os.close(fd)
        raise
    return 0


def create_board():
    """The board: one page a worker for doorbells, heartbeats and counters. Returns its descriptor (close-on-exec)."""
    cdef BoardHeader header
    cdef int fd = memfd_sealed(b"headrace-board", BOARD_BYTES)
    if fd < 0:
        raise OSError(errno, f"memfd_create for the board: {os.strerror(errno)}")
    memset(&header, 0, sizeof(header))
    header.magic = LAYOUT_MAGIC
    header.version = LAYOUT_VERSION
    header.workers = MAX_WORKERS
    _begin_with(fd, (<const unsigned char *>&header)[:sizeof(header)])
    return fd


def create_segment(unsigned int frontend, unsigned long long arena_bytes, unsigned long long largest):
    """The segment of one frontend: rings and arena. Returns its descriptor (close-on-exec).

    arena_bytes: what the arena may commit. largest: bytes of its largest slot (see largest_slot). Raises OSError when the kernel refuses, ValueError for a frontend beyond the limit.
    """
    if frontend >= MAX_FRONTENDS:
        raise ValueError(f"frontend {frontend} is not below {MAX_FRONTENDS}")
    cdef uint64_t length = segment_bytes(arena_bytes, largest)
    cdef SegmentHeader header
    cdef int fd = memfd_sealed(b"headrace-segment", length)
    if fd < 0:
        raise OSError(errno, f"memfd_create for a segment of {length} bytes: {os.strerror(errno)}")
    memset(&header, 0, sizeof(header))
    header.magic = LAYOUT_MAGIC
    header.version = LAYOUT_VERSION
    header.frontend = frontend
    header.segment_bytes = length
    header.id_prefix = int.from_bytes(os.urandom(8), "little")
    _begin_with(fd, (<const unsigned char *>&header)[:sizeof(header)])
    return fd


def committed_bytes(int fd):
    """Bytes of pages that a memfd has now: exact, also after hole punching, whether or not anybody maps them."""
    return os.fstat(fd).st_blocks * 512


cdef class Board:
    """The supervisor's view of the board. Raises ValueError when the descriptor is no board of this build."""

    cdef unsigned char *base

    def __cinit__(self, int fd):
        cdef int64_t length = file_bytes(fd)
        if length != <int64_t>BOARD_BYTES:
            raise ValueError(f"descriptor {fd} is no board of this build: {length} bytes where {BOARD_BYTES} are expected")
        self.base = <unsigned char *>map_shared(fd, BOARD_BYTES, True)
        if self.base is NULL:
            raise OSError("mmap failed for the board")
        cdef BoardHeader *header = <BoardHeader *>self.base
        if header.magic != LAYOUT_MAGIC or header.version != LAYOUT_VERSION or header.workers != MAX_WORKERS:
            raise ValueError("not a board of this build: the processes come from different builds")

    def __dealloc__(self):
        if self.base is not NULL:
            unmap_shared(self.base, BOARD_BYTES)

    cdef WorkerPage *_page(self, unsigned int worker) except NULL:
        if worker >= MAX_WORKERS:
            raise ValueError(f"worker {worker} is not below {MAX_WORKERS}")
        return <WorkerPage *>(self.base + sizeof(BoardHeader)) + worker

    def notify(self, unsigned int worker):
        """Tells a worker that a control message waits in its socket; wakes it when it sleeps.

        The wake-up is unconditional: a frontend that was killed between taking the announcement down and waking leaves a
        sleeper that nobody else would wake.
        """
        cdef WorkerPage *page = self._page(worker)
        store_release(&page.control_sent, load_relaxed(&page.control_sent) + 1)
        doorbell_must_ring(&page.bell)
        futex_wake(&page.bell.parked)

    def reset(self, unsigned int worker):
        """Clears a worker's page, when its process has been reaped."""
        cdef WorkerPage *page = self._page(worker)
        memset(page, 0, sizeof(WorkerPage))

    def page(self, unsigned int worker):
        """What the worker says about itself: state, since when (CLOCK_MONOTONIC ns), at which model, and its counters."""
        cdef WorkerPage *page = self._page(worker)
        cdef uint64_t state = load_relaxed(&page.state)
        return {
            "state": STATES[state] if state <= WORKER_LOADING else "unknown",
            "state_since_ns": load_relaxed(&page.state_since_ns),
            "state_model": load_relaxed(&page.state_model),
            "turns": load_relaxed(&page.turns),
            "requests": load_relaxed(&page.requests),
            "batches": load_relaxed(&page.batches),
            "spins": load_relaxed(&page.spins),
            "parks": load_relaxed(&page.parks),
            "bells": load_relaxed(&page.bells),
            "copied_bytes": load_relaxed(&page.copied_bytes),
            "held_slots": load_relaxed(&page.held_slots),
            "dropped": load_relaxed(&page.dropped),
            "invalid_submissions": load_relaxed(&page.invalid_submissions),
            "busy_ns": load_relaxed(&page.busy_ns),
        }
