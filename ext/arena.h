/* The arena's books: size classes of slots, which of them are leased, which are warm. Private memory of the frontend, the only
 * allocator; nothing here is shared, so a dying worker cannot break it.
 *
 *   class 0   | slot | slot | slot | ...       strides grow by a quarter of a power of two; each stride is 64 bytes more than a
 *   class 1   |  slot  |  slot  |  ...         round number, so that equal places of neighbours do not fall into one L1 set
 *   ...
 *
 * Each class owns as much address space as the whole arena may commit: addresses are free, pages are not. The LOWEST free slot
 * goes first: it is the warmest (its pages are there, a first touch costs nine copies), requests that arrive together get
 * neighbours at one stride, and what lies above the high-water mark goes cold and can be given back.
 *
 * Invariants
 * 1. A slot is leased, free or being trimmed, and never two of these. leased + free + trimming = count, in every class.
 * 2. [0, warm) of a class may have pages; [warm, count) has none. committed_bytes = the sum of warm x stride <= limit_bytes, but for
 *    what was leased over the limit.
 */
#ifndef HEADRACE_ARENA_H
#define HEADRACE_ARENA_H

#include <stdint.h>
#include <string.h>

#include "layout.h"

#define ARENA_CLASSES_MAX 80u
#define ARENA_SLOTS_MAX 4096u        /* a class: 64 words of 64 bits, and one word that summarises them */
#define ARENA_STRIDE_MIN 2048u
_Static_assert(ARENA_CLASSES_MAX * ARENA_SLOTS_MAX == SLOTS_MAX, "each slot has a mark");
#define ARENA_ADDRESSES (192ull << 30) /* all classes together; offsets of 64-byte units must fit 32 bits (256 GiB) */
#define ARENA_SPILL 6u               /* classes above the right one that may stand in for it: at most three times as large */

typedef struct {
    uint64_t offset; /* of slot 0, from the start of the arena */
    uint64_t stride;
    uint64_t free_words[ARENA_SLOTS_MAX / 64]; /* bit set: free */
    uint64_t summary;                          /* bit set: that word has a free slot */
    uint32_t first;                            /* number of slot 0, counted over all classes */
    uint32_t count;
    uint32_t leased;
    uint32_t warm;
    uint32_t peak; /* highest number of slots needed (index + 1) since the last arena_trim_begin, and in the period before */
    uint32_t peak_before;
    uint32_t trimming; /* slots [warm, warm + trimming) are having their pages taken away */
} ArenaClass;

typedef struct {
    ArenaClass classes[ARENA_CLASSES_MAX];
    uint32_t class_count;
    uint32_t slot_count;
    uint64_t bytes; /* address space */
    uint64_t limit_bytes;
    uint64_t committed_bytes;
    uint64_t exhausted; /* leases refused so far */
} Arena;

typedef struct {
    uint64_t offset; /* from the start of the arena */
    uint64_t length;
} ArenaRange;

#define ARENA_NONE 0xffffffffu

/* Class sizes up to one that holds `largest` bytes. */
static inline void arena_init(Arena *arena, uint64_t limit_bytes, uint64_t largest) {
    memset(arena, 0, sizeof *arena);
    arena->limit_bytes = limit_bytes;
    uint64_t strides[ARENA_CLASSES_MAX];
    uint32_t n = 0;
    for (uint64_t base = ARENA_STRIDE_MIN; n < ARENA_CLASSES_MAX; base *= 2) {
        for (uint32_t quarter = 0; quarter < 4 && n < ARENA_CLASSES_MAX; quarter++) {
            strides[n++] = base + quarter * (base / 4) + SLOT_ALIGN;
            if (strides[n - 1] >= largest) goto sized;
        }
    }
sized:
    arena->class_count = n;
    uint64_t share = ARENA_ADDRESSES / n;
    for (uint32_t c = 0; c < n; c++) {
        ArenaClass *k = &arena->classes[c];
        uint64_t count = (limit_bytes < share ? limit_bytes : share) / strides[c] + 1; /* one of them over the limit */
        k->count = (uint32_t)(count > ARENA_SLOTS_MAX ? ARENA_SLOTS_MAX : count);
        k->stride = strides[c];
        k->offset = arena->bytes;
        k->first = arena->slot_count;
        for (uint32_t i = 0; i < k->count; i += 64) {
            uint32_t left = k->count - i;
            k->free_words[i / 64] = left >= 64 ? ~0ull : (1ull << left) - 1;
            k->summary |= 1ull << (i / 64);
        }
        arena->slot_count += k->count;
        arena->bytes += (k->count * k->stride + 4095) & ~4095ull; /* classes do not share pages */
    }
}

static inline ArenaClass *arena_class_of(Arena *arena, uint32_t slot) {
    uint32_t low = 0, high = arena->class_count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (arena->classes[middle].first <= slot) low = middle; else high = middle;
    }
    return &arena->classes[low];
}

static inline uint64_t arena_offset(Arena *arena, uint32_t slot) {
    ArenaClass *k = arena_class_of(arena, slot);
    return k->offset + (uint64_t)(slot - k->first) * k->stride;
}

/* The smallest class whose slots hold `bytes`; class_count or more when none does. */
static inline uint32_t arena_class_for(const Arena *arena, uint64_t bytes) {
    if (bytes <= arena->classes[0].stride) return 0;
    /* Four classes a doubling: start at the right doubling, then walk at most four. */
    uint32_t c = 4 * (uint32_t)(63 - __builtin_clzll(bytes / ARENA_STRIDE_MIN));
    while (c < arena->class_count && arena->classes[c].stride < bytes) c++;
    return c;
}

static inline void arena_mark_free(ArenaClass *k, uint32_t index) {
    k->free_words[index / 64] |= 1ull << (index % 64);
    k->summary |= 1ull << (index / 64);
}

static inline void arena_mark_taken(ArenaClass *k, uint32_t index) {
    if (!(k->free_words[index / 64] &= ~(1ull << (index % 64)))) k->summary &= ~(1ull << (index / 64));
}

static inline uint32_t arena_lowest_free(const ArenaClass *k) {
    if (!k->summary) return ARENA_NONE;
    uint32_t word = (uint32_t)__builtin_ctzll(k->summary);
    return word * 64 + (uint32_t)__builtin_ctzll(k->free_words[word]);
}

/* Highest slot that is leased, plus one. */
static inline uint32_t arena_top(const ArenaClass *k) {
    uint32_t index = k->warm;
    while (index > 0 && (k->free_words[(index - 1) / 64] >> ((index - 1) % 64) & 1)) index--;
    return index;
}

/* Takes slots that nobody uses off the top of a class, to have their pages taken away. They count as trimming, and can not be
 * leased, until arena_trim_end. A length of 0: nothing to do. keep: how many of the lowest slots to leave warm. */
static inline ArenaRange arena_trim_begin(Arena *arena, ArenaClass *k, uint32_t keep) {
    ArenaRange range = {0, 0};
    uint32_t top = arena_top(k);
    if (top < keep) top = keep;
    if (k->trimming || top >= k->warm) return range;
    for (uint32_t i = top; i < k->warm; i++) arena_mark_taken(k, i);
    k->trimming = k->warm - top;
    k->warm = top;
    arena->committed_bytes -= k->trimming * k->stride;
    /* The page that the last warm slot ends in stays; the one that the last trimmed slot ends in goes: what follows is cold. */
    uint64_t start = (k->offset + top * k->stride + 4095) & ~4095ull;
    uint64_t end = (k->offset + (uint64_t)(top + k->trimming) * k->stride + 4095) & ~4095ull;
    range.offset = start;
    range.length = end > start ? end - start : 0;
    return range;
}

static inline void arena_trim_end(ArenaClass *k) {
    for (uint32_t i = k->warm; i < k->warm + k->trimming; i++) arena_mark_free(k, i);
    k->trimming = 0;
}

/* A slot of at least `bytes`, or ARENA_NONE when there is none or when its pages would go over this limit. */
static inline uint32_t arena_lease_within(Arena *arena, uint64_t bytes, uint64_t limit_bytes) {
    uint32_t right = arena_class_for(arena, bytes);
    for (uint32_t c = right; c < arena->class_count && c <= right + ARENA_SPILL; c++) {
        ArenaClass *k = &arena->classes[c];
        uint32_t index = arena_lowest_free(k);
        if (index == ARENA_NONE) continue;
        if (index >= k->warm) { /* all warm ones are leased: index is warm, or lies behind slots that are being trimmed */
            uint64_t growth = (uint64_t)(index + 1 - k->warm) * k->stride;
            if (k->trimming || arena->committed_bytes + growth > limit_bytes) continue;
            arena->committed_bytes += growth;
            k->warm = index + 1;
        }
        arena_mark_taken(k, index);
        k->leased++;
        if (index >= k->peak) k->peak = index + 1;
        return k->first + index;
    }
    arena->exhausted++;
    return ARENA_NONE;
}

static inline uint32_t arena_lease(Arena *arena, uint64_t bytes) {
    return arena_lease_within(arena, bytes, arena->limit_bytes);
}

/* 0 when the slot was not leased: the caller's books are wrong. */
static inline int arena_release(Arena *arena, uint32_t slot) {
    if (slot >= arena->slot_count) return 0;
    ArenaClass *k = arena_class_of(arena, slot);
    uint32_t index = slot - k->first;
    if (index >= k->warm || (k->free_words[index / 64] >> (index % 64) & 1)) return 0;
    arena_mark_free(k, index);
    k->leased--;
    return 1;
}

/* One period is over: how many slots to keep warm, by what this period and the one before needed. */
static inline uint32_t arena_next_period(ArenaClass *k) {
    uint32_t keep = k->peak > k->peak_before ? k->peak : k->peak_before;
    k->peak_before = k->peak;
    k->peak = arena_top(k);
    return keep;
}

#endif
