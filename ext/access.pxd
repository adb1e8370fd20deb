"""Whether a request bears the token; see access.h."""

from libc.stdint cimport uint8_t

cdef extern from "access.h" nogil:
    bint access_granted(const uint8_t *lines, size_t n, const uint8_t *token, size_t length)
