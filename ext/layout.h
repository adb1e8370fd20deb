/* Everything that two processes see: the board, and the segment of each frontend. Every offset is named here and nowhere else.
 *
 * board (one memfd, created by the supervisor, mapped by all)
 *
 *   0        BoardHeader
 *   4096     WorkerPage [MAX_WORKERS]     each worker's doorbell, control cursor, heartbeat and counters
 *
 * segment (one memfd for each frontend, created by the supervisor, mapped by that frontend and by every worker)
 *
 *   0        SegmentHeader                the frontend's doorbell
 *   4096     RingPair [MAX_WORKERS]       submission and completion ring of each worker; untouched pages cost nothing
 *   MARKS_OFFSET   SlotMark [SLOTS_MAX]   for each slot: whether its request is wanted still, and whether it was begun
 *   ARENA_OFFSET   the arena: slots, laid out by arena.h; only the frontend knows which are leased
 *
 * A slot, `capacity` bytes long:
 *
 *   0                     body_length                                     capacity - align64(head_length)
 *   | body                | response, from align64(body_length) on ...    | head: the request's field lines as they came |
 *
 * Invariants
 * 1. Each field has one writer, named beside it; a doorbell's `parked` has its sleeper and, by exchange, its wakers.
 * 2. A response never overlaps the body or the head: a redelivery needs both as they came.
 * 3. Offsets, never pointers. What is read from here is copied once, then range-checked, then used.
 */
#ifndef HEADRACE_LAYOUT_H
#define HEADRACE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define LAYOUT_MAGIC 0x3145434152444148ull /* "HADRACE1", little endian */
#define LAYOUT_VERSION 4u

#define MAX_WORKERS 1024u
#define MAX_FRONTENDS 64u
#define RING_ENTRIES 1024u /* a power of two; also the most requests that one frontend has under way at one worker */
#define SLOTS_MAX 327680u  /* of one arena */
#define SLOT_ALIGN 64u     /* payload starts: a cache line, and what AVX-512 and numpy like best */

static inline uint64_t align64(uint64_t n) { return (n + 63u) & ~(uint64_t)63u; }

/* A sleeper announces that it sleeps; whoever has news for it takes the announcement down and wakes it. Used by workers
 * (futex on `parked`) and by frontends (eventfd) alike; the protocol is in ring.h, its proof in tests/model. */
typedef struct {
    uint32_t parked; /* 1 = asleep or about to be */
    uint32_t pad[15];
} Doorbell;

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t workers; /* pages that follow */
    uint8_t pad[4096 - 16];
} BoardHeader;

/* What the loop that does the work says about itself. */
enum { WORKER_BOOTING = 0, WORKER_IDLE = 1, WORKER_RUNNING = 2, WORKER_LOADING = 3 };

typedef struct {
    Doorbell bell;         /* sleeper: the worker */
    uint64_t control_sent; /* supervisor: control messages sent so far; the worker reads its socket when this moves */
    uint64_t pad0[7];
    uint64_t state;          /* worker: one of WORKER_*, and since when, and at which model */
    uint64_t state_since_ns; /* CLOCK_MONOTONIC */
    uint64_t state_model;
    uint64_t turns; /* loop turns so far: a heartbeat that only moves when the loop does */
    uint64_t pad1[4];
    uint64_t requests; /* worker: counters */
    uint64_t batches;
    uint64_t spins; /* waits that ended while spinning */
    uint64_t parks; /* waits that went to sleep */
    uint64_t bells; /* frontends woken */
    uint64_t copied_bytes;
    uint64_t held_slots; /* completions sent while the model still held a view */
    uint64_t dropped;    /* requests that nobody waited for any more when their turn came: client gone, or deadline passed */
    uint64_t invalid_submissions; /* entries that named memory outside of their slot, or nothing that was waited for */
    uint64_t busy_ns;             /* in states other than idle, up to state_since_ns */
    uint64_t pad2[478];
} WorkerPage;

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t frontend;
    uint64_t segment_bytes;
    uint64_t id_prefix; /* random; request ids are made of it and of the submission's request_id */
    uint64_t pad0[4];
    Doorbell bell; /* sleeper: the frontend */
    uint8_t pad[4096 - 128];
} SegmentHeader;

enum { SUBMIT_RUN = 0, SUBMIT_GRANT = 1 };
enum { SUBMIT_ALONE = 1 }; /* not in one batch with others: a worker died over a batch that this request was in */

/* Frontend to worker. RUN: answer the request in this slot. GRANT: the larger slot that a NEED asked for; `request_id`
 * names the request, `slot`, `generation`, `offset64` and `capacity64` the new slot; a capacity of 0 is a refusal. */
typedef struct {
    uint64_t request_id;
    uint64_t arrival_ns; /* CLOCK_MONOTONIC, head complete */
    uint64_t deadline_ns;
    uint32_t slot; /* index of the lease in the frontend's books */
    uint32_t generation;
    uint32_t offset64;   /* slot's offset in the segment, in units of 64 bytes */
    uint32_t capacity64; /* slot's length, likewise */
    uint32_t body_length;
    uint32_t head_length;
    uint32_t model; /* index in the worker's model table */
    uint16_t attempt; /* deliveries before this one */
    uint8_t op;
    uint8_t kind;   /* body's media type, MEDIA_* */
    uint8_t accept; /* media type wanted back, MEDIA_* */
    uint8_t codings; /* CODED_* */
    uint8_t flags;   /* SUBMIT_ALONE */
    uint8_t pad[5];
} Submission;

/* Content codings (RFC 9110, 8.4.1): the frontend says only that there are some; which, a worker reads in the head. */
enum {
    CODED_BODY = 1,   /* Content-Encoding names other than `identity` */
    CODED_ANSWER = 2, /* Accept-Encoding likewise: the answer may be compressed */
};

/* DONE: the answer lies in `slot`. NEED: the answer takes `length` bytes, more than the slot has room
 * for; GRANT me some. RELEASE: the model let go of the last view on this slot, whose DONE said HELD. */
enum { COMPLETE_DONE = 0, COMPLETE_NEED = 1, COMPLETE_RELEASE = 2 };
enum { COMPLETE_HELD = 1 };

/* Worker to frontend. Of the response, `fields_length` bytes of extra field lines ("name: value\r\n"...) come first, then
 * the body; both inside the slot that `slot` and `generation` name. */
typedef struct {
    uint64_t request_id;
    uint64_t started_ns; /* compute began */
    uint64_t finished_ns;
    uint32_t slot;
    uint32_t generation;
    uint32_t offset;        /* of the field lines, from the start of the slot */
    uint32_t fields_length;
    uint32_t body_offset;   /* of the body, from the start of the slot */
    uint32_t body_length;
    uint16_t status;
    uint8_t op;
    uint8_t flags;
    uint8_t kind; /* media type of the body; MEDIA_OTHER: the fields carry it; MEDIA_NONE: none is sent */
    uint8_t pad;
    uint16_t batch_rows;   /* requests that ran together, this one included; 65535 stands for more */
    uint32_t waited_us;    /* from the worker's taking it to started_ns; UINT32_MAX stands for more */
    uint32_t copied_bytes; /* that the worker copied for it in user space; UINT32_MAX stands for more */
} Completion;

/* What the two sides tell each other about the request in a slot beside the rings, by its request_id, which no other request
 * ever has: so a mark that a predecessor left says nothing. */
typedef struct {
    uint64_t cancelled; /* frontend: nobody waits for this request any more; a worker that has not begun it need not */
    uint64_t begun;     /* worker: this request was put into a batch; counts against its redeliveries when the worker dies */
} SlotMark;

/* One cursor a cache line pair: neighbouring lines are fetched together, and the two sides must not share. */
typedef struct {
    uint64_t tail; /* producer: entries published so far */
    uint64_t pad0[15];
    uint64_t head; /* consumer: entries taken so far */
    uint64_t pad1[15];
} RingHeader;

typedef struct {
    RingHeader submit;
    RingHeader complete;
    uint8_t pad[4096 - 2 * 256];
    Submission submissions[RING_ENTRIES];  /* producer: frontend */
    Completion completions[RING_ENTRIES]; /* producer: worker */
} RingPair;

#define RINGS_OFFSET 4096ull
#define MARKS_OFFSET (RINGS_OFFSET + MAX_WORKERS * (uint64_t)sizeof(RingPair))
#define ARENA_OFFSET (MARKS_OFFSET + SLOTS_MAX * (uint64_t)sizeof(SlotMark))

#define BOARD_BYTES (sizeof(BoardHeader) + MAX_WORKERS * sizeof(WorkerPage))

enum {
    MEDIA_NONE = 0,
    MEDIA_JSON = 1,   /* application/json, also with a charset */
    MEDIA_NPY = 2,    /* application/x-npy */
    MEDIA_CSV = 3,    /* text/csv */
    MEDIA_RAW = 4,    /* application/octet-stream */
    MEDIA_NPZ = 5,    /* application/x-npz */
    MEDIA_TEXT = 6,   /* text/plain */
    MEDIA_FORM = 7,   /* application/x-www-form-urlencoded */
    MEDIA_MULTIPART = 8,
    MEDIA_ANY = 9,    /* Accept only: no Accept, or one that starts with a wildcard */
    MEDIA_OTHER = 10,
};

_Static_assert(sizeof(Doorbell) == 64, "one line");
_Static_assert(sizeof(BoardHeader) == 4096, "one page");
_Static_assert(sizeof(WorkerPage) == 4096, "one page");
_Static_assert(offsetof(WorkerPage, control_sent) == 64, "own line");
_Static_assert(offsetof(WorkerPage, state) == 128, "own line");
_Static_assert(offsetof(WorkerPage, requests) == 192, "own line");
_Static_assert(sizeof(SegmentHeader) == 4096, "one page");
_Static_assert(offsetof(SegmentHeader, bell) == 64, "own line");
_Static_assert(sizeof(Submission) == 64, "one line");
_Static_assert(sizeof(Completion) == 64, "one line");
_Static_assert(sizeof(SlotMark) == 16, "no line in two marks");
_Static_assert(sizeof(RingHeader) == 256, "cursors two lines apart");
_Static_assert(offsetof(RingHeader, head) == 128, "cursors two lines apart");
_Static_assert(sizeof(RingPair) == 4096 + 2 * 64 * RING_ENTRIES, "page aligned");
_Static_assert(offsetof(RingPair, submissions) == 4096, "entries on their own pages");
_Static_assert((RING_ENTRIES & (RING_ENTRIES - 1)) == 0, "masked on use");
_Static_assert(ARENA_OFFSET % 4096 == 0, "page aligned");

#endif
