/* Arrays to JSON and CSV text.
 *
 * Numbers are written straight into the output while a whole NUMBER_ROOM is left, and through a small buffer near its end; so
 * a text fits exactly when its length does. NaN and infinities, which JSON has no word for, become null; in CSV nan, inf and
 * -inf.
 */
#ifndef HEADRACE_TEXT_H
#define HEADRACE_TEXT_H

#include "shortest.h"

#define TEXT_LEVELS 64u /* the most dimensions that a numpy array has */

enum {
    TEXT_FLOAT16,
    TEXT_FLOAT32,
    TEXT_FLOAT64,
    TEXT_BOOL,
    TEXT_INT8,
    TEXT_INT16,
    TEXT_INT32,
    TEXT_INT64,
    TEXT_UINT8,
    TEXT_UINT16,
    TEXT_UINT32,
    TEXT_UINT64
};

typedef struct {
    char *out, *end;
    bool full; /* something did not fit; what was written is worthless */
} Text;

static inline unsigned text_item_bytes(int kind) {
    static const uint8_t bytes[] = {2, 4, 8, 1, 1, 2, 4, 8, 1, 2, 4, 8};
    return bytes[kind];
}

/* The longest text of one number, without a separator. */
static inline unsigned text_item_max(int kind) {
    static const uint8_t longest[] = {16, 19, 24, 5, 4, 6, 11, 20, 3, 5, 10, 20};
    return longest[kind];
}

static inline void text_put(Text *t, const char *data, size_t n) {
    if (t->full || (size_t)(t->end - t->out) < n) {
        t->full = true;
        return;
    }
    memcpy(t->out, data, n);
    t->out += n;
}

static inline float float16_value(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, field = bits >> 10 & 31, fraction = bits & 0x3ffu;
    if (field == 0) {
        const float size = (float)fraction * 0x1p-24f;
        return sign ? -size : size;
    }
    const uint32_t word = sign | (field == 31 ? 255u << 23 : (field + 112) << 23) | fraction << 13;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

/* One element, where NUMBER_ROOM bytes are left. `kind` and `json` are constants where this is inlined. */
HOT char *text_item(char *out, const uint8_t *item, const int kind, const bool json) {
    if (kind == TEXT_FLOAT32 || kind == TEXT_FLOAT16 || kind == TEXT_FLOAT64) {
        double wide = 0;
        float value = 0;
        bool finite;
        if (kind == TEXT_FLOAT64) {
            uint64_t bits;
            memcpy(&bits, item, 8);
            memcpy(&wide, item, 8);
            finite = (bits >> 52 & 0x7ff) != 0x7ff;
        } else {
            if (kind == TEXT_FLOAT16) {
                uint16_t half;
                memcpy(&half, item, 2);
                value = float16_value(half);
            } else {
                memcpy(&value, item, 4);
            }
            uint32_t bits;
            memcpy(&bits, &value, 4);
            finite = (bits >> 23 & 0xff) != 0xff;
        }
        if (__builtin_expect(finite, 1)) return kind == TEXT_FLOAT64 ? put_float64(out, wide) : put_float32(out, value);
        const double any = kind == TEXT_FLOAT64 ? wide : (double)value;
        const char *word = json ? "null" : any != any ? "nan" : any > 0 ? "inf" : "-inf";
        const size_t n = strlen(word);
        memcpy(out, word, n);
        return out + n;
    }
    if (kind == TEXT_BOOL) {
        const bool set = *item != 0;
        if (!json) {
            *out = (char)('0' + set);
            return out + 1;
        }
        memcpy(out, set ? "true" : "false", set ? 4 : 5);
        return out + (set ? 4 : 5);
    }
#define ITEM(KIND, TYPE, PUT)               \
    if (kind == KIND) {                     \
        TYPE value;                         \
        memcpy(&value, item, sizeof value); \
        return PUT(out, value);             \
    }
    ITEM(TEXT_INT8, int8_t, put_int64)
    ITEM(TEXT_INT16, int16_t, put_int64)
    ITEM(TEXT_INT32, int32_t, put_int64)
    ITEM(TEXT_INT64, int64_t, put_int64)
    ITEM(TEXT_UINT8, uint8_t, put_uint64)
    ITEM(TEXT_UINT16, uint16_t, put_uint64)
    ITEM(TEXT_UINT32, uint32_t, put_uint64)
    ITEM(TEXT_UINT64, uint64_t, put_uint64)
#undef ITEM
    return out;
}

/* n elements with commas between them. */
HOT void text_items_of(Text *t, const uint8_t *item, size_t n, const int kind, const bool json) {
    const unsigned item_bytes = text_item_bytes(kind);
    char *out = t->out;
    const char *const end = t->end; /* not read again after every byte written, which may lie anywhere for all C knows */
    size_t i = 0;
    for (; i < n && (size_t)(end - out) >= NUMBER_ROOM; i++, item += item_bytes) {
        out = text_item(out, item, kind, json);
        *out++ = ',';
    }
    t->out = out;
    for (; i < n && !t->full; i++, item += item_bytes) {
        char room[NUMBER_ROOM];
        char *stop = text_item(room, item, kind, json);
        if (i + 1 < n) *stop++ = ',';
        text_put(t, room, (size_t)(stop - room));
        if (i + 1 == n) return;
    }
    t->out -= n > 0 && !t->full; /* the last comma */
}

static void text_items(Text *t, const uint8_t *item, size_t n, int kind, const bool json) {
    switch (kind) {
#define CASE(KIND) \
    case KIND: text_items_of(t, item, n, KIND, json); return;
        CASE(TEXT_FLOAT16)
        CASE(TEXT_FLOAT32)
        CASE(TEXT_FLOAT64)
        CASE(TEXT_BOOL)
        CASE(TEXT_INT8)
        CASE(TEXT_INT16)
        CASE(TEXT_INT32)
        CASE(TEXT_INT64)
        CASE(TEXT_UINT8)
        CASE(TEXT_UINT16)
        CASE(TEXT_UINT32)
        CASE(TEXT_UINT64)
#undef CASE
    default: return;
    }
}

/* A C-ordered array as nested lists; no list at all for no dimension. Returns the place behind the last element. */
static const uint8_t *text_json(Text *t, const uint8_t *item, const int64_t *shape, unsigned levels, int kind) {
    if (levels == 0) {
        text_items(t, item, 1, kind, true);
        return item + text_item_bytes(kind);
    }
    text_put(t, "[", 1);
    if (levels == 1) {
        text_items(t, item, (size_t)shape[0], kind, true);
        item += (size_t)shape[0] * text_item_bytes(kind);
    } else {
        for (int64_t i = 0; i < shape[0] && !t->full; i++) {
            if (i) text_put(t, ",", 1);
            item = text_json(t, item, shape + 1, levels - 1, kind);
        }
    }
    text_put(t, "]", 1);
    return item;
}

/* rows x columns numbers, one line a row. */
static void text_csv(Text *t, const uint8_t *item, uint64_t rows, uint64_t columns, int kind) {
    for (uint64_t i = 0; i < rows && !t->full; i++) {
        text_items(t, item, columns, kind, false);
        text_put(t, "\n", 1);
        item += columns * text_item_bytes(kind);
    }
}

#endif
