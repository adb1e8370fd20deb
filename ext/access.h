/* Whether a request bears the token (RFC 6750, 2.1): exactly one Authorization line, `Bearer TOKEN`.
 *
 * How long a comparison takes depends on lengths, never on where a wrong token first differs from the right one.
 */
#ifndef HEADRACE_ACCESS_H
#define HEADRACE_ACCESS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int access_equal(const uint8_t *given, size_t given_length, const uint8_t *token, size_t length) {
    volatile uint8_t difference = given_length != length;
    for (size_t i = 0; i < given_length; i++) difference |= given[i] ^ token[i % length];
    return difference == 0;
}

static inline int access_starts(const uint8_t *p, size_t n, const char *lower, size_t length) {
    if (n < length) return 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t c = p[i] >= 'A' && p[i] <= 'Z' ? (uint8_t)(p[i] | 0x20) : p[i];
        if (c != (uint8_t)lower[i]) return 0;
    }
    return 1;
}

/* lines: the field lines of a head that was parsed, each with its CRLF. length: of the token, 1 or more. */
static inline int access_granted(const uint8_t *lines, size_t n, const uint8_t *token, size_t length) {
    int found = 0, granted = 0;
    for (size_t at = 0; at < n;) {
        const uint8_t *line = lines + at;
        const uint8_t *stop = memchr(line, '\n', n - at);
        if (!stop) break;
        size_t end = (size_t)(stop - line);
        at += end + 1;
        if (!access_starts(line, end, "authorization:", 14)) continue;
        found++;
        size_t start = 14;
        while (end > start && (line[end - 1] == '\r' || line[end - 1] == ' ' || line[end - 1] == '\t')) end--;
        while (start < end && (line[start] == ' ' || line[start] == '\t')) start++;
        if (!access_starts(line + start, end - start, "bearer ", 7)) continue;
        for (start += 7; start < end && line[start] == ' ';) start++;
        granted = access_equal(line + start, end - start, token, length);
    }
    return found == 1 && granted;
}

#endif
