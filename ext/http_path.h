/* Paths: a target's path as decoded segments. See http.h. */
#ifndef HEADRACE_HTTP_PATH_H
#define HEADRACE_HTTP_PATH_H

#include "http_common.h"

/* A path's segments, decoded. Most routes have fewer; a deeper path leads nowhere. */
#define HTTP_SEGMENTS 4u

typedef struct {
    uint32_t count;
    HttpSpan segments[HTTP_SEGMENTS]; /* in the scratch buffer */
} HttpPath;

/* Splits a path at its slashes and decodes each segment once.
 *
 * path, len:     as HttpHead.path says; empty is the root.
 * scratch, room: receives the decoded segments, one behind the other; len bytes are always enough.
 * Returns HTTP_OK or a refusal. "/" has no segments, and one slash at the end does not count. Bytes from 0x80 on pass as they
 * are. Segments are names to look up in a table, never parts of a file name.
 */
static inline int http_split_path(const uint8_t *path, size_t len, HttpPath *out, uint8_t *scratch, size_t room) {
    size_t filled = 0;
    memset(out, 0, sizeof *out);
    if (len && path[0] != '/') return HTTP_BAD_TARGET;
    for (size_t at = 1; at < len; at++) { /* at each turn: behind a slash */
        if (out->count == HTTP_SEGMENTS) return HTTP_PATH_TOO_DEEP;
        size_t start = filled;
        for (; at < len && path[at] != '/'; at++) {
            uint8_t byte = path[at];
            if (byte == '%') {
                int high = len - at > 2 ? http_hex(path[at + 1]) : -1;
                int low = high >= 0 ? http_hex(path[at + 2]) : -1;
                if (low < 0) return HTTP_BAD_ESCAPE;
                byte = (uint8_t)(high << 4 | low);
                at += 2;
            }
            if (byte < ' ' || byte == 0x7f || byte == '/' || byte == '\\') return HTTP_BAD_PATH_BYTE;
            if (filled == room) return HTTP_PATH_TOO_LONG;
            scratch[filled++] = byte;
        }
        size_t n = filled - start;
        if (n == 0) return HTTP_EMPTY_SEGMENT;
        if (scratch[start] == '.' && (n == 1 || (n == 2 && scratch[start + 1] == '.'))) return HTTP_DOT_SEGMENT;
        out->segments[out->count++] = (HttpSpan){(uint32_t)start, (uint32_t)n};
    }
    return HTTP_OK;
}

#endif
