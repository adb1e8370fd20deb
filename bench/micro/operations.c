/* Operations of ext/ that have no Python call of their own, each `n` times, and the marks that callgrind counts between.
 *
 * Compiled as a library by bench/micro/operations.py, which says what each is.
 */
#include "syscalls.h"

#include <pthread.h>

#include "arena.h"
#include "atomics.h"
#include "http.h"
#include "ring.h"

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_STOP_INSTRUMENTATION
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name) (void)(name)
#endif

/* Nothing of these when no valgrind runs. */
void count_begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void count_end(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

/* Results go here, so that no compiler leaves the work out. */
static volatile uint64_t sink;

int parse_head(const uint8_t *head, size_t length, uint64_t n) {
    HttpLimits limits;
    http_limits_default(&limits);
    for (uint64_t i = 0; i < n; i++) {
        HttpScan scan;
        HttpHead found;
        memset(&scan, 0, sizeof scan);
        const int outcome = http_parse_head(head, length, &limits, &scan, &found);
        if (outcome != HTTP_OK) return outcome;
        sink = found.head_length;
    }
    return 0;
}

int split_path(const uint8_t *path, size_t length, uint64_t n) {
    uint8_t scratch[256];
    for (uint64_t i = 0; i < n; i++) {
        HttpPath found;
        const int outcome = http_split_path(path, length, &found, scratch, sizeof scratch);
        if (outcome != HTTP_OK) return outcome;
        sink = found.count;
    }
    return 0;
}

static Arena arena;

/* Lease one and release it, while `held` others of its class stay leased. What is made here stays for the next call. */
int slot_lease(uint64_t bytes, uint64_t held, uint64_t n) {
    if (!arena.bytes) {
        arena_init(&arena, 256ull << 20, 100ull << 20);
        for (uint64_t i = 0; i < held; i++) {
            if (arena_lease(&arena, bytes) == ARENA_NONE) return -1;
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t slot = arena_lease(&arena, bytes);
        if (slot == ARENA_NONE) return -1;
        sink = arena_offset(&arena, slot);
        arena_release(&arena, slot);
    }
    return 0;
}

typedef struct {
    Doorbell bells[2];
    RingPair pair;
    int must_sleep;
    uint64_t count;
} Hop;

static Hop hop __attribute__((aligned(4096)));

/* One entry into a ring and out again, by one thread; and the look whether somebody has to be woken. */
int ring_pass(uint64_t n) {
    RingEnd producer, consumer;
    ring_attach(&producer, &hop.pair.submit, hop.pair.submissions, 1);
    ring_attach(&consumer, &hop.pair.submit, hop.pair.submissions, 0);
    uint64_t entry[8] = {0};
    for (uint64_t i = 0; i < n; i++) {
        entry[0] = i;
        if (!ring_push(&producer, entry)) return -1;
        sink = (uint64_t)doorbell_must_ring(&hop.bells[0]);
        if (!ring_pop(&consumer, entry) || entry[0] != i) return -1;
    }
    return 0;
}

/* Waits for an entry: looks again and again, or sleeps as soon as there is none. */
static void await(RingEnd *end, Doorbell *bell, uint64_t *entry) {
    while (!ring_pop(end, entry)) {
        if (!hop.must_sleep) continue;
        doorbell_park(bell);
        if (ring_is_empty(end)) futex_wait(&bell->parked, 1, 1000000000ull);
        doorbell_unpark(bell);
    }
}

static void push_and_wake(RingEnd *end, Doorbell *bell, const uint64_t *entry) {
    ring_push(end, entry);
    if (doorbell_must_ring(bell)) futex_wake(&bell->parked);
}

static void *other_side(void *argument) {
    (void)argument;
    RingEnd in, out;
    ring_attach(&in, &hop.pair.submit, hop.pair.submissions, 0);
    ring_attach(&out, &hop.pair.complete, hop.pair.completions, 1);
    uint64_t entry[8];
    for (uint64_t i = 0; i < hop.count; i++) {
        await(&in, &hop.bells[0], entry);
        push_and_wake(&out, &hop.bells[1], entry);
    }
    return NULL;
}

/* A round between two threads: there and back. */
int ring_round(int must_sleep, uint64_t n) {
    pthread_t thread;
    hop.must_sleep = must_sleep;
    hop.count = n;
    if (pthread_create(&thread, NULL, other_side, NULL)) return -1;
    RingEnd in, out;
    ring_attach(&out, &hop.pair.submit, hop.pair.submissions, 1);
    ring_attach(&in, &hop.pair.complete, hop.pair.completions, 0);
    uint64_t entry[8] = {0};
    for (uint64_t i = 0; i < n; i++) {
        entry[0] = i;
        push_and_wake(&out, &hop.bells[0], entry);
        await(&in, &hop.bells[1], entry);
        if (entry[0] != i) return -1;
    }
    pthread_join(thread, NULL);
    return 0;
}
