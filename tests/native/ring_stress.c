/* Streams checked entries through real rings: between threads, for ThreadSanitizer, and between processes that get killed.
 *
 *   ring_stress stream PRODUCERS COUNT SEED   one consumer, one doorbell, a ring for each producer with COUNT entries
 *   ring_stress killed ROUNDS SEED            in each round the other process dies by SIGKILL at a random moment
 *
 * An entry says where in the ring's history it belongs (the cursor it was pushed at) and carries words made from that:
 * one that is torn, stale, doubled or lost does not fit. Cursors begin shortly before they wrap. Exit status 0 and a line
 * of counts when all is well; else 1 and what was wrong. With -DWEAK the acquire loads of ring.h are relaxed ones, for a
 * test of the test.
 */
#include "syscalls.h"

#include "atomics.h"
#ifdef WEAK
#define load_acquire load_relaxed
#endif
#include "ring.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define PRODUCERS_MAX 2u
#define FIRST (~0ull - 700)

typedef struct {
    Doorbell bell;
    uint64_t spoilt; /* entries that a process which is to be killed found wrong */
    uint8_t pad[4096 - 72];
    RingPair pairs[PRODUCERS_MAX];
} Shared;

static Shared *shared;

#define FAIL(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

static uint64_t mixed(uint64_t n) {
    n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9ull;
    n = (n ^ (n >> 27)) * 0x94d049bb133111ebull;
    return n ^ (n >> 31);
}

/* A random number below `limit`; the seed moves on. */
static uint64_t drawn(uint64_t *seed, uint64_t limit) { return mixed(*seed += 0x9e3779b97f4a7c15ull) % limit; }

static void make_entry(uint64_t entry[8], uint64_t number) {
    entry[0] = number;
    for (uint64_t i = 1; i < 8; i++) entry[i] = mixed(number * 8 + i);
}

static int is_whole(const uint64_t entry[8], uint64_t number) {
    uint64_t due[8];
    make_entry(due, number);
    return memcmp(entry, due, sizeof due) == 0;
}

static int push_next(RingEnd *end) {
    uint64_t entry[8];
    make_entry(entry, end->cursor);
    return ring_push(end, entry);
}

/* 1: took one. 0: nothing there. -1: took one that is wrong. */
static int pop_next(RingEnd *end) {
    uint64_t entry[8], number = end->cursor;
    if (!ring_pop(end, entry)) return 0;
    return is_whole(entry, number) ? 1 : -1;
}

static void begin(RingHeader *header) {
    store_release(&header->tail, FIRST);
    store_release(&header->head, FIRST);
}

/* ---- threads ---- */

typedef struct {
    RingEnd end;
    uint64_t count, seed, wakes;
} Producer;

static void *produce(void *argument) {
    Producer *self = argument;
    for (uint64_t i = 0; i < self->count; i++) {
        if (drawn(&self->seed, 64) == 0) /* let the consumer fall asleep: it does once it has taken everything */
            while (!load_relaxed32(&shared->bell.parked)) yield_cpu();
        while (!push_next(&self->end)) yield_cpu();
        if (doorbell_must_ring(&shared->bell)) {
            futex_wake(&shared->bell.parked);
            self->wakes++;
        }
    }
    return NULL;
}

static int stream(unsigned producers, uint64_t count, uint64_t seed) {
    pthread_t threads[PRODUCERS_MAX];
    Producer sources[PRODUCERS_MAX];
    RingEnd ends[PRODUCERS_MAX];
    uint64_t taken = 0, parks = 0, wakes = 0;
    for (unsigned p = 0; p < producers; p++) {
        RingPair *pair = &shared->pairs[p];
        begin(&pair->submit);
        ring_attach(&ends[p], &pair->submit, pair->submissions, 0);
        sources[p] = (Producer){.count = count, .seed = seed + p};
        ring_attach(&sources[p].end, &pair->submit, pair->submissions, 1);
    }
    for (unsigned p = 0; p < producers; p++)
        if (pthread_create(&threads[p], NULL, produce, &sources[p])) FAIL("no thread");
    while (taken < producers * count) {
        int quiet = 1;
        for (unsigned p = 0; p < producers; p++) {
            int found = pop_next(&ends[p]);
            if (found < 0) FAIL("entry %llu of ring %u is wrong", (unsigned long long)(ends[p].cursor - FIRST), p);
            if (found) quiet = 0;
            taken += (uint64_t)found;
        }
        if (!quiet) continue;
        doorbell_park(&shared->bell);
        parks++;
        for (unsigned p = 0; p < producers; p++) quiet = quiet && ring_is_empty(&ends[p]);
        if (quiet && futex_wait(&shared->bell.parked, 1, 20000000000ull) < 0 && errno == ETIMEDOUT)
            FAIL("slept through news");
        doorbell_unpark(&shared->bell);
    }
    for (unsigned p = 0; p < producers; p++) {
        pthread_join(threads[p], NULL);
        wakes += sources[p].wakes;
    }
    printf("taken=%llu parks=%llu wakes=%llu\n", (unsigned long long)taken, (unsigned long long)parks,
           (unsigned long long)wakes);
    return 0;
}

/* ---- processes ---- */

/* What the process does that is going to die: push, or take and check, for ever. */
static void go_on_for_ever(int pushes) {
    RingPair *pair = &shared->pairs[0];
    RingEnd end;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pushes) {
        ring_attach(&end, &pair->submit, pair->submissions, 1);
        for (;;) {
            if (!push_next(&end)) yield_cpu();
            if (doorbell_must_ring(&shared->bell)) futex_wake(&shared->bell.parked);
        }
    }
    ring_attach(&end, &pair->complete, pair->completions, 0);
    for (;;)
        if (pop_next(&end) < 0) store_release(&shared->spoilt, load_relaxed(&shared->spoilt) + 1);
}

static uint64_t survive_producer(RingEnd *end, uint64_t until_ns) {
    uint64_t taken = 0;
    for (int found; monotonic_ns() < until_ns; taken += (uint64_t)found) {
        found = pop_next(end);
        if (found < 0) FAIL("took a wrong entry");
        if (found) continue;
        doorbell_park(&shared->bell);
        if (ring_is_empty(end)) futex_wait(&shared->bell.parked, 1, 100000); /* the waker may die before it wakes us */
        doorbell_unpark(&shared->bell);
    }
    return taken;
}

static uint64_t survive_consumer(RingEnd *end, uint64_t until_ns) {
    uint64_t pushed = 0;
    while (monotonic_ns() < until_ns) {
        if (push_next(end)) pushed++; else yield_cpu();
    }
    return pushed;
}

static int killed(uint64_t rounds, uint64_t seed) {
    RingPair *pair = &shared->pairs[0];
    uint64_t taken = 0, pushed = 0, left = 0;
    begin(&pair->submit);
    begin(&pair->complete);
    for (uint64_t round = 0; round < rounds; round++) {
        int dies_pushing = round % 2 == 0;
        RingEnd end;
        if (dies_pushing) ring_attach(&end, &pair->submit, pair->submissions, 0);
        else ring_attach(&end, &pair->complete, pair->completions, 1);
        pid_t other = fork();
        if (other < 0) FAIL("no process");
        if (other == 0) go_on_for_ever(dies_pushing);
        uint64_t until_ns = monotonic_ns() + drawn(&seed, 2000000);
        if (dies_pushing) taken += survive_producer(&end, until_ns); else pushed += survive_consumer(&end, until_ns);
        kill(other, SIGKILL);
        int status;
        if (waitpid(other, &status, 0) != other || !WIFSIGNALED(status)) FAIL("the other process ended by itself");
        /* It is gone, wherever it was. Its ring holds whole entries and no more than fit, and takes what else fits. */
        uint64_t rest = 0;
        if (dies_pushing) {
            for (int found; (found = pop_next(&end)) != 0; rest++)
                if (found < 0) FAIL("a dead producer left a wrong entry");
            left += rest;
        } else {
            uint64_t held = end.cursor - load_acquire(&pair->complete.head);
            while (push_next(&end)) rest++;
            if (held + rest != RING_ENTRIES) FAIL("a dead consumer left room for more or for less than fits");
        }
        if (rest > RING_ENTRIES) FAIL("more entries than fit");
        if (load_acquire(&shared->spoilt)) FAIL("the other process took a wrong entry");
        /* The next one starts with a new ring, or where this one stopped. */
        store_relaxed32(&shared->bell.parked, 0);
        if (round % 4 < 2) begin(dies_pushing ? &pair->submit : &pair->complete);
    }
    printf("rounds=%llu taken=%llu left=%llu pushed=%llu\n", (unsigned long long)rounds, (unsigned long long)taken,
           (unsigned long long)left, (unsigned long long)pushed);
    return 0;
}

int main(int argc, char **argv) {
    int fd = memfd_sealed("ring-stress", sizeof(Shared));
    shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) FAIL("no shared memory");
    if (argc == 5 && strcmp(argv[1], "stream") == 0) {
        unsigned producers = (unsigned)strtoul(argv[2], NULL, 10);
        if (producers < 1 || producers > PRODUCERS_MAX) FAIL("1 or 2 producers");
        return stream(producers, strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    }
    if (argc == 4 && strcmp(argv[1], "killed") == 0)
        return killed(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    FAIL("usage: ring_stress stream PRODUCERS COUNT SEED | ring_stress killed ROUNDS SEED");
}
