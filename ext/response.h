/* Response heads (RFC 9110, 9112): status line, the fields that the server owns, and a place for the handler's own. */
#ifndef HEADRACE_RESPONSE_H
#define HEADRACE_RESPONSE_H

#include <stdint.h>
#include <string.h>
#include <time.h>

#include "layout.h"

#define RESPONSE_HEAD_MAX 512u /* without the handler's fields and the common ones */
#define RESPONSE_COMMON_MAX 2048u
#define REQUEST_ID_LENGTH 36u

enum { CONNECTION_DEFAULT = 0, CONNECTION_CLOSE = 1, CONNECTION_KEEP_ALIVE = 2 };

static inline const char *response_reason(unsigned status) {
    switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 424: return "Failed Dependency";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    default: return "";
    }
}

static inline const char *media_text(unsigned kind) {
    switch (kind) {
    case MEDIA_JSON: return "application/json";
    case MEDIA_NPY: return "application/x-npy";
    case MEDIA_CSV: return "text/csv";
    case MEDIA_RAW: return "application/octet-stream";
    case MEDIA_NPZ: return "application/x-npz";
    case MEDIA_TEXT: return "text/plain";
    case MEDIA_FORM: return "application/x-www-form-urlencoded";
    case MEDIA_MULTIPART: return "multipart/form-data";
    default: return 0;
    }
}

/* A request's id as a version 4 UUID: `prefix` is random and drawn when its frontend starts, `number` counts its requests. An
 * odd factor modulo 2^62 is a bijection, so ids of one frontend never repeat, and look as unlike as UUIDs should. */
static inline void request_id_text(uint64_t prefix, uint64_t number, char *out) {
    static const char digits[] = "0123456789abcdef";
    uint64_t high = (prefix & ~0xf000ull) | 0x4000ull;
    uint64_t low = number * 0x9e3779b97f4a7c15ull;
    low ^= (low & ((1ull << 62) - 1)) >> 31;
    low = (low & ((1ull << 62) - 1)) | (2ull << 62);
    for (int i = 0, at = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out[at++] = '-';
        uint8_t byte = (uint8_t)((i < 8 ? high >> (56 - 8 * i) : low >> (56 - 8 * (i - 8))) & 0xff);
        out[at++] = digits[byte >> 4];
        out[at++] = digits[byte & 15];
    }
}

/* IMF-fixdate, 29 characters; rendered once a second by whoever calls it with the cache. */
typedef struct {
    time_t second;
    char text[32];
} ResponseDate;

static inline const char *response_date(ResponseDate *cache) {
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    if (now != cache->second) {
        struct tm t;
        gmtime_r(&now, &t);
        char *o = cache->text;
        memcpy(o, days + 3 * t.tm_wday, 3);
        memcpy(o + 3, ", ", 2);
        o[5] = (char)('0' + t.tm_mday / 10);
        o[6] = (char)('0' + t.tm_mday % 10);
        o[7] = ' ';
        memcpy(o + 8, months + 3 * t.tm_mon, 3);
        o[11] = ' ';
        int year = t.tm_year + 1900;
        o[12] = (char)('0' + year / 1000 % 10);
        o[13] = (char)('0' + year / 100 % 10);
        o[14] = (char)('0' + year / 10 % 10);
        o[15] = (char)('0' + year % 10);
        o[16] = ' ';
        int parts[3] = {t.tm_hour, t.tm_min, t.tm_sec};
        for (int i = 0; i < 3; i++) {
            o[17 + 3 * i] = (char)('0' + parts[i] / 10);
            o[18 + 3 * i] = (char)('0' + parts[i] % 10);
            o[19 + 3 * i] = i < 2 ? ':' : ' ';
        }
        memcpy(o + 26, "GMT", 3);
        cache->second = now;
    }
    return cache->text;
}

static inline char *put_text(char *out, const char *text) {
    size_t n = strlen(text);
    memcpy(out, text, n);
    return out + n;
}

static inline char *put_number(char *out, uint64_t value) {
    char digits[20];
    int n = 0;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n) *out++ = digits[--n];
    return out;
}

/* A handler's reason phrase travels as the first of its field lines, `:phrase CRLF`: no field's name begins with a colon. Returns
 * the length of that line with its CRLF; 0 when there is none. */
static inline size_t response_phrase_line(const char *fields, size_t fields_length) {
    if (fields_length == 0 || fields[0] != ':') return 0;
    const char *end = memchr(fields, '\n', fields_length);
    return end ? (size_t)(end - fields) + 1 : 0;
}

/* Whether one of the field lines has this name, given in lower case. */
static inline int response_has_field(const char *fields, size_t fields_length, const char *name, size_t name_length) {
    const char *end = fields + fields_length;
    while (fields < end) {
        const char *stop = memchr(fields, '\n', (size_t)(end - fields));
        if (!stop) return 0;
        if ((size_t)(stop - fields) > name_length && fields[name_length] == ':') {
            size_t i = 0;
            while (i < name_length && ((fields[i] | 0x20) == name[i] || fields[i] == name[i])) i++;
            if (i == name_length) return 1;
        }
        fields = stop + 1;
    }
    return 0;
}

/* Renders a head into `out`, which has room for RESPONSE_HEAD_MAX + fields_length + common_length bytes. Returns its length.
 * kind: content type, MEDIA_NONE or MEDIA_OTHER for none from here. body_length is announced except where RFC 9110 section 8.6
 * forbids it (204, 304). `fields`: the handler's phrase and field lines, each with its CRLF, validated by the caller; `common`:
 * field lines of every answer. */
static inline size_t response_head(char *out, unsigned status, unsigned kind, uint64_t body_length, const char *id,
                                   const char *date, int connection, const char *fields, size_t fields_length,
                                   const char *common, size_t common_length) {
    char *o = out;
    size_t phrase = response_phrase_line(fields, fields_length);
    if (phrase) {
        o = put_text(o, "HTTP/1.1 ");
        o = put_number(o, status);
        *o++ = ' ';
        memcpy(o, fields + 1, phrase - 1);
        o += phrase - 1;
        fields += phrase;
        fields_length -= phrase;
    } else if (status == 200) {
        o = put_text(o, "HTTP/1.1 200 OK\r\n");
    } else {
        o = put_text(o, "HTTP/1.1 ");
        o = put_number(o, status);
        *o++ = ' ';
        o = put_text(o, response_reason(status));
        o = put_text(o, "\r\n");
    }
    const char *media = media_text(kind);
    if (media) {
        o = put_text(o, "content-type: ");
        o = put_text(o, media);
        o = put_text(o, "\r\n");
    }
    if (status != 204 && status != 304) {
        o = put_text(o, "content-length: ");
        o = put_number(o, body_length);
        o = put_text(o, "\r\n");
    }
    if (id) {
        o = put_text(o, "x-request-id: ");
        memcpy(o, id, REQUEST_ID_LENGTH);
        o = put_text(o + REQUEST_ID_LENGTH, "\r\n");
    }
    o = put_text(o, "date: ");
    memcpy(o, date, 29);
    o = put_text(o + 29, "\r\n");
    if (connection == CONNECTION_CLOSE) o = put_text(o, "connection: close\r\n");
    else if (connection == CONNECTION_KEEP_ALIVE) o = put_text(o, "connection: keep-alive\r\n");
    memcpy(o, common, common_length);
    o += common_length;
    memcpy(o, fields, fields_length);
    o += fields_length;
    *o++ = '\r';
    *o++ = '\n';
    return (size_t)(o - out);
}

#endif
