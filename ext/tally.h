/* What a frontend counts of one model's requests: plain words in its own memory, one writer, no lock, no clock of its own.
 * They are read when somebody scrapes; a frontend that dies takes its counts along, which Prometheus knows as a reset.
 *
 * Times are counted in buckets whose bounds are 1, 2 and 5 times the powers of ten from 10 us to 50 s, rows in powers of
 * two: numbers that objectives are written in ("99 % within 50 ms"), so that such a share is exact. A quantile from them is
 * off by the width of a bucket at most.
 */
#ifndef HEADRACE_TALLY_H
#define HEADRACE_TALLY_H

#include <stdint.h>

#define TIME_BOUNDS 21u /* and one bucket for what is longer */
#define ROW_BOUNDS 11u
#define STATUS_CLASSES 6u /* by hundreds; the first is not used */
#define STATUSES 24u
#define ROWS_MOST 65536u /* of a batch: the settings allow no more */
#define STATUS_GONE 499u /* no answer was sent, for the client was gone; the number is nginx's */

/* In nanoseconds; a value falls into the first bucket whose bound is not below it. */
static const uint64_t time_bounds_ns[TIME_BOUNDS + 1] = {
    10000ull,       20000ull,       50000ull,       100000ull,      200000ull,       500000ull,       1000000ull,    2000000ull,
    5000000ull,     10000000ull,    20000000ull,    50000000ull,    100000000ull,    200000000ull,    500000000ull,  1000000000ull,
    2000000000ull,  5000000000ull,  10000000000ull, 20000000000ull, 50000000000ull,  UINT64_MAX,
};

/* The first bucket that a value of so many bits may fall into: at most two further ones have to be looked at. */
static const uint8_t time_first[65] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7,
    8, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 21, 21, 21, 21, 21, 21,
    21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21,
};

/* Statuses that are counted by themselves; others by their hundreds, so that no model can make up labels. */
static const uint16_t known_statuses[] = {200, 201, 202, 204, 400, 401, 403, 404, 406, 408, 409,
                                          413, 415, 422, 424, 429, 499, 500, 501, 502, 503, 504, 507};

typedef struct {
    uint64_t sum_ns;
    uint64_t buckets[TIME_BOUNDS + 1];
} Times;

typedef struct {
    uint64_t statuses[STATUSES];
    uint64_t others[STATUS_CLASSES];
    uint64_t request_bytes;  /* of bodies */
    uint64_t response_bytes; /* likewise */
    uint64_t copied_bytes;   /* of both, in user space, by this side and by workers */
    Times whole;             /* from the request's head to the answer's hand-over to the kernel */
    Times queued;            /* from the body's last byte to the beginning of the batch */
    Times computed;          /* from there to the answer */
    uint64_t rows_sum;
    uint64_t rows[ROW_BOUNDS + 1]; /* that ran together, for each request */
} TallyCounts;

static inline unsigned bits_of(uint64_t value) { return value ? 64u - (unsigned)__builtin_clzll(value) : 0u; }

static inline unsigned time_bucket(uint64_t ns) {
    unsigned bucket = time_first[bits_of(ns)];
    while (ns > time_bounds_ns[bucket]) bucket++;
    return bucket;
}

static inline unsigned row_bucket(uint64_t rows) {
    unsigned bucket = rows ? bits_of(rows - 1) : 0u;
    return bucket < ROW_BOUNDS ? bucket : ROW_BOUNDS;
}

static inline void count_time(Times *times, uint64_t ns) {
    times->sum_ns += ns;
    times->buckets[time_bucket(ns)]++;
}

static inline void count_status(TallyCounts *counts, unsigned status) {
    unsigned low = 0, high = sizeof(known_statuses) / sizeof(known_statuses[0]);
    if (status == 200) {
        counts->statuses[0]++;
        return;
    }
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (known_statuses[middle] < status) low = middle + 1;
        else high = middle;
    }
    if (low < sizeof(known_statuses) / sizeof(known_statuses[0]) && known_statuses[low] == status) counts->statuses[low]++;
    else counts->others[status / 100 < STATUS_CLASSES ? status / 100 : STATUS_CLASSES - 1]++;
}

/* An answer goes out. Times are CLOCK_MONOTONIC. */
static inline void count_answer(TallyCounts *counts, unsigned status, uint64_t arrival_ns, uint64_t now_ns,
                                uint64_t request_bytes, uint64_t response_bytes) {
    count_status(counts, status);
    counts->request_bytes += request_bytes;
    counts->response_bytes += response_bytes;
    count_time(&counts->whole, now_ns - arrival_ns);
}

/* What a worker says about it, if that can be true: workers run user code, whose memory may be spoilt. */
static inline void count_work(TallyCounts *counts, uint64_t whole_ns, uint64_t started_ns, uint64_t finished_ns, uint64_t now_ns,
                              uint32_t rows) {
    if (started_ns < whole_ns || finished_ns < started_ns || now_ns < finished_ns) return;
    count_time(&counts->queued, started_ns - whole_ns);
    count_time(&counts->computed, finished_ns - started_ns);
    if (rows > ROWS_MOST) return;
    counts->rows_sum += rows;
    counts->rows[row_bucket(rows)]++;
}

_Static_assert(sizeof(known_statuses) / sizeof(known_statuses[0]) <= STATUSES, "a place for each");

#endif
