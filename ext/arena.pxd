# arena.h for Cython: the frontend's private books of the slots.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "arena.h" nogil:
    const uint32_t ARENA_NONE

    ctypedef struct ArenaClass:
        uint64_t offset
        uint64_t stride
        uint64_t *free_words
        uint32_t first
        uint32_t count
        uint32_t leased
        uint32_t warm
        uint32_t trimming

    ctypedef struct Arena:
        ArenaClass *classes
        uint32_t class_count
        uint32_t slot_count
        uint64_t bytes
        uint64_t limit_bytes
        uint64_t committed_bytes
        uint64_t exhausted

    ctypedef struct ArenaRange:
        uint64_t offset
        uint64_t length

    void arena_init(Arena *arena, uint64_t limit_bytes, uint64_t largest)
    ArenaClass *arena_class_of(Arena *arena, uint32_t slot)
    uint64_t arena_offset(Arena *arena, uint32_t slot)
    uint32_t arena_class_for(const Arena *arena, uint64_t bytes)
    uint32_t arena_lease(Arena *arena, uint64_t bytes)
    uint32_t arena_lease_within(Arena *arena, uint64_t bytes, uint64_t limit_bytes)
    int arena_release(Arena *arena, uint32_t slot)
    ArenaRange arena_trim_begin(Arena *arena, ArenaClass *k, uint32_t keep)
    void arena_trim_end(ArenaClass *k)
    uint32_t arena_next_period(ArenaClass *k)
