# note.h for Cython: what is read of a head for the access log and for traces.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from http cimport HttpSpan

cdef extern from "note.h" nogil:
    enum:
        TRACE_PARENT_AT
        TRACE_FLAGS_AT
        TRACE_LINE_LENGTH

    ctypedef struct NoteFields:
        HttpSpan target_model
        HttpSpan traceparent
        HttpSpan tracestate
        uint32_t traceparents
        uint32_t tracestates

    ctypedef struct Trace:
        uint64_t high
        uint64_t low
        uint64_t parent
        uint64_t flags

    NoteFields note_fields(const uint8_t *lines, size_t n)
    int note_is_sampled(uint64_t number, uint64_t most)
    uint64_t note_random(uint64_t *state)
    int trace_read(const uint8_t *p, size_t n, Trace *trace)
    void trace_write_hex(uint8_t *p, unsigned int digits, uint64_t value)
    void trace_write_line(uint8_t *out, const Trace *trace)
