# ring.h for Cython: inlined into every extension that cimports it.
from libc.stdint cimport uint32_t, uint64_t

from layout cimport Doorbell, RingHeader

cdef extern from "ring.h" nogil:
    ctypedef struct RingEnd:
        RingHeader *header
        void *entries
        uint64_t cursor
        uint64_t seen

    void ring_attach(RingEnd *end, RingHeader *header, void *entries, int is_producer)
    void ring_reset(RingHeader *header)
    int ring_push(RingEnd *end, const void *entry)
    int ring_pop(RingEnd *end, void *entry)
    int ring_is_empty(const RingEnd *end)
    int doorbell_must_ring(Doorbell *bell)
    void doorbell_park(Doorbell *bell)
    void doorbell_unpark(Doorbell *bell)

cdef extern from "atomics.h" nogil:
    uint64_t load_relaxed(const uint64_t *p)
    uint64_t load_acquire(const uint64_t *p)
    void store_relaxed(uint64_t *p, uint64_t v)
    void store_release(uint64_t *p, uint64_t v)
    uint32_t load_relaxed32(const uint32_t *p)
    void store_relaxed32(uint32_t *p, uint32_t v)
    void cpu_relax()
