/* What is read of a head for the access log and for traces, and how a trace goes on in the head that a worker gets. */
#ifndef HEADRACE_NOTE_H
#define HEADRACE_NOTE_H

#include "http.h"

/* Fields that no request needs to be served; positions are in the block of field lines. */
typedef struct {
    HttpSpan target_model; /* first X-Amzn-SageMaker-Target-Model; empty: none */
    HttpSpan traceparent;  /* first */
    HttpSpan tracestate;   /* first */
    uint32_t traceparents; /* lines of that name */
    uint32_t tracestates;
} NoteFields;

/* lines: the field lines of a head that was parsed. */
static inline NoteFields note_fields(const uint8_t *lines, size_t n) {
    NoteFields found = {0};
    HttpSpan name, value;
    for (size_t at = 0; http_next_field(lines, n, &at, &name, &value);) {
        const uint8_t *p = lines + name.offset;
        if (HTTP_IS(p, name.length, "traceparent")) {
            if (found.traceparents++ == 0) found.traceparent = value;
        } else if (HTTP_IS(p, name.length, "tracestate")) {
            if (found.tracestates++ == 0) found.tracestate = value;
        } else if (found.target_model.length == 0 && HTTP_IS(p, name.length, "x-amzn-sagemaker-target-model")) {
            found.target_model = value;
        }
    }
    return found;
}

/* Whether the request of this number is in a share of (most + 1) / 2^64 of all. Multiples of an odd number near 2^64 over the
 * golden ratio spread evenly (a Weyl sequence), so a share of 1 % is one of each hundred, never a burst of them. */
static inline int note_is_sampled(uint64_t number, uint64_t most) { return number * 0x9e3779b97f4a7c15ull <= most; }

/* The next of a series of numbers that nobody need be unable to guess: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). */
static inline uint64_t note_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* traceparent of W3C Trace Context, level 1, section 3.2.2: VERSION-TRACE-PARENT-FLAGS in lower-case hexadecimal digits,
 *
 *     00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
 */
#define TRACE_LENGTH 55u
#define TRACE_PARENT_AT 36u
#define TRACE_FLAGS_AT 53u
#define TRACE_NAME "traceparent: "
#define TRACE_LINE_LENGTH (13u + TRACE_LENGTH + 2u) /* a whole field line with it */

typedef struct {
    uint64_t high, low; /* of the trace's id */
    uint64_t parent;
    uint64_t flags; /* 1: sampled */
} Trace;

static inline int trace_read_hex(const uint8_t *p, unsigned digits, uint64_t *value) {
    *value = 0;
    for (unsigned i = 0; i < digits; i++) {
        int digit = p[i] >= 'A' && p[i] <= 'F' ? -1 : http_hex(p[i]);
        if (digit < 0) return 0;
        *value = *value << 4 | (uint64_t)digit;
    }
    return 1;
}

static inline void trace_write_hex(uint8_t *p, unsigned digits, uint64_t value) {
    for (unsigned i = digits; i-- > 0; value >>= 4) p[i] = (uint8_t)"0123456789abcdef"[value & 15];
}

/* 0 where it is none, or has an id of zeros. A higher version is read as far as this one goes (section 3.2.4 of level 1:
 * what is behind the flags begins with a dash); version ff is none. */
static inline int trace_read(const uint8_t *p, size_t n, Trace *trace) {
    uint64_t version;
    if (n < TRACE_LENGTH || !trace_read_hex(p, 2, &version) || version == 0xff) return 0;
    if (version == 0 ? n != TRACE_LENGTH : n > TRACE_LENGTH && p[TRACE_LENGTH] != '-') return 0;
    if (p[2] != '-' || p[35] != '-' || p[52] != '-') return 0;
    if (!trace_read_hex(p + 3, 16, &trace->high) || !trace_read_hex(p + 19, 16, &trace->low)) return 0;
    if (!trace_read_hex(p + TRACE_PARENT_AT, 16, &trace->parent) || !trace_read_hex(p + TRACE_FLAGS_AT, 2, &trace->flags)) return 0;
    return (trace->high | trace->low) != 0 && trace->parent != 0;
}

/* Puts a field line with it to `out`, which has TRACE_LINE_LENGTH bytes. */
static inline void trace_write_line(uint8_t *out, const Trace *trace) {
    memcpy(out, TRACE_NAME "00-", 16);
    trace_write_hex(out + 16, 16, trace->high);
    trace_write_hex(out + 32, 16, trace->low);
    out[48] = '-';
    trace_write_hex(out + 49, 16, trace->parent);
    out[65] = '-';
    trace_write_hex(out + 66, 2, trace->flags);
    memcpy(out + 68, "\r\n", 2);
}

#endif
