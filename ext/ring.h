/* Single-producer single-consumer rings of 64-byte entries, and the doorbell that wakes a sleeping consumer.
 *
 * Free-running 64-bit cursors, masked on use. Acquire and release order the entries; one full fence on each side orders the
 * doorbell. No lock and no retry loop: a process that dies at any instruction leaves a ring that its peer can go on reading.
 * (The shape is io_uring's.) The labels [publish], [retire] and [park] name pairs: search for the label to find its partner.
 *
 * Why two fences and not one: producer and sleeper each store one word and then load the other's. Without a full fence on
 * BOTH sides each may load the old value (store buffers), the producer sees nobody asleep, the sleeper sees an empty ring,
 * and the wake-up is lost. No stress test finds that on x86; tests/model does at once.
 */
#ifndef HEADRACE_RING_H
#define HEADRACE_RING_H

#include <string.h>

#include "atomics.h"
#include "layout.h"

/* One end of a ring. The private half is never read back from shared memory: a cursor of ours that a stray write spoilt
 * must not steer us. */
typedef struct {
    RingHeader *header;
    void *entries;
    uint64_t cursor; /* the cursor that this end owns: tail for the producer, head for the consumer */
    uint64_t seen;   /* the other end's cursor as last seen; spares its cache line */
} RingEnd;

static inline void ring_attach(RingEnd *end, RingHeader *header, void *entries, int is_producer) {
    end->header = header;
    end->entries = entries;
    end->cursor = load_acquire(is_producer ? &header->tail : &header->head);
    end->seen = load_acquire(is_producer ? &header->head : &header->tail);
}

/* Only while the other end is not attached: a new ring, or one whose peer was reaped. */
static inline void ring_reset(RingHeader *header) {
    store_release(&header->tail, 0);
    store_release(&header->head, 0);
}

/* Copies the entry in and publishes it. 0 when full: the caller owns the back-pressure. */
static inline int ring_push(RingEnd *end, const void *entry) {
    uint64_t tail = end->cursor;
    if (tail - end->seen >= RING_ENTRIES) {
        end->seen = load_acquire(&end->header->head); /* [retire] the consumer has finished reading the entry */
        if (tail - end->seen >= RING_ENTRIES) return 0; /* also when a spoilt head lies ahead of tail */
    }
    memcpy((char *)end->entries + (tail & (RING_ENTRIES - 1)) * 64, entry, 64);
    end->cursor = tail + 1;
    store_release(&end->header->tail, tail + 1); /* [publish] the entry before the cursor */
    return 1;
}

/* Takes the oldest entry. 0 when empty. */
static inline int ring_pop(RingEnd *end, void *entry) {
    uint64_t head = end->cursor;
    if (head == end->seen) {
        uint64_t tail = load_acquire(&end->header->tail); /* [publish] the cursor before the entry */
        if (tail - head > RING_ENTRIES) return 0;         /* spoilt: behind us, or further than a ring ahead */
        end->seen = tail;
        if (head == tail) return 0;
    }
    memcpy(entry, (char *)end->entries + (head & (RING_ENTRIES - 1)) * 64, 64);
    end->cursor = head + 1;
    store_release(&end->header->head, head + 1); /* [retire] we have finished reading the entry */
    return 1;
}

/* Whether ring_pop would take nothing. So it says of a spoilt tail too: the consumer would never sleep again. */
static inline int ring_is_empty(const RingEnd *end) {
    return end->cursor == end->seen && load_acquire(&end->header->tail) - end->cursor - 1 >= RING_ENTRIES;
}

/* The waker's half: after publishing, by ring_push or otherwise. 1 when the sleeper sleeps (or is about to) and it is the
 * caller who must wake it: of many wakers only one pays the system call. */
static inline int doorbell_must_ring(Doorbell *bell) {
    fence_seq_cst(); /* [park] our publication, THEN our look at parked */
    return load_relaxed32(&bell->parked) != 0 && exchange32(&bell->parked, 0) != 0;
}

/* The sleeper's half: announce, THEN look at everything one waits for once more; if anything is there, doorbell_unpark
 * and go on, else sleep until parked is 0. */
static inline void doorbell_park(Doorbell *bell) {
    store_relaxed32(&bell->parked, 1);
    fence_seq_cst(); /* [park] our parked store, THEN our last look at what we wait for */
}

static inline void doorbell_unpark(Doorbell *bell) { store_relaxed32(&bell->parked, 0); }

#endif
