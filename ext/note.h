/* What is read of a head for the access log: a field that no request needs to be served. */
#ifndef HEADRACE_NOTE_H
#define HEADRACE_NOTE_H

#include "http.h"

/* The value of the first X-Amzn-SageMaker-Target-Model line among the field lines of a head that was parsed; empty: none. */
static inline HttpSpan note_target_model(const uint8_t *lines, size_t n) {
    HttpSpan name, value;
    for (size_t at = 0; http_next_field(lines, n, &at, &name, &value);)
        if (HTTP_IS(lines + name.offset, name.length, "x-amzn-sagemaker-target-model")) return value;
    return (HttpSpan){0, 0};
}

/* Whether the request of this number is in a share of (most + 1) / 2^64 of all. Multiples of an odd number near 2^64 over the
 * golden ratio spread evenly (a Weyl sequence), so a share of 1 % is one of each hundred, never a burst of them. */
static inline int note_is_sampled(uint64_t number, uint64_t most) { return number * 0x9e3779b97f4a7c15ull <= most; }

#endif
