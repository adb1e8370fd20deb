/* Numbers out of CSV (RFC 4180): one row a line, fields parted by commas, plain or in quotes, lines ended by LF or CRLF.
 *
 * More lenient than JSON where files in the wild are: blanks around a field, "+1", ".5", "5.", and for floats nan, inf and
 * infinity in any case. Blank lines are skipped. Every line must have as many fields as the first one.
 */
#ifndef HEADRACE_CSV_ROWS_H
#define HEADRACE_CSV_ROWS_H

#include <strings.h>

#include "rows.h"

typedef struct {
    uint64_t line, column; /* from 1: the line as an editor counts it, the field in it */
} CsvPlace;

static inline bool csv_ends_field(const uint8_t *p, const uint8_t *end) {
    return p >= end || *p == ',' || *p == '\n' || *p == '\r';
}

static inline const uint8_t *csv_blank(const uint8_t *p, const uint8_t *end) {
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    return p;
}

/* nan, inf or infinity with an optional sign: returns the place behind it and the value's sign and nature in *number; NULL
 * when it is none. */
static const uint8_t *csv_special(const uint8_t *p, const uint8_t *end, double *value) {
    const bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    static const char *const words[] = {"infinity", "inf", "nan"};
    for (unsigned i = 0; i < 3; i++) {
        const size_t n = strlen(words[i]);
        if ((size_t)(end - p) >= n && strncasecmp((const char *)p, words[i], n) == 0) {
            *value = i < 2 ? INFINITY : NAN;
            if (negative) *value = -*value;
            return p + n;
        }
    }
    return NULL;
}

/* What stands in the field at p, printable and short, for messages. */
static void csv_excerpt(const uint8_t *p, const uint8_t *end, char *out, size_t room) {
    size_t n = 0;
    for (; !csv_ends_field(p, end) && n + 4 < room; p++) out[n++] = *p >= ' ' && *p < 0x7f ? (char)*p : '?';
    if (!csv_ends_field(p, end)) {
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = 0;
}

COLD const uint8_t *csv_fault(Decoder *d, CsvPlace at, const uint8_t *field, const char *what) {
    char text[48];
    csv_excerpt(field, d->end, text, sizeof text);
    if (!*text)
        return decoder_fault(d, ROWS_UNDECODABLE, "line %llu, column %llu is empty; a number is expected",
                             (unsigned long long)at.line, (unsigned long long)at.column);
    return decoder_fault(d, ROWS_UNDECODABLE, "line %llu, column %llu is %s, %s", (unsigned long long)at.line,
                         (unsigned long long)at.column, text, what);
}

/* One field at p; returns the place of the comma or line end behind it. */
HOT const uint8_t *csv_field(Decoder *d, const uint8_t *p, CsvPlace at, const int kind) {
    const uint8_t *const end = d->end;
    const uint8_t *const field = p = csv_blank(p, end);
    const bool quoted = p < end && *p == '"';
    if (quoted) p = csv_blank(p + 1, end);
    if (__builtin_expect(d->out == d->out_end, 0) && !decoder_grow(d, p)) return NULL;
    const uint8_t *stop = decoder_number(d, d->out, p, false, kind);
    if (__builtin_expect(!stop, 0)) {
        double value;
        if (d->trouble == TROUBLE_RANGE) return csv_fault(d, at, field, "beyond the range of this model's numbers");
        if (d->trouble == TROUBLE_FRACTION) return csv_fault(d, at, field, "not a whole number");
        stop = csv_special(p, end, &value);
        if (!stop || (kind != KIND_FLOAT32 && kind != KIND_FLOAT64)) return csv_fault(d, at, field, "not a number");
        const float narrow = (float)value;
        if (kind == KIND_FLOAT32) memcpy(d->out, &narrow, 4);
        else memcpy(d->out, &value, 8);
    }
    p = stop;
    if (quoted) {
        p = csv_blank(p, end);
        if (p >= end || *p != '"') return csv_fault(d, at, field, "where a number in quotes is expected");
        p++;
    }
    if (__builtin_expect(!csv_ends_field(p, end), 0)) p = csv_blank(p, end);
    if (__builtin_expect(!csv_ends_field(p, end), 0)) return csv_fault(d, at, field, "not a number");
    d->out += kind_bytes(kind);
    return p;
}

HOT int csv_decode_of(Decoder *d, const bool header, const int kind) {
    const uint8_t *p = d->start, *const end = d->end;
    CsvPlace at = {1, 1};
    uint64_t rows = 0, columns = 0;
    bool first = true;
    decoder_rewind(d, "");
    for (; p < end; at.line++) {
        const uint8_t *text = csv_blank(p, end);
        if (text >= end) break;
        if (*text == '\n' || (*text == '\r' && text + 1 < end && text[1] == '\n')) {
            p = text + 1 + (*text == '\r');
            continue;
        }
        if (first && header) {
            first = false;
            while (p < end && *p != '\n') p++;
            p += p < end;
            continue;
        }
        first = false;
        for (at.column = 1;; at.column++) {
            if (!(p = csv_field(d, p, at, kind))) return d->status;
            if (p >= end || *p != ',') break;
            p++;
        }
        if (rows == 0) columns = at.column;
        if (at.column != columns) {
            decoder_fault(d, ROWS_UNDECODABLE, "line %llu has %llu field%s where the first has %llu",
                          (unsigned long long)at.line, (unsigned long long)at.column, at.column == 1 ? "" : "s",
                          (unsigned long long)columns);
            return d->status;
        }
        rows++;
        if (p < end && *p == '\r') {
            if (++p < end && *p != '\n') {
                decoder_fault(d, ROWS_UNDECODABLE, "line %llu has a CR without LF", (unsigned long long)at.line);
                return d->status;
            }
        }
        p += p < end;
    }
    d->levels = rows ? 2 : 1;
    d->shape[0] = rows;
    d->shape[1] = columns;
    return ROWS_OK;
}

/* Decodes a whole body into rows x columns. header: the first line that is not blank holds names and is skipped. Returns
 * ROWS_*. */
static inline int csv_decode(Decoder *d, bool header) {
    switch (d->kind) {
    case KIND_FLOAT32: return csv_decode_of(d, header, KIND_FLOAT32);
    case KIND_FLOAT64: return csv_decode_of(d, header, KIND_FLOAT64);
    case KIND_INT64: return csv_decode_of(d, header, KIND_INT64);
    case KIND_INT32: return csv_decode_of(d, header, KIND_INT32);
    case KIND_INT16: return csv_decode_of(d, header, KIND_INT16);
    case KIND_INT8: return csv_decode_of(d, header, KIND_INT8);
    case KIND_UINT32: return csv_decode_of(d, header, KIND_UINT32);
    case KIND_UINT16: return csv_decode_of(d, header, KIND_UINT16);
    default: return csv_decode_of(d, header, KIND_UINT8);
    }
}

#endif
