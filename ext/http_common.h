/* What heads, chunked bodies and paths share: limits, refusals, byte classes. See http.h. */
#ifndef HEADRACE_HTTP_COMMON_H
#define HEADRACE_HTTP_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t offset;
    uint32_t length;
} HttpSpan;

/* Every limit is a setting. Line lengths are without their CRLF. */
typedef struct {
    uint32_t max_line;           /* request line, or one field line */
    uint32_t max_head;           /* all of the head, blank lines before and after it included: a buffer this long suffices */
    uint32_t max_fields;         /* field lines */
    uint32_t max_blank_lines;    /* ignored before a request line */
    uint32_t max_chunk_line;     /* chunk size and extensions */
    uint32_t max_chunk_overhead; /* framing bytes beyond ten for each byte of data */
    uint32_t max_trailer;        /* bytes of the trailer section, its blank line included; at least 2 */
    uint32_t max_trailer_fields;
} HttpLimits;

#define HTTP_MAX_LINE 16384u
#define HTTP_MAX_HEAD 65536u
#define HTTP_MAX_FIELDS 100u
#define HTTP_MAX_BLANK_LINES 8u
#define HTTP_MAX_CHUNK_LINE 4096u
#define HTTP_MAX_CHUNK_OVERHEAD 16384u
#define HTTP_MAX_TRAILER 16384u
#define HTTP_MAX_TRAILER_FIELDS 64u

static inline void http_limits_default(HttpLimits *limits) {
    *limits = (HttpLimits){HTTP_MAX_LINE,       HTTP_MAX_HEAD,           HTTP_MAX_FIELDS,  HTTP_MAX_BLANK_LINES,
                           HTTP_MAX_CHUNK_LINE, HTTP_MAX_CHUNK_OVERHEAD, HTTP_MAX_TRAILER, HTTP_MAX_TRAILER_FIELDS};
}

/* Results of http_parse_head and http_chunks_next; everything below zero is a refusal from the table that follows. */
enum { HTTP_OK = 0, HTTP_INCOMPLETE = 1, HTTP_CHUNK_DATA = 2, HTTP_CHUNK_END = 3 };

/* Each refusal: its code, its word for logs and metrics, its status, and what to tell the client. After any of them the
 * connection closes: where the next request would begin is not known. */
#define HTTP_ERRORS(E)                                                                                                  \
    E(HTTP_BAD_BLANK_LINES, "bad_blank_lines", 400,                                                                     \
      "too many blank lines before the request line; send the request line first")                                      \
    E(HTTP_BARE_CR, "bare_cr", 400,                                                                                     \
      "a CR is not followed by LF; end each line with CRLF and use CR nowhere else")                                    \
    E(HTTP_BARE_LF, "bare_lf", 400,                                                                                     \
      "a line ends with LF alone; end each line with CRLF")                                                             \
    E(HTTP_BAD_METHOD, "bad_method", 400,                                                                               \
      "the method is not a token; send a request line such as GET / HTTP/1.1")                                          \
    E(HTTP_BAD_REQUEST_LINE, "bad_request_line", 400,                                                                   \
      "the request line must be method, target and HTTP/1.1 with one space between each")                               \
    E(HTTP_BAD_TARGET, "bad_target", 400,                                                                               \
      "the target must be a path that starts with a slash, an absolute http URI, or * for OPTIONS, in printable ASCII") \
    E(HTTP_BAD_VERSION, "bad_version", 400,                                                                             \
      "the request line must end with exactly HTTP/1.1 or HTTP/1.0")                                                    \
    E(HTTP_UNSUPPORTED_VERSION, "unsupported_version", 505,                                                             \
      "this HTTP version is not spoken here; use HTTP/1.1")                                                             \
    E(HTTP_LINE_TOO_LONG, "line_too_long", 414,                                                                         \
      "the request line is too long; send a shorter target")                                                            \
    E(HTTP_FIELD_TOO_LONG, "field_too_long", 431,                                                                       \
      "a header field line is too long; send shorter fields")                                                           \
    E(HTTP_HEAD_TOO_LARGE, "head_too_large", 431,                                                                       \
      "the request head is too large; send fewer or shorter fields")                                                    \
    E(HTTP_TOO_MANY_FIELDS, "too_many_fields", 431,                                                                     \
      "there are too many header fields; send fewer")                                                                   \
    E(HTTP_FOLDED_FIELD, "folded_field", 400,                                                                           \
      "a header line starts with white space; send each field on one line")                                             \
    E(HTTP_BAD_FIELD_NAME, "bad_field_name", 400,                                                                       \
      "a header field name must be a token that is directly followed by a colon")                                       \
    E(HTTP_BAD_FIELD_VALUE, "bad_field_value", 400,                                                                     \
      "a header field value contains a control character")                                                              \
    E(HTTP_NO_HOST, "no_host", 400,                                                                                     \
      "HTTP/1.1 needs a Host field; send exactly one")                                                                  \
    E(HTTP_TWO_HOSTS, "two_hosts", 400,                                                                                 \
      "there is more than one Host field; send exactly one")                                                            \
    E(HTTP_BAD_HOST, "bad_host", 400,                                                                                   \
      "the host must be a name or address with an optional port")                                                       \
    E(HTTP_BAD_LENGTH, "bad_length", 400,                                                                               \
      "Content-Length must be decimal digits only")                                                                     \
    E(HTTP_TWO_LENGTHS, "two_lengths", 400,                                                                             \
      "there is more than one Content-Length field; send exactly one")                                                  \
    E(HTTP_BAD_CODING, "bad_coding", 400,                                                                               \
      "the only Transfer-Encoding understood is chunked, once, in HTTP/1.1")                                            \
    E(HTTP_TWO_FRAMINGS, "two_framings", 400,                                                                           \
      "Content-Length and Transfer-Encoding exclude each other; send only one")                                         \
    E(HTTP_BAD_CHUNK_SIZE, "bad_chunk_size", 400,                                                                       \
      "a chunk size must be hexadecimal digits, then CRLF or an extension")                                             \
    E(HTTP_CHUNK_TOO_LARGE, "chunk_too_large", 400,                                                                     \
      "a chunk size has more than 15 significant digits; send smaller chunks")                                          \
    E(HTTP_BAD_CHUNK_EXTENSION, "bad_chunk_extension", 400,                                                             \
      "a chunk extension has a control character, a delimiter or an open quote; send none")                             \
    E(HTTP_CHUNK_LINE_TOO_LONG, "chunk_line_too_long", 400,                                                             \
      "a chunk size line is too long; send no extensions")                                                              \
    E(HTTP_BAD_CHUNK_END, "bad_chunk_end", 400,                                                                         \
      "chunk data must be followed by CRLF; the chunk size does not match the data")                                    \
    E(HTTP_CHUNK_OVERHEAD, "chunk_overhead", 400,                                                                       \
      "the chunks carry too little data for their framing; send larger chunks")                                         \
    E(HTTP_TRAILER_TOO_LARGE, "trailer_too_large", 431,                                                                 \
      "the trailer section is too large; send fewer or shorter fields")                                                 \
    E(HTTP_TOO_MANY_TRAILERS, "too_many_trailers", 431,                                                                 \
      "there are too many trailer fields; send fewer")                                                                  \
    E(HTTP_BAD_ESCAPE, "bad_escape", 400,                                                                               \
      "the path has a % that is not followed by two hexadecimal digits")                                                \
    E(HTTP_BAD_PATH_BYTE, "bad_path_byte", 400,                                                                         \
      "the path has an encoded slash, a backslash or a control character")                                              \
    E(HTTP_DOT_SEGMENT, "dot_segment", 400,                                                                             \
      "the path has a . or .. segment; send the path that is meant")                                                    \
    E(HTTP_EMPTY_SEGMENT, "empty_segment", 400,                                                                         \
      "the path has an empty segment; send single slashes")                                                             \
    E(HTTP_PATH_TOO_DEEP, "path_too_deep", 404,                                                                         \
      "no path here has this many segments")                                                                            \
    E(HTTP_PATH_TOO_LONG, "path_too_long", 414,                                                                         \
      "the path is too long")

enum {
    HTTP_ERROR_BASE = -64,
#define HTTP_ERROR_CODE(code, word, status, text) code,
    HTTP_ERRORS(HTTP_ERROR_CODE)
#undef HTTP_ERROR_CODE
    HTTP_ERROR_END
};
_Static_assert(HTTP_ERROR_END <= 0, "refusals are negative");

static inline int http_is_error(int code) { return code > HTTP_ERROR_BASE && code < HTTP_ERROR_END; }

/* The status to answer a refusal with; 500 for what is none. */
static inline int http_error_status(int code) {
#define HTTP_ERROR_STATUS(code, word, status, text) status,
    static const uint16_t table[] = {HTTP_ERRORS(HTTP_ERROR_STATUS)};
#undef HTTP_ERROR_STATUS
    return http_is_error(code) ? table[code - HTTP_ERROR_BASE - 1] : 500;
}

/* One plain sentence for the client. */
static inline const char *http_error_text(int code) {
#define HTTP_ERROR_TEXT(code, word, status, text) text,
    static const char *const table[] = {HTTP_ERRORS(HTTP_ERROR_TEXT)};
#undef HTTP_ERROR_TEXT
    return http_is_error(code) ? table[code - HTTP_ERROR_BASE - 1] : "not a refusal";
}

/* One stable word for logs, metrics and error bodies. */
static inline const char *http_error_word(int code) {
#define HTTP_ERROR_WORD(code, word, status, text) word,
    static const char *const table[] = {HTTP_ERRORS(HTTP_ERROR_WORD)};
#undef HTTP_ERROR_WORD
    return http_is_error(code) ? table[code - HTTP_ERROR_BASE - 1] : "none";
}

/* Byte classes, as one table that the compiler works out. */
enum { HTTP_TOKEN_BYTE = 1, HTTP_TARGET_BYTE = 2, HTTP_VALUE_BYTE = 4, HTTP_HOST_BYTE = 8, HTTP_DIGIT_BYTE = 16 };

#define HTTP_DIGIT(c) ((c) >= '0' && (c) <= '9')
#define HTTP_ALNUM(c) (HTTP_DIGIT(c) || ((c) >= 'A' && (c) <= 'Z') || ((c) >= 'a' && (c) <= 'z'))
#define HTTP_MARK(c)                                                                                               \
    ((c) == '!' || (c) == '$' || (c) == '&' || (c) == '\'' || (c) == '*' || (c) == '+' || (c) == '-' || (c) == '.' || \
     (c) == '_' || (c) == '~' || (c) == '%')
#define HTTP_TOKEN(c) (HTTP_ALNUM(c) || HTTP_MARK(c) || (c) == '#' || (c) == '^' || (c) == '`' || (c) == '|')
#define HTTP_TARGET(c) ((c) > ' ' && (c) < 0x7f && (c) != '#') /* a fragment is never sent */
#define HTTP_VALUE(c) (((c) >= ' ' && (c) != 0x7f) || (c) == '\t')
#define HTTP_HOST(c) (HTTP_ALNUM(c) || HTTP_MARK(c) || (c) == '(' || (c) == ')' || (c) == ',' || (c) == ';' || (c) == '=')
#define HTTP_CLASS(c)                                                                                    \
    ((HTTP_TOKEN(c) ? HTTP_TOKEN_BYTE : 0) | (HTTP_TARGET(c) ? HTTP_TARGET_BYTE : 0) |                   \
     (HTTP_VALUE(c) ? HTTP_VALUE_BYTE : 0) | (HTTP_HOST(c) ? HTTP_HOST_BYTE : 0) | (HTTP_DIGIT(c) ? HTTP_DIGIT_BYTE : 0))
#define HTTP_CLASS4(c) HTTP_CLASS(c), HTTP_CLASS((c) + 1), HTTP_CLASS((c) + 2), HTTP_CLASS((c) + 3)
#define HTTP_CLASS16(c) HTTP_CLASS4(c), HTTP_CLASS4((c) + 4), HTTP_CLASS4((c) + 8), HTTP_CLASS4((c) + 12)
#define HTTP_CLASS64(c) HTTP_CLASS16(c), HTTP_CLASS16((c) + 16), HTTP_CLASS16((c) + 32), HTTP_CLASS16((c) + 48)

static const uint8_t http_class[256] = {HTTP_CLASS64(0), HTTP_CLASS64(64), HTTP_CLASS64(128), HTTP_CLASS64(192)};

/* First position in [at, end) whose byte is not of this class, or end. */
static inline size_t http_span(const uint8_t *buf, size_t at, size_t end, unsigned class) {
    while (at < end && (http_class[buf[at]] & class)) at++;
    return at;
}

/* The same for field values, eight bytes at a time. A word that may hold a control byte (HTAB among them) is looked at byte by
 * byte; the test can err only on the side of looking. */
static inline size_t http_span_value(const uint8_t *buf, size_t at, size_t end) {
    const uint64_t ones = 0x0101010101010101ull;
    for (;;) {
        while (end - at >= 8) {
            uint64_t word, is_delete;
            memcpy(&word, buf + at, 8);
            is_delete = word ^ (ones * 0x7f);
            if ((((word - ones * 0x20) & ~word) | ((is_delete - ones) & ~is_delete)) & (ones * 0x80)) break;
            at += 8;
        }
        size_t stop = end - at >= 8 ? at + 8 : end;
        at = http_span(buf, at, stop, HTTP_VALUE_BYTE);
        if (at < stop || at == end) return at;
    }
}

/* Whether these n bytes are this lower-case text, in any case. Only for token and value bytes and for texts of letters,
 * digits and "%*+-./:;=": there, setting bit 5 makes no two of them equal but the cases of a letter. */
static inline int http_is(const uint8_t *p, size_t n, const char *text, size_t text_length) {
    if (n != text_length) return 0;
    unsigned differ = 0;
    for (size_t i = 0; i < text_length; i++) differ |= (p[i] | 0x20u) ^ (uint8_t)text[i];
    return differ == 0;
}
#define HTTP_IS(p, n, text) http_is(p, n, text, sizeof(text) - 1)

/* Cuts spaces and tabs, and nothing else, off both ends. */
static inline HttpSpan http_trim(const uint8_t *buf, size_t start, size_t end) {
    while (start < end && (buf[start] == ' ' || buf[start] == '\t')) start++;
    while (start < end && (buf[end - 1] == ' ' || buf[end - 1] == '\t')) end--;
    return (HttpSpan){(uint32_t)start, (uint32_t)(end - start)};
}

static inline int http_hex(uint8_t c) {
    if (HTTP_DIGIT(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whether a field that a handler set may go out as it is: a token for a name, no control but HTAB in the value. */
static inline int http_field_ok(const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) {
    return name_len > 0 && http_span(name, 0, name_len, HTTP_TOKEN_BYTE) == name_len &&
           http_span_value(value, 0, value_len) == value_len;
}

/* Whether the server alone writes this field: a handler's is ignored. */
static inline int http_field_is_owned(const uint8_t *name, size_t n) {
    return HTTP_IS(name, n, "content-length") || HTTP_IS(name, n, "transfer-encoding") || HTTP_IS(name, n, "connection") ||
           HTTP_IS(name, n, "date");
}

#endif
