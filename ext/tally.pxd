# tally.h for Cython: what a frontend counts of one model's requests.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "tally.h" nogil:
    enum:
        TIME_BOUNDS
        ROW_BOUNDS
        STATUS_CLASSES
        STATUS_GONE
    const uint64_t *time_bounds_ns
    const uint16_t known_statuses[23]

    ctypedef struct Times:
        uint64_t sum_ns
        uint64_t *buckets

    ctypedef struct TallyCounts:
        uint64_t *statuses
        uint64_t *others
        uint64_t request_bytes
        uint64_t response_bytes
        uint64_t copied_bytes
        Times whole
        Times queued
        Times computed
        uint64_t rows_sum
        uint64_t *rows

    void count_status(TallyCounts *counts, unsigned int status)
    void count_answer(TallyCounts *counts, unsigned int status, uint64_t arrival_ns, uint64_t now_ns, uint64_t request_bytes,
                      uint64_t response_bytes)
    void count_work(TallyCounts *counts, uint64_t whole_ns, uint64_t started_ns, uint64_t finished_ns, uint64_t now_ns,
                    uint32_t rows)
