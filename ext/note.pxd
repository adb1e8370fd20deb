# note.h for Cython: what is read of a head for the access log.
from libc.stdint cimport uint8_t, uint64_t

from http cimport HttpSpan

cdef extern from "note.h" nogil:
    HttpSpan note_target_model(const uint8_t *lines, size_t n)
    int note_is_sampled(uint64_t number, uint64_t most)
