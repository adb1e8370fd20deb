/* HTTP/1.1 answers, as a client reads them: piece by piece, in place, with no memory but a stash for a head that comes in parts.
 *
 * Feed answer_next() the bytes as they come. It says what it took, and either hands out a piece of the body, or that the answer
 * is whole, or that more is needed, or that this is no HTTP. Interim answers (1xx) are read over. RFC 9112, section 6.3, gives
 * the order in which a body's length is found; what it leaves unclear (two lengths that differ, an unknown transfer coding) is
 * refused, since nobody could say where the next answer begins.
 */
#ifndef HEADRACE_ANSWER_H
#define HEADRACE_ANSWER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http_chunks.h"

#define ANSWER_HEAD_MAX 65536u

enum { ANSWER_BAD = -1, ANSWER_MORE = 0, ANSWER_DATA = 1, ANSWER_WHOLE = 2 };
enum { ANSWER_IN_HEAD, ANSWER_IN_LENGTH, ANSWER_IN_CHUNKS, ANSWER_TO_END, ANSWER_OVER };

typedef struct {
    uint64_t left;    /* of a body whose length is known */
    HttpChunks chunks;
    uint8_t *stash;   /* a head in parts; kept for the next one */
    uint32_t stashed; /* bytes of it */
    uint16_t status;
    uint8_t state;
    uint8_t closes; /* the connection ends behind this answer */
} Answer;

static inline void answer_start(Answer *a) {
    a->state = ANSWER_IN_HEAD;
    a->stashed = 0;
    a->status = 0;
    a->closes = 0;
}

static inline void answer_free(Answer *a) {
    free(a->stash);
    a->stash = NULL;
}

/* Has anything of the answer come? */
static inline int answer_has_begun(const Answer *a) { return a->state != ANSWER_IN_HEAD || a->stashed; }

static inline int answer_name_is(const uint8_t *line, size_t colon, const char *name) {
    return colon == strlen(name) && !strncasecmp((const char *)line, name, colon);
}

/* Does a comma-separated list have this word? */
static inline int answer_has_word(const uint8_t *at, size_t len, const char *word) {
    size_t wanted = strlen(word);
    while (len) {
        const uint8_t *comma = memchr(at, ',', len);
        size_t part = comma ? (size_t)(comma - at) : len, n = part;
        const uint8_t *item = at;
        while (n && (*item == ' ' || *item == '\t')) item++, n--;
        while (n && (item[n - 1] == ' ' || item[n - 1] == '\t')) n--;
        if (n == wanted && !strncasecmp((const char *)item, word, n)) return 1;
        if (!comma) return 0;
        at += part + 1;
        len -= part + 1;
    }
    return 0;
}

/* Digits and nothing else, less than 10^18. */
static inline int answer_length(const uint8_t *at, size_t len, uint64_t *length) {
    if (!len || len > 18) return 0;
    *length = 0;
    for (size_t i = 0; i < len; i++) {
        if (at[i] < '0' || at[i] > '9') return 0;
        *length = *length * 10 + (at[i] - '0');
    }
    return 1;
}

/* Reads a whole head, its blank line included. ANSWER_MORE when it is that of an answer whose body (if any) comes now. */
static inline int answer_read_head(Answer *a, const uint8_t *head, size_t len) {
    if (len < 14 || memcmp(head, "HTTP/1.", 7) || (head[7] != '0' && head[7] != '1') || head[8] != ' ') return ANSWER_BAD;
    for (int i = 9; i < 12; i++)
        if (head[i] < '0' || head[i] > '9') return ANSWER_BAD;
    if (head[12] != ' ' && head[12] != '\r') return ANSWER_BAD;
    a->status = (uint16_t)((head[9] - '0') * 100 + (head[10] - '0') * 10 + (head[11] - '0'));
    int has_length = 0, is_chunked = 0, keeps = head[7] == '1';
    uint64_t length = 0;
    const uint8_t *line = memchr(head, '\n', len), *end = head + len - 2; /* the blank line */
    if (!line || line[-1] != '\r') return ANSWER_BAD;
    for (line++; line < end;) {
        const uint8_t *lf = memchr(line, '\n', (size_t)(head + len - line));
        if (!lf || lf == line || lf[-1] != '\r') return ANSWER_BAD;
        size_t n = (size_t)(lf - 1 - line);
        const uint8_t *colon = memchr(line, ':', n);
        if (!colon || colon == line) return ANSWER_BAD;
        size_t name = (size_t)(colon - line), value = n - name - 1;
        const uint8_t *at = colon + 1;
        while (value && (*at == ' ' || *at == '\t')) at++, value--;
        while (value && (at[value - 1] == ' ' || at[value - 1] == '\t')) value--;
        if (answer_name_is(line, name, "content-length")) {
            uint64_t found;
            if (!answer_length(at, value, &found) || (has_length && found != length)) return ANSWER_BAD;
            has_length = 1;
            length = found;
        } else if (answer_name_is(line, name, "transfer-encoding")) {
            if (is_chunked || value != 7 || strncasecmp((const char *)at, "chunked", 7)) return ANSWER_BAD;
            is_chunked = 1;
        } else if (answer_name_is(line, name, "connection")) {
            if (answer_has_word(at, value, "close")) keeps = 0;
            else if (answer_has_word(at, value, "keep-alive")) keeps = 1;
        }
        line = lf + 1;
    }
    if (a->status < 200) {
        if (a->status < 100 || a->status == 101) return ANSWER_BAD;
        a->status = 0;
        a->state = ANSWER_IN_HEAD;
        return ANSWER_MORE;
    }
    a->closes = !keeps;
    if (a->status == 204 || a->status == 304) {
        a->state = ANSWER_OVER;
    } else if (is_chunked) {
        if (has_length) return ANSWER_BAD;
        http_chunks_start(&a->chunks);
        a->state = ANSWER_IN_CHUNKS;
    } else if (has_length) {
        a->left = length;
        a->state = length ? ANSWER_IN_LENGTH : ANSWER_OVER;
    } else {
        a->closes = 1;
        a->state = ANSWER_TO_END;
    }
    return ANSWER_MORE;
}

/* Takes bytes of a head until it is whole and read. `used` of them were taken. */
static inline int answer_take_head(Answer *a, const uint8_t *buf, size_t len, size_t *used) {
    const uint8_t *end = a->stashed ? NULL : memmem(buf, len, "\r\n\r\n", 4);
    if (end) { /* nearly always: a head in one piece is read where it lies */
        *used = (size_t)(end - buf) + 4;
        return answer_read_head(a, buf, *used);
    }
    if (!a->stash && !(a->stash = malloc(ANSWER_HEAD_MAX))) return ANSWER_BAD;
    size_t room = ANSWER_HEAD_MAX - a->stashed, n = len < room ? len : room, before = a->stashed;
    memcpy(a->stash + before, buf, n);
    size_t from = before < 3 ? 0 : before - 3;
    end = memmem(a->stash + from, before + n - from, "\r\n\r\n", 4);
    if (!end) {
        *used = n;
        a->stashed += (uint32_t)n;
        return a->stashed == ANSWER_HEAD_MAX ? ANSWER_BAD : ANSWER_MORE;
    }
    size_t whole = (size_t)(end - a->stash) + 4;
    *used = whole - before;
    a->stashed = 0;
    return answer_read_head(a, a->stash, whole);
}

/* Takes up to the next event. used: bytes taken; data, data_len: with ANSWER_DATA, a piece of the body inside buf.
 * ANSWER_MORE: all bytes were taken. ANSWER_WHOLE: the answer has ended behind `used`. */
static inline int answer_next(Answer *a, const HttpLimits *limits, const uint8_t *buf, size_t len, size_t *used,
                              const uint8_t **data, size_t *data_len) {
    size_t at = 0;
    *used = *data_len = 0;
    *data = NULL;
    while (a->state == ANSWER_IN_HEAD) {
        if (at == len) return ANSWER_MORE;
        size_t taken = 0;
        int code = answer_take_head(a, buf + at, len - at, &taken);
        at += taken;
        *used = at;
        if (code) return code;
    }
    if (a->state == ANSWER_OVER) return ANSWER_WHOLE;
    if (at == len) return ANSWER_MORE;
    if (a->state == ANSWER_IN_CHUNKS) {
        size_t taken;
        int code = http_chunks_next(&a->chunks, limits, buf + at, len - at, &taken, data, data_len);
        *used = at + taken;
        if (http_is_error(code)) return ANSWER_BAD;
        if (code == HTTP_CHUNK_END) a->state = ANSWER_OVER;
        return code == HTTP_CHUNK_END ? ANSWER_WHOLE : code == HTTP_CHUNK_DATA ? ANSWER_DATA : ANSWER_MORE;
    }
    *data = buf + at;
    *data_len = len - at;
    if (a->state == ANSWER_IN_LENGTH) {
        if (*data_len > a->left) *data_len = (size_t)a->left;
        a->left -= *data_len;
        if (!a->left) a->state = ANSWER_OVER;
    }
    *used = at + *data_len;
    return ANSWER_DATA;
}

/* The connection has ended. ANSWER_WHOLE when that ends the answer as it should, else ANSWER_BAD. */
static inline int answer_end(Answer *a) {
    if (a->state != ANSWER_TO_END) return ANSWER_BAD;
    a->state = ANSWER_OVER;
    return ANSWER_WHOLE;
}

#endif
