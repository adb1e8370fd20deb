/* Request heads: the request line and the field lines, and what they say about the body and the connection. See http.h. */
#ifndef HEADRACE_HTTP_HEAD_H
#define HEADRACE_HTTP_HEAD_H

#include "http_common.h"
#include "layout.h"

enum {
    HTTP_OTHER = 0, /* any other token */
    HTTP_GET = 1,
    HTTP_HEAD = 2,
    HTTP_POST = 3,
    HTTP_PUT = 4,
    HTTP_DELETE = 5,
    HTTP_OPTIONS = 6,
    HTTP_PATCH = 7,
    HTTP_TRACE = 8,
    HTTP_CONNECT = 9,
};

static inline const char *http_method_name(unsigned method) {
    static const char *const names[] = {"OTHER",  "GET",     "HEAD",  "POST",  "PUT",
                                        "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"};
    return names[method <= HTTP_CONNECT ? method : HTTP_OTHER];
}

enum {
    HTTP_KEEP_ALIVE = 1,      /* the connection may carry another request: decided from version and Connection */
    HTTP_CHUNKED = 2,         /* the body is chunked */
    HTTP_HAS_LENGTH = 4,      /* a Content-Length was sent; without it and HTTP_CHUNKED there is no body */
    HTTP_EXPECT_CONTINUE = 8, /* never in HTTP/1.0 */
    HTTP_EXPECT_OTHER = 16,   /* an expectation that is not 100-continue; never in HTTP/1.0 */
};

typedef struct {
    uint64_t timeout_ms;     /* of X-Headrace-Timeout-Ms; 0: none was sent; UINT64_MAX: no number from 1 on, or sent twice */
    uint64_t content_length; /* UINT64_MAX stands for every number that does not fit; it never wraps */
    HttpSpan path;           /* as sent, still escaped, query apart; "*" only with OPTIONS; empty: absolute form, no path */
    HttpSpan query;          /* without its question mark; empty also where there is none */
    HttpSpan fields;         /* the field lines, each with its CRLF; not the blank line */
    HttpSpan content_type;   /* first Content-Type and first Accept value, white space around it cut off */
    HttpSpan accept;
    uint32_t head_length; /* bytes from the start of the buffer up to and including the blank line; the body begins here */
    uint32_t skipped;     /* bytes of blank lines in front; part of head_length */
    uint32_t field_count;
    uint16_t flags; /* HTTP_KEEP_ALIVE ... */
    uint8_t method; /* HTTP_GET ... */
    uint8_t minor;  /* 0 or 1 */
    uint8_t content_kind; /* MEDIA_*, parameters ignored; MEDIA_NONE: absent or empty */
    uint8_t accept_kind;  /* MEDIA_*, what to answer with: see http_accept */
    uint8_t codings;      /* CODED_* */
    uint8_t pad;
} HttpHead;

/* How far a head has been read. Zero it before each new head; private otherwise. */
typedef struct {
    uint32_t at;    /* first byte not judged yet */
    uint32_t line;  /* start of its line */
    uint32_t mark;  /* start of the part of the line that `state` is in: target, version or value */
    uint32_t name;  /* length of the field's name */
    uint16_t seen;  /* HTTP_SEEN_* */
    uint8_t state;  /* HTTP_AT_* */
    int8_t refusal; /* once given it stays */
    uint32_t pad;
    HttpHead head; /* as far as it is known */
} HttpScan;

enum { HTTP_SEEN_HOST = 1, HTTP_SEEN_CLOSE = 2, HTTP_SEEN_KEEP_ALIVE = 4, HTTP_SEEN_TYPE = 8, HTTP_SEEN_ACCEPT = 16 };

enum {
    HTTP_AT_START,    /* of a line before the request line */
    HTTP_AT_BLANK_LF, /* CR of a blank line seen */
    HTTP_AT_METHOD,
    HTTP_AT_TARGET,
    HTTP_AT_VERSION, /* including its CRLF */
    HTTP_AT_FIELD,   /* start of a field line, or of the blank line */
    HTTP_AT_NAME,
    HTTP_AT_VALUE,
    HTTP_AT_FIELD_LF, /* CR of a field line seen */
    HTTP_AT_END_LF,   /* CR of the last blank line seen */
};

static inline uint8_t http_method(const uint8_t *p, size_t n) {
    for (unsigned method = HTTP_GET; method <= HTTP_CONNECT; method++) {
        const char *name = http_method_name(method);
        if (strlen(name) == n && memcmp(p, name, n) == 0) return (uint8_t)method;
    }
    return HTTP_OTHER;
}

/* host[:port] as RFC 3986 has it. User information is not part of it. */
static inline int http_host_ok(const uint8_t *p, size_t n) {
    size_t at = 0;
    if (n && p[0] == '[') {
        for (at = 1; at < n && ((http_class[p[at]] & HTTP_HOST_BYTE) || p[at] == ':');) at++;
        if (at == 1 || at == n || p[at++] != ']') return 0;
    } else {
        at = http_span(p, 0, n, HTTP_HOST_BYTE);
    }
    return at == n || (p[at] == ':' && http_span(p, at + 1, n, HTTP_DIGIT_BYTE) == n);
}

/* MEDIA_* of a media type without parameters; MEDIA_NONE for none, MEDIA_OTHER for an unknown one. */
static inline uint8_t http_media(const uint8_t *p, size_t n) {
    if (n == 0) return MEDIA_NONE;
    if (HTTP_IS(p, n, "application/json")) return MEDIA_JSON;
    if (HTTP_IS(p, n, "application/octet-stream")) return MEDIA_RAW;
    if (HTTP_IS(p, n, "application/x-npy")) return MEDIA_NPY;
    if (HTTP_IS(p, n, "application/x-npz")) return MEDIA_NPZ;
    if (HTTP_IS(p, n, "text/csv")) return MEDIA_CSV;
    if (HTTP_IS(p, n, "text/plain")) return MEDIA_TEXT;
    if (HTTP_IS(p, n, "application/x-www-form-urlencoded")) return MEDIA_FORM;
    if (HTTP_IS(p, n, "multipart/form-data")) return MEDIA_MULTIPART;
    return MEDIA_OTHER;
}

/* First position in [at, end) of this separator outside of quoted strings, or end. */
static inline size_t http_find_outside_quotes(const uint8_t *p, size_t at, size_t end, uint8_t separator) {
    for (int is_quoted = 0; at < end && (is_quoted || p[at] != separator); at++) {
        if (p[at] == '"') is_quoted = !is_quoted;
        if (is_quoted && p[at] == '\\' && at + 1 < end) at++;
    }
    return at;
}

/* Whether a media range's parameters, in [at, end) and each behind a semicolon, say q=0. */
static inline int http_is_excluded(const uint8_t *p, size_t at, size_t end) {
    while (at < end) {
        size_t next = http_find_outside_quotes(p, at + 1, end, ';');
        HttpSpan parameter = http_trim(p, at + 1, next);
        const uint8_t *q = p + parameter.offset;
        if (parameter.length >= 3 && HTTP_IS(q, 3, "q=0")) {
            size_t i = 3;
            while (i < parameter.length && (q[i] == '0' || q[i] == '.')) i++;
            return i == parameter.length;
        }
        at = next;
    }
    return 0;
}

/* What to answer with, by one Accept value: the first media range in the list that can be served and is not excluded by q=0.
 * Weights do not reorder the list. MEDIA_ANY for a wildcard or an empty list, MEDIA_OTHER where nothing fits. */
static inline uint8_t http_accept(const uint8_t *p, size_t n) {
    if (n == 0) return MEDIA_ANY;
    for (size_t at = 0; at < n;) {
        size_t end = http_find_outside_quotes(p, at, n, ',');
        size_t type_end = http_find_outside_quotes(p, at, end, ';');
        HttpSpan type = http_trim(p, at, type_end);
        if (!http_is_excluded(p, type_end, end)) {
            if (HTTP_IS(p + type.offset, type.length, "*/*") || HTTP_IS(p + type.offset, type.length, "application/*"))
                return MEDIA_ANY;
            uint8_t kind = http_media(p + type.offset, type.length);
            if (kind >= MEDIA_JSON && kind <= MEDIA_TEXT && kind != MEDIA_NPZ) return kind;
        }
        at = end + 1;
    }
    return MEDIA_OTHER;
}

/* Connection: close and keep-alive count as whole list members; all others are none of our business. */
static inline void http_take_connection(const uint8_t *p, size_t n, HttpScan *scan) {
    for (size_t at = 0; at < n;) {
        const uint8_t *comma = memchr(p + at, ',', n - at);
        size_t end = comma ? (size_t)(comma - p) : n;
        HttpSpan word = http_trim(p, at, end);
        if (HTTP_IS(p + word.offset, word.length, "close")) scan->seen |= HTTP_SEEN_CLOSE;
        if (HTTP_IS(p + word.offset, word.length, "keep-alive")) scan->seen |= HTTP_SEEN_KEEP_ALIVE;
        at = end + 1;
    }
}

/* Whether a list of content codings says anything. */
static inline int http_is_coded(const uint8_t *p, size_t n) { return n != 0 && !HTTP_IS(p, n, "identity"); }

static inline int http_take_length(const uint8_t *p, size_t n, HttpHead *head) {
    if (head->flags & HTTP_CHUNKED) return HTTP_TWO_FRAMINGS;
    if (head->flags & HTTP_HAS_LENGTH) return HTTP_TWO_LENGTHS;
    if (n == 0 || http_span(p, 0, n, HTTP_DIGIT_BYTE) != n) return HTTP_BAD_LENGTH;
    uint64_t length = 0;
    for (size_t i = 0; i < n; i++)
        length = length > (UINT64_MAX - 9) / 10 ? UINT64_MAX : length * 10 + (uint64_t)(p[i] - '0');
    head->content_length = length;
    head->flags |= HTTP_HAS_LENGTH;
    return HTTP_OK;
}

/* 1 to 12 decimal digits, not all of them 0; else UINT64_MAX. */
static inline uint64_t http_milliseconds(const uint8_t *p, size_t n) {
    uint64_t value = 0;
    if (n == 0 || n > 12) return UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        if (!HTTP_DIGIT(p[i])) return UINT64_MAX;
        value = 10 * value + (uint64_t)(p[i] - '0');
    }
    return value ? value : UINT64_MAX;
}

/* A whole field line: name at scan->line, value in [scan->mark, end). Only what frames or steers the request is looked at. */
static inline int http_take_field(const uint8_t *buf, size_t end, HttpScan *scan) {
    HttpHead *head = &scan->head;
    const uint8_t *name = buf + scan->line;
    switch (scan->name) {
    case 4: case 6: case 10: case 12: case 14: case 15: case 16: case 17: case 21: break;
    default: return HTTP_OK;
    }
    HttpSpan value = http_trim(buf, scan->mark, end);
    const uint8_t *p = buf + value.offset;
    const size_t n = value.length;
    switch (scan->name) {
    case 4:
        if (!HTTP_IS(name, 4, "host")) break;
        if (scan->seen & HTTP_SEEN_HOST) return HTTP_TWO_HOSTS;
        if (!http_host_ok(p, n)) return HTTP_BAD_HOST;
        scan->seen |= HTTP_SEEN_HOST;
        break;
    case 6:
        if (HTTP_IS(name, 6, "accept")) {
            if (!(scan->seen & HTTP_SEEN_ACCEPT)) head->accept = value;
            /* Several lines are one list: a later one counts while nothing fitted yet. */
            if (!(scan->seen & HTTP_SEEN_ACCEPT) || head->accept_kind == MEDIA_OTHER) head->accept_kind = http_accept(p, n);
            scan->seen |= HTTP_SEEN_ACCEPT;
        } else if (HTTP_IS(name, 6, "expect") && n > 0 && head->minor > 0) {
            head->flags |= HTTP_IS(p, n, "100-continue") ? HTTP_EXPECT_CONTINUE : HTTP_EXPECT_OTHER;
        }
        break;
    case 10:
        if (HTTP_IS(name, 10, "connection")) http_take_connection(p, n, scan);
        break;
    case 12:
        if (!HTTP_IS(name, 12, "content-type") || (scan->seen & HTTP_SEEN_TYPE)) break;
        scan->seen |= HTTP_SEEN_TYPE;
        head->content_type = value;
        head->content_kind = http_media(p, http_trim(p, 0, http_find_outside_quotes(p, 0, n, ';')).length);
        break;
    case 14:
        if (HTTP_IS(name, 14, "content-length")) return http_take_length(p, n, head);
        break;
    case 15:
        if (HTTP_IS(name, 15, "accept-encoding") && http_is_coded(p, n)) head->codings |= CODED_ANSWER;
        break;
    case 16:
        if (HTTP_IS(name, 16, "content-encoding") && http_is_coded(p, n)) head->codings |= CODED_BODY;
        break;
    case 17:
        if (!HTTP_IS(name, 17, "transfer-encoding")) break;
        if (head->flags & HTTP_HAS_LENGTH) return HTTP_TWO_FRAMINGS;
        if (head->minor == 0 || (head->flags & HTTP_CHUNKED) || !HTTP_IS(p, n, "chunked")) return HTTP_BAD_CODING;
        head->flags |= HTTP_CHUNKED;
        break;
    case 21:
        if (HTTP_IS(name, 21, "x-headrace-timeout-ms")) head->timeout_ms = head->timeout_ms ? UINT64_MAX : http_milliseconds(p, n);
        break;
    }
    return HTTP_OK;
}

/* A whole target in [start, end), all of it target bytes. An absolute form is cut down to path and query: its authority says
 * what Host says, and any valid name is served. */
static inline int http_take_target(const uint8_t *buf, size_t start, size_t end, HttpHead *head) {
    const uint8_t *p = buf + start;
    const size_t n = end - start;
    if (n == 0) return HTTP_BAD_REQUEST_LINE;
    if (n == 1 && p[0] == '*' && head->method == HTTP_OPTIONS) {
        head->path = (HttpSpan){(uint32_t)start, 1};
        return HTTP_OK;
    }
    if (p[0] != '/') {
        size_t scheme = n > 7 && HTTP_IS(p, 7, "http://") ? 7 : n > 8 && HTTP_IS(p, 8, "https://") ? 8 : 0;
        if (scheme == 0) return HTTP_BAD_TARGET;
        size_t host = start + scheme;
        for (start = host; start < end && buf[start] != '/' && buf[start] != '?';) start++;
        if (start == host || buf[host] == ':' || !http_host_ok(buf + host, start - host)) return HTTP_BAD_TARGET;
    }
    const uint8_t *question = memchr(buf + start, '?', end - start);
    size_t path_end = question ? (size_t)(question - buf) : end;
    head->path = (HttpSpan){(uint32_t)start, (uint32_t)(path_end - start)};
    if (question) head->query = (HttpSpan){(uint32_t)(path_end + 1), (uint32_t)(end - path_end - 1)};
    return HTTP_OK;
}

/* One byte at index i of "HTTP/1.1\r\n". */
static inline int http_take_version(uint8_t c, size_t i, HttpHead *head) {
    switch (i) {
    case 5: return c == '1' ? HTTP_OK : HTTP_DIGIT(c) ? HTTP_UNSUPPORTED_VERSION : HTTP_BAD_VERSION;
    case 7:
        if (c != '0' && c != '1') return HTTP_DIGIT(c) ? HTTP_UNSUPPORTED_VERSION : HTTP_BAD_VERSION;
        head->minor = c == '1';
        return HTTP_OK;
    case 9: return c == '\n' ? HTTP_OK : HTTP_BARE_CR;
    default: return c == (uint8_t) "HTTP/1.1\r"[i] ? HTTP_OK : HTTP_BAD_VERSION;
    }
}

/* The state machine behind http_parse_head: judges the bytes from scan->at up to end, which is at most max_head. */
static inline int http_read_head(const uint8_t *buf, size_t end, const HttpLimits *limits, HttpScan *scan) {
    HttpHead *head = &scan->head;
    size_t at = scan->at;
    int code = HTTP_OK;
    while (at < end) {
        /* Within a line, nothing past `stop` is looked at; a byte there must be the CR. */
        size_t stop = end - scan->line > limits->max_line ? scan->line + (size_t)limits->max_line : end;
        switch (scan->state) {
        case HTTP_AT_START:
            if (buf[at] == '\n') return HTTP_BARE_LF;
            if (buf[at] == '\r') {
                if (head->skipped / 2 >= limits->max_blank_lines) return HTTP_BAD_BLANK_LINES;
                scan->state = HTTP_AT_BLANK_LF;
                at++;
                break;
            }
            scan->line = (uint32_t)at;
            scan->state = HTTP_AT_METHOD;
            break;
        case HTTP_AT_BLANK_LF:
            if (buf[at] != '\n') return HTTP_BARE_CR;
            head->skipped = (uint32_t)++at;
            scan->state = HTTP_AT_START;
            break;
        case HTTP_AT_METHOD:
            at = http_span(buf, at, stop, HTTP_TOKEN_BYTE);
            if (at == end) break;
            if (at == stop) return HTTP_LINE_TOO_LONG;
            if (buf[at] != ' ' || at == scan->line) return HTTP_BAD_METHOD;
            head->method = http_method(buf + scan->line, at - scan->line);
            /* The reserved method that opens HTTP/2: say what is wrong instead of judging its target. */
            if (at - scan->line == 3 && memcmp(buf + scan->line, "PRI", 3) == 0) return HTTP_UNSUPPORTED_VERSION;
            scan->mark = (uint32_t)++at;
            scan->state = HTTP_AT_TARGET;
            break;
        case HTTP_AT_TARGET:
            at = http_span(buf, at, stop, HTTP_TARGET_BYTE);
            if (at == end) break;
            if (at == stop) return HTTP_LINE_TOO_LONG;
            if (buf[at] != ' ') return buf[at] == '\r' || buf[at] == '\n' ? HTTP_BAD_REQUEST_LINE : HTTP_BAD_TARGET;
            if ((code = http_take_target(buf, scan->mark, at, head)) != HTTP_OK) return code;
            scan->mark = (uint32_t)++at;
            scan->state = HTTP_AT_VERSION;
            break;
        case HTTP_AT_VERSION:
            for (size_t i = at - scan->mark; at < end && i < 10; i++, at++) {
                if (i < 8 && at >= stop) return HTTP_LINE_TOO_LONG;
                if ((code = http_take_version(buf[at], i, head)) != HTTP_OK) return code;
            }
            if (at - scan->mark == 10) {
                head->fields.offset = (uint32_t)at;
                scan->state = HTTP_AT_FIELD;
            }
            break;
        case HTTP_AT_FIELD:
            if (buf[at] == '\r') {
                scan->state = HTTP_AT_END_LF;
                at++;
                break;
            }
            if (buf[at] == '\n') return HTTP_BARE_LF;
            if (buf[at] == ' ' || buf[at] == '\t') return HTTP_FOLDED_FIELD;
            if (head->field_count >= limits->max_fields) return HTTP_TOO_MANY_FIELDS;
            head->field_count++;
            scan->line = (uint32_t)at;
            scan->state = HTTP_AT_NAME;
            break;
        case HTTP_AT_NAME:
            at = http_span(buf, at, stop, HTTP_TOKEN_BYTE);
            if (at == end) break;
            if (at == stop) return HTTP_FIELD_TOO_LONG;
            if (buf[at] != ':' || at == scan->line) return HTTP_BAD_FIELD_NAME;
            scan->name = (uint32_t)(at - scan->line);
            scan->mark = (uint32_t)++at;
            scan->state = HTTP_AT_VALUE;
            break;
        case HTTP_AT_VALUE:
            at = http_span_value(buf, at, stop);
            if (at == end) break;
            if (buf[at] != '\r') {
                if (at == stop) return HTTP_FIELD_TOO_LONG;
                return buf[at] == '\n' ? HTTP_BARE_LF : HTTP_BAD_FIELD_VALUE;
            }
            scan->state = HTTP_AT_FIELD_LF;
            at++;
            break;
        case HTTP_AT_FIELD_LF:
            if (buf[at] != '\n') return HTTP_BARE_CR;
            if ((code = http_take_field(buf, at - 1, scan)) != HTTP_OK) return code;
            scan->state = HTTP_AT_FIELD;
            at++;
            break;
        case HTTP_AT_END_LF:
            if (buf[at] != '\n') return HTTP_BARE_CR;
            if (head->minor > 0 && !(scan->seen & HTTP_SEEN_HOST)) return HTTP_NO_HOST;
            if (!(scan->seen & HTTP_SEEN_CLOSE) && (head->minor > 0 || (scan->seen & HTTP_SEEN_KEEP_ALIVE)))
                head->flags |= HTTP_KEEP_ALIVE;
            if (!(scan->seen & HTTP_SEEN_ACCEPT)) head->accept_kind = MEDIA_ANY;
            head->fields.length = (uint32_t)(at - 1) - head->fields.offset;
            head->head_length = (uint32_t)(at + 1);
            return HTTP_OK;
        }
    }
    scan->at = (uint32_t)at;
    return at < limits->max_head ? HTTP_INCOMPLETE : HTTP_HEAD_TOO_LARGE;
}

/* Reads on in a head.
 *
 * buf, len:  the head's bytes from its very first one on; on a further call the same bytes and more behind them.
 * scan:      zeroed before the first call, kept between calls. head: written with HTTP_OK only.
 * Returns HTTP_OK (head->head_length bytes are the head, what follows was not looked at), HTTP_INCOMPLETE (call again with
 * more), or a refusal, after which only closing is left.
 */
static inline int http_parse_head(const uint8_t *buf, size_t len, const HttpLimits *limits, HttpScan *scan, HttpHead *head) {
    if (scan->refusal) return scan->refusal;
    int code = http_read_head(buf, len < limits->max_head ? len : limits->max_head, limits, scan);
    if (code < 0) scan->refusal = (int8_t)code;
    if (code == HTTP_OK) *head = scan->head;
    return code;
}

/* The next field line of an accepted head (or of any block in that form), from *at on. 0 when there is none left. Positions
 * are in `block`; the value has no white space around it. Start with *at = 0. */
static inline int http_next_field(const uint8_t *block, size_t len, size_t *at, HttpSpan *name, HttpSpan *value) {
    if (*at >= len) return 0;
    const uint8_t *colon = memchr(block + *at, ':', len - *at);
    if (!colon) return 0;
    size_t name_end = (size_t)(colon - block);
    const uint8_t *cr = memchr(colon, '\r', len - name_end);
    size_t value_end = cr ? (size_t)(cr - block) : len;
    *name = (HttpSpan){(uint32_t)*at, (uint32_t)(name_end - *at)};
    *value = http_trim(block, name_end + 1, value_end);
    *at = value_end + 2;
    return 1;
}

#endif
