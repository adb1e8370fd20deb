/* Numbers out of JSON (RFC 8259), straight into the rows of a batch; everything else in the body is only checked.
 *
 *   [[1, 2], [3, 4]]                                     bare
 *   {"instances": [[1, 2], [3, 4]], ...}                 or "inputs"
 *   {"data": [1, 2, 3, 4], "shape": [2, 2], ...}         flat or nested; without "shape" the nesting is the shape
 *   {"inputs": [{"data": [1, 2, 3, 4], "shape": [2, 2], "name": .., "datatype": ..}], ...}
 *
 * Members come in any order; of several known ones "instances" goes before "inputs" before "data", and of equal ones the
 * last, as with JSON readers in general.
 *
 * Invariants
 * 1. Every reader takes the position p <= end and returns the position behind what it read, or NULL after decoder_fault.
 * 2. A body that is accepted is valid JSON: strings are checked for escapes, surrogates and UTF-8, numbers for the grammar.
 * 3. Recursion is at most ROWS_LEVELS deep.
 */
#ifndef HEADRACE_JSON_ROWS_H
#define HEADRACE_JSON_ROWS_H

#include "rows.h"

static inline const uint8_t *json_space(const uint8_t *p, const uint8_t *end) {
    while (p < end && *p <= ' ' && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
    return p;
}

COLD const uint8_t *json_syntax(Decoder *d, const uint8_t *p, const char *expected) {
    if (p >= d->end)
        return decoder_fault(d, ROWS_UNDECODABLE, "not JSON: the body ends at byte %zu, where %s is expected",
                             (size_t)(p - d->start), expected);
    if (*p > ' ' && *p < 0x7f)
        return decoder_fault(d, ROWS_UNDECODABLE, "not JSON at byte %zu: found '%c', expected %s", (size_t)(p - d->start), *p,
                             expected);
    return decoder_fault(d, ROWS_UNDECODABLE, "not JSON at byte %zu: found byte 0x%02x, expected %s", (size_t)(p - d->start),
                         *p, expected);
}

static const uint8_t *json_too_deep(Decoder *d, const uint8_t *p) {
    return decoder_fault(d, ROWS_UNDECODABLE, "JSON nested more than %u deep at byte %zu", ROWS_LEVELS,
                         (size_t)(p - d->start));
}

/* ---- what is only checked --------------------------------------------------------------------------------------------- */

static inline int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The code unit of \uXXXX, p at the first X; -1 when it is none. */
static inline int32_t json_unit(const uint8_t *p, const uint8_t *end) {
    int32_t unit = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const int digit = hex_value(p[i]);
        if (digit < 0) return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* Length of the UTF-8 sequence at p (RFC 3629: no overlong form, no surrogate, nothing past U+10FFFF), 0 when it is none. */
static inline unsigned utf8_length(const uint8_t *p, const uint8_t *end) {
    const uint8_t c = *p;
    const unsigned n = c >= 0xc2 && c < 0xe0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (!n || (size_t)(end - p) < n) return 0;
    for (unsigned i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) || (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* p behind the opening quote; returns the place behind the closing one. */
static const uint8_t *json_string(Decoder *d, const uint8_t *p) {
    const uint8_t *const end = d->end;
    while (p < end) {
        const uint8_t c = *p;
        if (c == '"') return p + 1;
        if (c < ' ') return json_syntax(d, p, "no control character inside a string");
        if (c >= 0x80) {
            const unsigned n = utf8_length(p, end);
            if (!n) return json_syntax(d, p, "UTF-8 text");
            p += n;
        } else if (c != '\\') {
            p++;
        } else {
            if (++p >= end) break;
            if (*p == 'u') {
                const int32_t unit = json_unit(p + 1, end);
                if (unit < 0) return json_syntax(d, p, "four hexadecimal digits behind \\u");
                p += 5;
                if (unit >= 0xd800 && unit < 0xe000) {
                    const int32_t low =
                        unit < 0xdc00 && end - p >= 2 && p[0] == '\\' && p[1] == 'u' ? json_unit(p + 2, end) : -1;
                    if (low < 0xdc00 || low >= 0xe000) return json_syntax(d, p, "a pair of surrogates");
                    p += 6;
                }
            } else {
                if (*p == 0 || !strchr("\"\\/bfnrt", *p)) return json_syntax(d, p, "an escape sequence");
                p++;
            }
        }
    }
    return json_syntax(d, end, "the string's closing quote");
}

static inline bool json_word(const uint8_t *p, const uint8_t *end, const char *word) {
    const size_t n = strlen(word);
    return (size_t)(end - p) >= n && memcmp(p, word, n) == 0;
}

/* A word that JSON knows, or that people write where JSON knows none; NULL when there is none. */
static inline const char *json_word_at(const uint8_t *p, const uint8_t *end) {
    static const char *const words[] = {"null", "true", "false", "NaN", "Infinity", "-Infinity"};
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        if (json_word(p, end, words[i])) return words[i];
    return NULL;
}

static const uint8_t *json_skip(Decoder *d, const uint8_t *p, unsigned depth) {
    const uint8_t *const end = d->end;
    if (p >= end) return json_syntax(d, p, "a value");
    if (*p == '"') return json_string(d, p + 1);
    if (*p == '[' || *p == '{') {
        const bool members = *p == '{';
        if (depth >= ROWS_LEVELS) return json_too_deep(d, p);
        p = json_space(p + 1, end);
        if (p < end && *p == (members ? '}' : ']')) return p + 1;
        for (;;) {
            if (members) {
                if (p >= end || *p != '"') return json_syntax(d, p, "a name in quotes");
                if (!(p = json_string(d, p + 1))) return NULL;
                p = json_space(p, end);
                if (p >= end || *p != ':') return json_syntax(d, p, "':'");
                p = json_space(p + 1, end);
            }
            if (!(p = json_skip(d, p, depth + 1))) return NULL;
            p = json_space(p, end);
            if (p < end && *p == (members ? '}' : ']')) return p + 1;
            if (p >= end || *p != ',') return json_syntax(d, p, members ? "',' or '}'" : "',' or ']'");
            p = json_space(p + 1, end);
        }
    }
    Decimal number;
    if (decimal_look(p, end, true, &number)) {
        double value;
        if (read_float64(&number, &value)) return number.stop;
        return decoder_fault(d, ROWS_UNDECODABLE, "the number at byte %zu is too large for any float",
                             (size_t)(p - d->start));
    }
    const char *word = json_word_at(p, end);
    if (word && strchr("ntf", *word)) return p + strlen(word);
    if (word) return decoder_fault(d, ROWS_UNDECODABLE, "not JSON at byte %zu: JSON has no %s", (size_t)(p - d->start), word);
    return json_syntax(d, (*p == '-' || (*p >= '0' && *p <= '9')) ? number.text : p, "a value");
}

/* ---- faults that name a path ------------------------------------------------------------------------------------------ */

/* "$.instances[3][17]": the element at hand on levels 0..levels-1. */
static void json_path(const Decoder *d, unsigned levels, char *out, size_t room) {
    size_t n = (size_t)snprintf(out, room, "%s", d->root);
    for (unsigned i = 0; i < levels && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "[%llu]", (unsigned long long)d->index[i]);
}

/* What stands at p, in words. */
static const char *json_kind(const uint8_t *p, const uint8_t *end) {
    if (*p == '"') return "a string";
    if (*p == '{') return "an object";
    if (*p == '[') return "a list";
    const char *word = json_word_at(p, end);
    return word ? word : "a number";
}

/* The element at `level` is not the number (or list) that it should be. */
COLD const uint8_t *json_element_fault(Decoder *d, const uint8_t *p, int level) {
    char path[900], first[900];
    const uint8_t *const end = d->end;
    const unsigned levels = (unsigned)level + 1;
    json_path(d, levels, path, sizeof path);
    if (p >= end) return json_syntax(d, p, "a value");
    const char *const name = *d->root == '$' && d->root[1] == '.' ? d->root + 2 : "the array";
    const char *const quote = *name == 't' ? "" : "\"";
    const char *word = json_word_at(p, end);
    if (word && !strchr("ntf", *word))
        return decoder_fault(d, ROWS_UNDECODABLE, "%s is %s, which JSON has no word for", path, word);
    Decimal number;
    const bool numeric = decimal_look(p, end, true, &number);
    if (*p == '"' || *p == '{' || word)
        return decoder_fault(d, ROWS_NOT_NUMBERS, "%s is %s; every row of %s%s%s must hold numbers", path, json_kind(p, end),
                             quote, name, quote);
    if (*p != '[' && !numeric) return json_syntax(d, (*p == '-' || (*p >= '0' && *p <= '9')) ? number.text : p, "a value");
    /* A list among numbers or a number among lists: show the first sibling, which set the rule. */
    d->index[level] = 0;
    for (int i = 0; i < level; i++) d->index[i] = 0;
    json_path(d, levels, first, sizeof first);
    return decoder_fault(d, ROWS_NOT_NUMBERS, "%s is %s where %s is %s", path, json_kind(p, end), first,
                         *p == '[' ? "a number" : "a list");
}

COLD const uint8_t *json_ragged(Decoder *d, int level, uint64_t count) {
    char path[900], first[900];
    json_path(d, (unsigned)level, path, sizeof path);
    for (int i = 0; i < level; i++) d->index[i] = 0;
    json_path(d, (unsigned)level, first, sizeof first);
    return decoder_fault(d, ROWS_NOT_NUMBERS, "%s has %llu element%s where %s has %llu", path, (unsigned long long)count,
                         count == 1 ? "" : "s", first, (unsigned long long)d->shape[level]);
}

COLD const uint8_t *json_store_fault(Decoder *d, const uint8_t *p, int level) {
    char path[900];
    Decimal number;
    json_path(d, (unsigned)level + 1, path, sizeof path);
    decimal_look(p, d->end, true, &number);
    const int length = number.stop - p > 40 ? 40 : (int)(number.stop - p);
    return decoder_fault(d, ROWS_UNDECODABLE,
                         d->trouble == TROUBLE_FRACTION ? "%s is %.*s%s, not a whole number as %s takes"
                                                        : "%s is %.*s%s, beyond the range of %s",
                         path, length, (const char *)p, length < number.stop - p ? "..." : "", kind_name(d->kind));
}

/* ---- numbers ---------------------------------------------------------------------------------------------------------- */

/* An innermost list, p at its first number; returns the place behind ']'. */
HOT const uint8_t *json_numbers_of(Decoder *d, const uint8_t *p, int level, uint64_t *count, const int kind) {
    const uint8_t *const end = d->end;
    const unsigned item_bytes = kind_bytes(kind);
    uint8_t *out = d->out, *out_end = d->out_end;
    uint64_t n = 0;
    for (;;) {
        if (__builtin_expect(out == out_end, 0)) {
            d->out = out;
            if (!decoder_grow(d, p)) return NULL;
            out = d->out;
            out_end = d->out_end;
        }
        const uint8_t *const stop = decoder_number(d, out, p, true, kind);
        if (__builtin_expect(!stop, 0)) {
            d->index[level] = n;
            return d->trouble == TROUBLE_SYNTAX ? json_element_fault(d, p, level) : json_store_fault(d, p, level);
        }
        out += item_bytes;
        n++;
        p = stop;
        if (__builtin_expect(p < end && *p == ',', 1)) {
            p++;
        } else {
            p = json_space(p, end);
            if (p >= end) return json_syntax(d, p, "',' or ']'");
            if (*p == ']') break;
            if (*p != ',') return json_syntax(d, p, "',' or ']'");
            p++;
        }
        if (p < end && *p <= ' ') p = json_space(p, end);
    }
    d->out = out;
    *count = n;
    return p + 1;
}

static const uint8_t *json_numbers(Decoder *d, const uint8_t *p, int level, uint64_t *count) {
    switch (d->kind) {
    case KIND_FLOAT32: return json_numbers_of(d, p, level, count, KIND_FLOAT32);
    case KIND_FLOAT64: return json_numbers_of(d, p, level, count, KIND_FLOAT64);
    case KIND_INT64: return json_numbers_of(d, p, level, count, KIND_INT64);
    case KIND_INT32: return json_numbers_of(d, p, level, count, KIND_INT32);
    case KIND_INT16: return json_numbers_of(d, p, level, count, KIND_INT16);
    case KIND_INT8: return json_numbers_of(d, p, level, count, KIND_INT8);
    case KIND_UINT32: return json_numbers_of(d, p, level, count, KIND_UINT32);
    case KIND_UINT16: return json_numbers_of(d, p, level, count, KIND_UINT16);
    default: return json_numbers_of(d, p, level, count, KIND_UINT8);
    }
}

/* A list at `level`, p behind its '['. */
static const uint8_t *json_list(Decoder *d, const uint8_t *p, int level) {
    const uint8_t *const end = d->end;
    uint64_t count = 0;
    p = json_space(p, end);
    if (p < end && *p == ']') {
        p++;
    } else {
        if (d->leaf < 0 && (p >= end || *p != '[')) d->leaf = level;
        if (d->leaf == level) {
            if (!(p = json_numbers(d, p, level, &count))) return NULL;
        } else {
            for (;;) {
                d->index[level] = count;
                if (p >= end || *p != '[') return json_element_fault(d, p, level);
                if (level + 1 >= (int)ROWS_LEVELS) return json_too_deep(d, p);
                if (!(p = json_list(d, p + 1, level + 1))) return NULL;
                count++;
                p = json_space(p, end);
                if (p < end && *p == ']') break;
                if (p >= end || *p != ',') return json_syntax(d, p, "',' or ']'");
                p = json_space(p + 1, end);
            }
            p++;
        }
    }
    if (!d->known[level]) {
        d->known[level] = true;
        d->shape[level] = count;
        if ((unsigned)level >= d->levels) d->levels = (unsigned)level + 1;
    } else if (d->shape[level] != count) {
        return json_ragged(d, level, count);
    }
    return p;
}

/* The value of a known member, which must be a list. */
static const uint8_t *json_rows_value(Decoder *d, const uint8_t *p, const char *root) {
    decoder_rewind(d, root);
    if (p < d->end && *p == '[') return json_list(d, p + 1, 0);
    Decimal number;
    if (p < d->end && (*p == '"' || *p == '{' || json_word_at(p, d->end) || decimal_look(p, d->end, true, &number)))
        return decoder_fault(d, ROWS_NOT_NUMBERS, "%s is %s; a list of rows is expected", root, json_kind(p, d->end));
    return json_syntax(d, p, "a list of rows");
}

/* Gives the numbers the shape that the body states at p. */
static const uint8_t *json_reshape(Decoder *d, const uint8_t *p, const char *root) {
    const uint8_t *const end = d->end;
    const uint64_t have = (uint64_t)(d->out - (d->rows->base + d->rows->used)) / d->item_bytes;
    uint64_t product = 1, shape[ROWS_LEVELS];
    unsigned levels = 0;
    bool empty = false;
    if (p >= end || *p++ != '[') return decoder_fault(d, ROWS_UNDECODABLE, "the \"shape\" beside %s is no list", root);
    for (;;) {
        Decimal number;
        int64_t value;
        p = json_space(p, end);
        if (!decimal_look(p, end, true, &number) || read_int64(&number, &value) != INTEGER_OK || value < 0)
            return decoder_fault(d, ROWS_UNDECODABLE,
                                 "the \"shape\" beside %s must be a list of sizes, the first of them the number of rows",
                                 root);
        if (levels == ROWS_LEVELS)
            return decoder_fault(d, ROWS_UNDECODABLE, "the \"shape\" beside %s has more than %u sizes", root, ROWS_LEVELS);
        shape[levels++] = (uint64_t)value;
        empty |= value == 0;
        if (__builtin_mul_overflow(product, (uint64_t)value, &product)) product = UINT64_MAX;
        p = json_space(number.stop, end);
        if (p < end && *p == ']') break;
        if (p >= end || *p != ',')
            return decoder_fault(d, ROWS_UNDECODABLE, "the \"shape\" beside %s must be a list of sizes", root);
        p++;
    }
    if ((empty ? 0 : product) != have)
        return decoder_fault(d, ROWS_UNDECODABLE, "%s holds %llu numbers where its \"shape\" asks for %llu", root,
                             (unsigned long long)have, (unsigned long long)(empty ? 0 : product));
    memcpy(d->shape, shape, sizeof shape);
    d->levels = levels;
    return p;
}

enum { MEMBER_OTHER = 0, MEMBER_DATA, MEMBER_INPUTS, MEMBER_INSTANCES, MEMBER_SHAPE };

static inline int json_member(const uint8_t *name, size_t length) {
    if (length == 4 && memcmp(name, "data", 4) == 0) return MEMBER_DATA;
    if (length == 5 && memcmp(name, "shape", 5) == 0) return MEMBER_SHAPE;
    if (length == 6 && memcmp(name, "inputs", 6) == 0) return MEMBER_INPUTS;
    if (length == 9 && memcmp(name, "instances", 9) == 0) return MEMBER_INSTANCES;
    return MEMBER_OTHER;
}

static const uint8_t *json_inputs(Decoder *d, const uint8_t *p);

/* An object, p behind its '{'. `tensor`: one of "inputs", where only "data" and "shape" mean something. */
static const uint8_t *json_members(Decoder *d, const uint8_t *p, const bool tensor) {
    const uint8_t *const end = d->end;
    const char *const data_root = tensor ? "$.inputs[0].data" : "$.data";
    const uint8_t *shape = NULL;
    int found = MEMBER_OTHER;
    p = json_space(p, end);
    const bool any = !(p < end && *p == '}');
    while (any) {
        if (p >= end || *p != '"') return json_syntax(d, p, "a name in quotes");
        const uint8_t *const name = p + 1;
        if (!(p = json_string(d, name))) return NULL;
        int member = json_member(name, (size_t)(p - 1 - name));
        if (tensor && member != MEMBER_SHAPE && member != MEMBER_DATA) member = MEMBER_OTHER;
        p = json_space(p, end);
        if (p >= end || *p != ':') return json_syntax(d, p, "':'");
        p = json_space(p + 1, end);
        if (member == MEMBER_SHAPE) shape = p;
        if (member == MEMBER_SHAPE || member == MEMBER_OTHER || member < found) {
            p = json_skip(d, p, tensor ? 3 : 1);
        } else {
            found = member;
            if (member == MEMBER_INPUTS) p = json_inputs(d, p);
            else p = json_rows_value(d, p, member == MEMBER_INSTANCES ? "$.instances" : data_root);
        }
        if (!p) return NULL;
        p = json_space(p, end);
        if (p < end && *p == '}') break;
        if (p >= end || *p != ',') return json_syntax(d, p, "',' or '}'");
        p = json_space(p + 1, end);
    }
    if (found == MEMBER_OTHER)
        return decoder_fault(d, ROWS_NOT_NUMBERS,
                             tensor ? "$.inputs[0] has no \"data\""
                                    : "the body has no \"instances\", \"inputs\" or \"data\" that holds the rows");
    if (found == MEMBER_DATA && shape && !json_reshape(d, shape, data_root)) return NULL;
    return p + 1;
}

/* The value of "inputs": rows, or a list of one tensor. */
static const uint8_t *json_inputs(Decoder *d, const uint8_t *p) {
    const uint8_t *const end = d->end;
    const uint8_t *first = p < end && *p == '[' ? json_space(p + 1, end) : end;
    if (first >= end || *first != '{') return json_rows_value(d, p, "$.inputs");
    if (!(p = json_members(d, first + 1, true))) return NULL;
    p = json_space(p, end);
    if (p < end && *p == ',')
        return decoder_fault(d, ROWS_NOT_NUMBERS, "$.inputs holds several tensors where one is expected");
    if (p >= end || *p != ']') return json_syntax(d, p, "']'");
    return p + 1;
}

/* Decodes a whole body. Returns ROWS_*; when that is ROWS_OK, the numbers lie behind the rows and d->shape, d->levels tell
 * their shape. */
static inline int json_decode(Decoder *d) {
    decoder_rewind(d, "$");
    const uint8_t *p = json_space(d->start, d->end);
    if (p < d->end && *p == '{') p = json_members(d, p + 1, false);
    else p = json_rows_value(d, p, "$");
    if (!p) return d->status;
    p = json_space(p, d->end);
    if (p < d->end) json_syntax(d, p, "nothing more");
    return d->status;
}

#endif
