/* The rows of a batch: a growing block of numbers in C order, and the store that text is decoded into.
 *
 * Invariants
 * 1. [base, base + used) holds committed rows. A decoder writes past `used` and the caller commits; so a fault leaves the
 *    rows as they were.
 * 2. capacity <= limit; both are multiples of the item size. `base` is 64-byte aligned. Memory that somebody else may see
 *    (`shared`) is never freed here, only left behind.
 * 3. C code here touches no Python object and may run without the GIL.
 */
#ifndef HEADRACE_ROWS_H
#define HEADRACE_ROWS_H

#include <stdarg.h>
#include <stdio.h>

#include "decimal.h"

#define ROWS_ALIGN 64u
#define ROWS_FIRST_BYTES 16384u /* of the first block */
#define ROWS_LEVELS 32u /* dimensions of an array, and depth of JSON that is looked at */

enum { KIND_FLOAT32, KIND_FLOAT64, KIND_INT8, KIND_INT16, KIND_INT32, KIND_INT64, KIND_UINT8, KIND_UINT16, KIND_UINT32 };

typedef struct {
    uint8_t *base;
    size_t used, capacity, limit; /* bytes */
    bool shared;
} Rows;

enum { ROWS_OK = 0, ROWS_UNDECODABLE, ROWS_NOT_NUMBERS, ROWS_FULL, ROWS_NO_MEMORY };

/* One body being decoded. */
typedef struct {
    const uint8_t *start, *end;
    Rows *rows;
    uint8_t *out, *out_end; /* where the next number goes; end of the capacity */
    int kind;
    unsigned item_bytes;
    uintptr_t usual_from; /* from here, usual_span bytes are far enough from the body's ends for decimal_scan_usual */
    size_t usual_span;
    int status;      /* ROWS_* */
    int trouble;     /* TROUBLE_*: why decoder_slow failed */
    unsigned levels; /* dimensions of what was decoded */
    uint64_t shape[ROWS_LEVELS];
    bool known[ROWS_LEVELS];     /* shape[i] is settled, by the first array at that level */
    uint64_t index[ROWS_LEVELS]; /* the element at hand, for messages */
    int leaf;                    /* level whose elements are numbers; -1: not known yet */
    const char *root;            /* "$.instances" */
    char text[1400];             /* what is wrong */
} Decoder;

static inline unsigned kind_bytes(int kind) {
    static const uint8_t bytes[] = {4, 8, 1, 2, 4, 8, 1, 2, 4};
    return bytes[kind];
}

static inline const char *kind_name(int kind) {
    static const char *const names[] = {"float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"};
    return names[kind];
}

static inline void decoder_init(Decoder *d, Rows *rows, int kind, const uint8_t *body, size_t length) {
    d->start = body;
    d->end = body + length;
    d->rows = rows;
    d->usual_from = (uintptr_t)body + USUAL_BEFORE;
    d->usual_span = length < USUAL_BEFORE + USUAL_BEHIND ? 0 : length - USUAL_BEFORE - USUAL_BEHIND + 1;
    d->kind = kind;
    d->item_bytes = kind_bytes(kind);
    d->status = ROWS_OK;
    d->text[0] = 0;
}

/* (Re)starts at the rows' end: forgets what this body gave so far. */
static inline void decoder_rewind(Decoder *d, const char *root) {
    d->out = d->rows->base + d->rows->used;
    d->out_end = d->rows->base + d->rows->capacity;
    d->levels = 0;
    d->leaf = -1;
    d->root = root;
    memset(d->known, 0, sizeof d->known);
}

/* Notes the fault and returns NULL, which every reader passes on. */
COLD __attribute__((format(printf, 3, 4))) const uint8_t *decoder_fault(Decoder *d, int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(d->text, sizeof d->text, format, arguments);
    va_end(arguments);
    d->status = status;
    return NULL;
}

/* Moves the rows to a block with room for `need` bytes, and more if there is reason to expect more. Returns ROWS_*. */
static inline int rows_grow(Rows *rows, size_t filled, size_t need, size_t wish) {
    if (need > rows->limit) return ROWS_FULL;
    size_t capacity = wish > 2 * rows->capacity ? wish : 2 * rows->capacity;
    if (capacity < ROWS_FIRST_BYTES) capacity = ROWS_FIRST_BYTES;
    if (capacity < need) capacity = need;
    if (capacity > rows->limit) capacity = rows->limit;
    void *base = NULL;
    if (posix_memalign(&base, ROWS_ALIGN, capacity)) return ROWS_NO_MEMORY;
    if (filled) memcpy(base, rows->base, filled);
    if (!rows->shared) free(rows->base);
    rows->base = (uint8_t *)base;
    rows->capacity = capacity;
    rows->shared = false;
    return ROWS_OK;
}

/* Room for one more number, at byte p of the body. */
COLD bool decoder_grow(Decoder *d, const uint8_t *p) {
    const size_t filled = d->out ? (size_t)(d->out - d->rows->base) : 0;
    const double so_far = (double)(p - d->start + 1), all = (double)(d->end - d->start);
    /* What the rest of the body will take, if it goes on like this. */
    const double guess = (double)(filled - d->rows->used) / so_far * all * 1.03 + (double)d->rows->used;
    const size_t wish = guess < (double)d->rows->limit ? (size_t)guess & ~(size_t)(ROWS_ALIGN - 1) : d->rows->limit;
    const int status = rows_grow(d->rows, filled, filled + d->item_bytes, wish);
    if (status == ROWS_FULL)
        decoder_fault(d, status, "the rows take more than the %zu bytes that a batch of this model may hold", d->rows->limit);
    else if (status != ROWS_OK) decoder_fault(d, status, "no memory for a batch of more than %zu bytes", filled);
    if (status != ROWS_OK) return false;
    d->out = d->rows->base + filled;
    d->out_end = d->rows->base + d->rows->capacity;
    return true;
}

static const int64_t kind_least[] = {0, 0, INT8_MIN, INT16_MIN, INT32_MIN, INT64_MIN, 0, 0, 0};
static const int64_t kind_most[] = {0, 0, INT8_MAX, INT16_MAX, INT32_MAX, INT64_MAX, UINT8_MAX, UINT16_MAX, UINT32_MAX};

/* Converts a number as scanned and puts it at `out`. `kind` is a constant where this is inlined. False: unusual, decoder_slow
 * knows. */
HOT bool decoder_store(uint8_t *out, const Decimal number, const int kind) {
    if (__builtin_expect(number.truncated, 0)) return false;
    if (kind == KIND_FLOAT32) {
        const uint64_t bits = round32(number.digits, number.exponent, true);
        if (__builtin_expect(bits >= FLOAT32_INFINITY, 0)) return false;
        const uint32_t word = (uint32_t)bits | (uint32_t)number.negative << 31;
        memcpy(out, &word, 4);
        return true;
    }
    if (kind == KIND_FLOAT64) {
        const uint64_t bits = round64(number.digits, number.exponent, true);
        if (__builtin_expect(bits >= FLOAT64_INFINITY, 0)) return false;
        const uint64_t word = bits | (uint64_t)number.negative << 63;
        memcpy(out, &word, 8);
        return true;
    }
    if (number.exponent != 0 || number.digits > (uint64_t)INT64_MAX) return false;
    const int64_t value = number.negative ? -(int64_t)number.digits : (int64_t)number.digits;
    if (value < kind_least[kind] || value > kind_most[kind]) return false;
    memcpy(out, &value, kind_bytes(kind)); /* two's complement, little endian */
    return true;
}

enum { TROUBLE_NONE = 0, TROUBLE_SYNTAX, TROUBLE_RANGE, TROUBLE_FRACTION };

/* Scans any number at p and puts it at `out`. Returns the place behind it, NULL after setting d->trouble. */
COLD const uint8_t *decoder_slow(Decoder *d, uint8_t *out, const uint8_t *p, bool json) {
    Decimal number;
    d->trouble = TROUBLE_SYNTAX;
    if (!decimal_look(p, d->end, json, &number)) return NULL;
    d->trouble = TROUBLE_RANGE;
    if (d->kind == KIND_FLOAT32) {
        float value;
        if (!read_float32(&number, &value)) return NULL;
        memcpy(out, &value, 4);
    } else if (d->kind == KIND_FLOAT64) {
        double value;
        if (!read_float64(&number, &value)) return NULL;
        memcpy(out, &value, 8);
    } else {
        int64_t value;
        const int status = read_int64(&number, &value);
        if (status == INTEGER_FRACTION) d->trouble = TROUBLE_FRACTION;
        if (status != INTEGER_OK || value < kind_least[d->kind] || value > kind_most[d->kind]) return NULL;
        memcpy(out, &value, kind_bytes(d->kind));
    }
    d->trouble = TROUBLE_NONE;
    return number.stop;
}

/* Scans a number at p and puts it at `out`. Returns the place behind it, NULL after setting d->trouble. The loops around this
 * are as fast as the compiler's registers reach; whatever is not the usual case is therefore a call, and no number ever gets
 * an address here. */
HOT const uint8_t *decoder_number(Decoder *d, uint8_t *out, const uint8_t *p, const bool json, const int kind) {
    Decimal number;
    if (kind == KIND_FLOAT32 || kind == KIND_FLOAT64) {
#if defined(__x86_64__)
        if ((uintptr_t)p - d->usual_from < d->usual_span && decimal_scan_usual(p, &number) &&
            decoder_store(out, number, kind))
            return number.stop;
#else
        if (decimal_scan(p, d->end, json, &number) && decoder_store(out, number, kind)) return number.stop;
#endif
    } else if (decimal_scan(p, d->end, json, &number) && decoder_store(out, number, kind)) {
        return number.stop;
    }
    return decoder_slow(d, out, p, json);
}

#endif
