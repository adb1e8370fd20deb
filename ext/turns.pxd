# turns.h for Cython: whose turn it is to get a slot.
from libc.stdint cimport uint64_t

cdef extern from "turns.h" nogil:
    int LINE_WHOLE, LINE_SMALL, LINE_LARGE, LINES
    const uint64_t TURN_NOBODY

    ctypedef struct TurnHead:
        uint64_t place
        uint64_t needed_bytes

    ctypedef struct Turns:
        uint64_t small_bytes
        uint64_t incomplete_bytes[3]
        TurnHead heads[3]

    void turns_init(Turns *turns, uint64_t arena_bytes)
    int turns_has_share(const Turns *turns, int line, uint64_t needed_bytes)
    int turns_is_due(const Turns *turns, int line, uint64_t place, uint64_t needed_bytes)
