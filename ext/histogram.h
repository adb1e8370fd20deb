/* Counts of durations in buckets whose width grows with the value, as in HDR histograms: every value is known to within 1/256
 * of itself, whatever its size, in 58 KiB and with no limit on the range.
 *
 * Values up to 255 have a bucket each. Above, each power of two is cut into 128 buckets of equal width: the eight leading bits of
 * a value name its bucket. A bucket stands for its middle, so what is reported is off by half a width at most.
 */
#ifndef HEADRACE_HISTOGRAM_H
#define HEADRACE_HISTOGRAM_H

#include <stdint.h>
#include <string.h>

#define HISTOGRAM_BITS 7u
#define HISTOGRAM_BUCKETS ((64u - HISTOGRAM_BITS + 1u) << HISTOGRAM_BITS)

typedef struct {
    uint64_t count;
    uint64_t sum; /* 2^64 ns are 584 years of waiting */
    uint64_t min; /* meant only when count > 0 */
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
} Histogram;

static inline void histogram_clear(Histogram *h) { memset(h, 0, sizeof *h); }

static inline uint32_t histogram_index(uint64_t value) {
    if (value < 2u << HISTOGRAM_BITS) return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HISTOGRAM_BITS;
    return (shift << HISTOGRAM_BITS) + (uint32_t)(value >> shift);
}

static inline uint64_t histogram_width(uint32_t index) {
    return index < 2u << HISTOGRAM_BITS ? 1 : 1ull << ((index >> HISTOGRAM_BITS) - 1);
}

/* The least value of a bucket. */
static inline uint64_t histogram_lower(uint32_t index) {
    if (index < 2u << HISTOGRAM_BITS) return index;
    uint64_t leading = (index & ((1u << HISTOGRAM_BITS) - 1)) | 1u << HISTOGRAM_BITS;
    return leading << ((index >> HISTOGRAM_BITS) - 1);
}

static inline void histogram_add(Histogram *h, uint64_t value, uint64_t count) {
    if (!count) return;
    if (!h->count || value < h->min) h->min = value;
    if (value > h->max) h->max = value;
    h->count += count;
    h->sum += value * count;
    h->buckets[histogram_index(value)] += count;
}

static inline void histogram_merge(Histogram *h, const Histogram *other) {
    if (!other->count) return;
    if (!h->count || other->min < h->min) h->min = other->min;
    if (other->max > h->max) h->max = other->max;
    h->count += other->count;
    h->sum += other->sum;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) h->buckets[i] += other->buckets[i];
}

/* The value of the given rank, 1 to count, counted from the least. */
static inline uint64_t histogram_ranked(const Histogram *h, uint64_t rank) {
    if (rank <= 1) return h->min;
    if (rank >= h->count) return h->max;
    uint64_t below = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += h->buckets[i];
        if (below >= rank) {
            uint64_t middle = histogram_lower(i) + (histogram_width(i) - 1) / 2;
            return middle < h->min ? h->min : middle > h->max ? h->max : middle;
        }
    }
    return h->max;
}

#endif
