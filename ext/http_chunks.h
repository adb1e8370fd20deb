/* Chunked bodies: a decoder that takes bytes as they come and hands out the data among them, in place. See http.h. */
#ifndef HEADRACE_HTTP_CHUNKS_H
#define HEADRACE_HTTP_CHUNKS_H

#include "http_common.h"

/* Where a decoder is; the order matters: size line, data, trailer section. */
enum {
    HTTP_IN_SIZE,
    HTTP_IN_EXTENSION,
    HTTP_IN_QUOTES,  /* of an extension */
    HTTP_IN_ESCAPE,  /* behind a backslash in quotes */
    HTTP_IN_SIZE_LF, /* CR of the size line seen */
    HTTP_IN_DATA,
    HTTP_IN_DATA_CR,
    HTTP_IN_DATA_LF,
    HTTP_IN_TRAILER, /* start of a trailer line, or of the blank line */
    HTTP_IN_TRAILER_NAME,
    HTTP_IN_TRAILER_VALUE,
    HTTP_IN_TRAILER_LF,
    HTTP_IN_LAST_LF,
    HTTP_IN_NOTHING, /* the body has ended */
};

/* A chunked body's decoder. Start it with http_chunks_start; read `received` and `left`, leave the rest alone. */
typedef struct {
    uint64_t received; /* data bytes handed out so far */
    uint64_t left;     /* data bytes still to come of the current chunk, known from its size line on */
    uint64_t overhead; /* bytes of size lines and of the CRLF behind data */
    uint64_t size;     /* of the chunk whose size line is being read */
    uint32_t line;     /* bytes of that size line, or of the trailer section */
    uint32_t trailers;
    int16_t state; /* HTTP_IN_*, or the refusal once given */
    uint8_t has_digit;
    uint8_t pad;
    uint32_t pad1;
} HttpChunks;

static inline void http_chunks_start(HttpChunks *c) { memset(c, 0, sizeof *c); }

/* Data bytes of the body as far as announced: what has come, and the rest of the current chunk. To be compared with the limit
 * on bodies after each call, before any data is stored. Cannot overflow: a chunk has less than 2^60 bytes. */
static inline uint64_t http_chunks_announced(const HttpChunks *c) { return c->received + c->left; }

/* One framing byte. HTTP_OK, or HTTP_CHUNK_END, or a refusal. */
static inline int http_take_framing(HttpChunks *c, uint8_t byte, const HttpLimits *limits) {
    if (c->state < HTTP_IN_DATA && ++c->line > limits->max_chunk_line && byte != '\r' && c->state != HTTP_IN_SIZE_LF)
        return HTTP_CHUNK_LINE_TOO_LONG;
    if (c->state >= HTTP_IN_TRAILER && ++c->line > limits->max_trailer) return HTTP_TRAILER_TOO_LARGE;
    switch (c->state) {
    case HTTP_IN_SIZE: {
        int digit = http_hex(byte);
        if (digit >= 0) {
            if (c->size >> 56) return HTTP_CHUNK_TOO_LARGE;
            c->size = c->size << 4 | (uint64_t)digit;
            c->has_digit = 1;
            return HTTP_OK;
        }
        if (!c->has_digit || (byte != '\r' && byte != ';')) return HTTP_BAD_CHUNK_SIZE;
        c->state = byte == ';' ? HTTP_IN_EXTENSION : HTTP_IN_SIZE_LF;
        return HTTP_OK;
    }
    case HTTP_IN_EXTENSION:
        if (byte == '\r') c->state = HTTP_IN_SIZE_LF;
        else if (byte == '"') c->state = HTTP_IN_QUOTES;
        else if (byte == '\n') return HTTP_BARE_LF;
        else if (!(http_class[byte] & HTTP_TOKEN_BYTE) && byte != ';' && byte != '=' && byte != ' ')
            return HTTP_BAD_CHUNK_EXTENSION;
        return HTTP_OK;
    case HTTP_IN_QUOTES: /* followed, so that a CRLF inside of them, where some see a line end and some do not, is refused */
    case HTTP_IN_ESCAPE:
        if (byte == '\n') return HTTP_BARE_LF;
        if (!(http_class[byte] & HTTP_VALUE_BYTE) || byte == '\t') return HTTP_BAD_CHUNK_EXTENSION;
        if (c->state == HTTP_IN_ESCAPE) c->state = HTTP_IN_QUOTES;
        else if (byte == '"') c->state = HTTP_IN_EXTENSION;
        else if (byte == '\\') c->state = HTTP_IN_ESCAPE;
        return HTTP_OK;
    case HTTP_IN_SIZE_LF:
        if (byte != '\n') return HTTP_BARE_CR;
        c->overhead += c->line;
        if (c->overhead > limits->max_chunk_overhead + 10 * c->received) return HTTP_CHUNK_OVERHEAD;
        c->left = c->size;
        c->state = c->size ? HTTP_IN_DATA : HTTP_IN_TRAILER;
        c->size = 0;
        c->line = 0;
        c->has_digit = 0;
        return HTTP_OK;
    case HTTP_IN_DATA_CR:
        if (byte != '\r') return HTTP_BAD_CHUNK_END;
        c->state = HTTP_IN_DATA_LF;
        return HTTP_OK;
    case HTTP_IN_DATA_LF:
        if (byte != '\n') return HTTP_BAD_CHUNK_END;
        c->overhead += 2;
        c->state = HTTP_IN_SIZE;
        return HTTP_OK;
    case HTTP_IN_TRAILER:
        if (byte == '\r') {
            c->state = HTTP_IN_LAST_LF;
            return HTTP_OK;
        }
        if (byte == '\n') return HTTP_BARE_LF;
        if (byte == ' ' || byte == '\t') return HTTP_FOLDED_FIELD;
        if (!(http_class[byte] & HTTP_TOKEN_BYTE)) return HTTP_BAD_FIELD_NAME;
        if (c->trailers++ >= limits->max_trailer_fields) return HTTP_TOO_MANY_TRAILERS;
        c->state = HTTP_IN_TRAILER_NAME;
        return HTTP_OK;
    case HTTP_IN_TRAILER_NAME:
        if (byte == ':') c->state = HTTP_IN_TRAILER_VALUE;
        else if (!(http_class[byte] & HTTP_TOKEN_BYTE)) return HTTP_BAD_FIELD_NAME;
        return HTTP_OK;
    case HTTP_IN_TRAILER_VALUE:
        if (byte == '\r') c->state = HTTP_IN_TRAILER_LF;
        else if (!(http_class[byte] & HTTP_VALUE_BYTE)) return byte == '\n' ? HTTP_BARE_LF : HTTP_BAD_FIELD_VALUE;
        return HTTP_OK;
    case HTTP_IN_TRAILER_LF:
        if (byte != '\n') return HTTP_BARE_CR;
        c->state = HTTP_IN_TRAILER;
        return HTTP_OK;
    default: /* HTTP_IN_LAST_LF */
        if (byte != '\n') return HTTP_BARE_CR;
        c->state = HTTP_IN_NOTHING;
        return HTTP_CHUNK_END;
    }
}

/* Takes up to the next piece of data from a chunked body.
 *
 * buf, len:  bytes that follow those taken before; they need not be kept.
 * used:      how many of them were taken; go on behind them.
 * data:      with HTTP_CHUNK_DATA, a piece of the body of data_len > 0 bytes, inside buf; a chunk may come in many pieces.
 * Returns HTTP_CHUNK_DATA, HTTP_CHUNK_END (the body is complete, bytes behind `used` belong to the next request),
 * HTTP_INCOMPLETE (all bytes were taken), or a refusal. Trailers are judged like the fields of a head, then dropped: none of
 * them, whatever its name, has an effect.
 */
static inline int http_chunks_next(HttpChunks *c, const HttpLimits *limits, const uint8_t *buf, size_t len, size_t *used,
                                   const uint8_t **data, size_t *data_len) {
    size_t at = 0;
    *used = *data_len = 0;
    *data = NULL;
    if (c->state < 0) return c->state;
    if (c->state == HTTP_IN_NOTHING) return HTTP_CHUNK_END;
    while (at < len) {
        if (c->state == HTTP_IN_DATA) {
            size_t n = c->left < len - at ? (size_t)c->left : len - at;
            c->left -= n;
            c->received += n;
            if (c->left == 0) c->state = HTTP_IN_DATA_CR;
            *data = buf + at;
            *data_len = n;
            *used = at + n;
            return HTTP_CHUNK_DATA;
        }
        int code = http_take_framing(c, buf[at], limits);
        if (code < 0) {
            c->state = (int16_t)code;
            *used = at;
            return code;
        }
        at++;
        if (code == HTTP_CHUNK_END) {
            *used = at;
            return code;
        }
    }
    *used = at;
    return HTTP_INCOMPLETE;
}

#endif
