/* The head of an npy file, versions 1 to 3 (numpy.lib.format): magic, version, length, and a Python dict as text with exactly
 * the keys descr, fortran_order and shape. Read by a small strict parser; nothing is evaluated.
 *
 *   \x93NUMPY  major minor  length (2 bytes little endian; 4 from version 2 on)  {'descr': '<f4', 'fortran_order': False,
 * 'shape': (3, 4), }\n
 */
#ifndef HEADRACE_NPY_H
#define HEADRACE_NPY_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NPY_LEVELS 32u /* dimensions that every supported numpy can have */

typedef struct {
    const char *descr; /* inside the quotes, not terminated */
    size_t descr_length;
    size_t data; /* offset of the first element */
    uint64_t shape[NPY_LEVELS];
    uint64_t items; /* product of the shape */
    unsigned levels;
    bool fortran;
    char text[200]; /* what is wrong */
} NpyHead;

static __attribute__((noinline, format(printf, 2, 3))) bool npy_fault(NpyHead *head, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(head->text, sizeof head->text, format, arguments);
    va_end(arguments);
    return false;
}

static inline const char *npy_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t')) p++;
    return p;
}

/* A string in either kind of quotes, without escapes; *text and *length tell its inside. Returns NULL when there is none. */
static inline const char *npy_string(const char *p, const char *end, const char **text, size_t *length) {
    if (p >= end || (*p != '\'' && *p != '"')) return NULL;
    const char *stop = memchr(p + 1, *p, (size_t)(end - p - 1));
    if (!stop || memchr(p + 1, '\\', (size_t)(stop - p - 1))) return NULL;
    *text = p + 1;
    *length = (size_t)(stop - p - 1);
    return stop + 1;
}

static inline bool npy_is(const char *text, size_t length, const char *word) {
    return length == strlen(word) && memcmp(text, word, length) == 0;
}

static inline const char *npy_word(const char *p, const char *end, const char *word) {
    const size_t n = strlen(word);
    return (size_t)(end - p) >= n && memcmp(p, word, n) == 0 ? p + n : NULL;
}

/* A tuple of sizes: (), (3,), (3, 4). NULL after npy_fault. */
static const char *npy_shape(NpyHead *head, const char *p, const char *end) {
    if (p >= end || *p != '(') {
        npy_fault(head, "npy: the shape is no tuple");
        return NULL;
    }
    head->levels = 0;
    head->items = 1;
    bool empty = false, comma = true;
    for (p = npy_space(p + 1, end); p < end && *p != ')'; p = npy_space(p, end)) {
        uint64_t size = 0;
        const char *const first = p;
        for (; p < end && *p >= '0' && *p <= '9' && size < 1ull << 58; p++) size = size * 10 + (uint64_t)(*p - '0');
        if (!comma || p == first || (p < end && *p >= '0' && *p <= '9')) {
            npy_fault(head, "npy: the shape must be a tuple of sizes");
            return NULL;
        }
        if (p < end && *p == 'L') p++; /* as Python 2 wrote it */
        if (head->levels == NPY_LEVELS) {
            npy_fault(head, "npy: more than %u dimensions", NPY_LEVELS);
            return NULL;
        }
        head->shape[head->levels++] = size;
        empty |= size == 0;
        if (__builtin_mul_overflow(head->items, size, &head->items)) head->items = UINT64_MAX;
        p = npy_space(p, end);
        comma = p < end && *p == ',';
        p += comma;
    }
    if (p >= end || (head->levels == 1 && !comma)) {
        npy_fault(head, "npy: the shape must be a tuple of sizes");
        return NULL;
    }
    if (empty) head->items = 0;
    return p + 1;
}

/* Reads the head of an npy body. False when it is none, head->text telling why. */
static inline bool npy_read(NpyHead *head, const uint8_t *body, size_t length) {
    if (length < 10 || memcmp(body, "\x93NUMPY", 6) != 0)
        return npy_fault(head, "not an npy body: it does not start with \\x93NUMPY and a version");
    const unsigned major = body[6], minor = body[7];
    if (major < 1 || major > 3 || minor != 0)
        return npy_fault(head, "npy version %u.%u; 1.0, 2.0 and 3.0 can be read", major, minor);
    const size_t before = major == 1 ? 10 : 12;
    if (length < before) return npy_fault(head, "npy: the body ends inside its head");
    const size_t text_length = major == 1 ? body[8] | (size_t)body[9] << 8
                                          : body[8] | (size_t)body[9] << 8 | (size_t)body[10] << 16 | (size_t)body[11] << 24;
    if (text_length > length - before)
        return npy_fault(head, "npy: a head of %zu bytes in a body of %zu", text_length, length);
    head->data = before + text_length;
    const char *p = (const char *)body + before, *const end = p + text_length;
    bool descr = false, order = false, shape = false;
    p = npy_space(p, end);
    if (p >= end || *p != '{') return npy_fault(head, "npy: the head is no dict");
    p = npy_space(p + 1, end);
    while (p < end && *p != '}') {
        const char *key;
        size_t key_length;
        if (!(p = npy_string(p, end, &key, &key_length))) return npy_fault(head, "npy: the head's keys must be strings");
        p = npy_space(p, end);
        if (p >= end || *p != ':') return npy_fault(head, "npy: a key without value in the head");
        p = npy_space(p + 1, end);
        if (!descr && npy_is(key, key_length, "descr")) {
            descr = true;
            if (p < end && *p == '[') return npy_fault(head, "npy: structured dtypes are refused; send one plain array");
            if (!(p = npy_string(p, end, &head->descr, &head->descr_length)))
                return npy_fault(head, "npy: descr is no string");
        } else if (!order && npy_is(key, key_length, "fortran_order")) {
            order = true;
            const char *yes = npy_word(p, end, "True"), *no = npy_word(p, end, "False");
            if (!yes && !no) return npy_fault(head, "npy: fortran_order is neither True nor False");
            head->fortran = yes != NULL;
            p = yes ? yes : no;
        } else if (!shape && npy_is(key, key_length, "shape")) {
            shape = true;
            if (!(p = npy_shape(head, p, end))) return false;
        } else {
            return npy_fault(head, "npy: the head must have the keys descr, fortran_order and shape, each once");
        }
        p = npy_space(p, end);
        if (p < end && *p == ',') p = npy_space(p + 1, end);
        else if (p >= end || *p != '}') return npy_fault(head, "npy: a comma is missing in the head");
    }
    if (p >= end || npy_space(p + 1, end) != end) return npy_fault(head, "npy: the head is no dict");
    if (!descr || !order || !shape) return npy_fault(head, "npy: the head must have the keys descr, fortran_order and shape");
    return true;
}

#endif
