/* Decodes files as the bodies that their endings say (.json, .csv, .npy), for every kind of number, and then bodies made of
 * them: every prefix, and `rounds` mutations.
 *
 *   codec_driver POWERS ROUNDS FILE...      prints "name outcome rows" for each file as it is, decoded to float32
 *
 * POWERS holds the table of numbers.h, two words for each exponent. Every body lies once right before a page without access
 * and once right behind one: a byte read past either end is a crash. Rows that were decoded are written as JSON and CSV into
 * rooms of exactly their length and read again: other bits, or a text of another length, make the exit status 1.
 */
#define _GNU_SOURCE /* strtod_l; Python.h says so for the extension */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "csv_rows.h"
#include "json_rows.h"
#include "npy.h"
#include "text.h"

enum { ROOM = 1 << 20, ROWS_MOST_BYTES = 1 << 16 };

static uint8_t *room;      /* ROOM bytes between two pages without access */
static uint8_t *text_room; /* likewise, for what is written */

static uint8_t *guarded(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *base = mmap(NULL, ROOM + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + page, ROOM, PROT_READ | PROT_WRITE)) {
        perror("mmap");
        exit(2);
    }
    return base + page;
}

static void check(bool is_right, const char *what) {
    if (is_right) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static int decode(Decoder *d, Rows *rows, int kind, char format, const uint8_t *body, size_t n) {
    decoder_init(d, rows, kind, body, n);
    const int status = format == 'j' ? json_decode(d) : csv_decode(d, format == 'h');
    check((status == ROWS_OK) == (d->text[0] == 0), "a fault without a text, or a text without a fault");
    return status;
}

/* What was decoded, written and read again: the same bits in as many rows. NaN and infinities, which JSON lacks, stay out. */
static void round_trip(const Decoder *d, int kind, char format) {
    const size_t n = (size_t)(d->out - d->rows->base);
    const int text_kind = kind == KIND_FLOAT32 ? TEXT_FLOAT32 : TEXT_FLOAT64;
    int64_t shape[ROWS_LEVELS];
    if (n == 0) return;
    for (size_t at = 0; at < n; at += d->item_bytes) {
        float narrow = 0;
        double wide = 0;
        if (kind == KIND_FLOAT32) memcpy(&narrow, d->rows->base + at, 4);
        else memcpy(&wide, d->rows->base + at, 8);
        if (!isfinite(narrow) || !isfinite(wide)) return;
    }
    for (unsigned i = 0; i < d->levels; i++) shape[i] = (int64_t)d->shape[i];
    size_t length = 0;
    for (int turn = 0; turn < 2; turn++) { /* once to learn the length, once where it just fits */
        Text t = {(char *)text_room + (turn ? ROOM - length : 0), (char *)text_room + ROOM, false};
        const char *const start = t.out;
        if (format == 'j') text_json(&t, d->rows->base, shape, d->levels, text_kind);
        else text_csv(&t, d->rows->base, d->shape[0], d->shape[1], text_kind);
        check(!t.full, "a text does not fit where its length does");
        check(!turn || length == (size_t)(t.out - start), "a text of another length");
        length = (size_t)(t.out - start);
    }
    Rows again = {.limit = ROWS_MOST_BYTES};
    Decoder other;
    check(decode(&other, &again, kind, format == 'j' ? 'j' : 'c', text_room + ROOM - length, length) == ROWS_OK, other.text);
    check(other.levels == d->levels && memcmp(other.shape, d->shape, d->levels * sizeof *d->shape) == 0, "another shape");
    check((size_t)(other.out - again.base) == n && memcmp(again.base, d->rows->base, n) == 0, "other bits");
    free(again.base);
}

/* All that one body is put through. Returns ROWS_* for float32 (0 or 1 for npy), *count the rows. */
static int judge(const uint8_t *bytes, size_t n, char format, uint64_t *count) {
    int outcome = 0;
    for (int edge = 0; edge < 2; edge++) {
        uint8_t *const body = edge ? room + ROOM - n : room;
        memcpy(body, bytes, n);
        if (format == 'n') {
            NpyHead head;
            outcome = !npy_read(&head, body, n);
            *count = outcome || !head.levels ? 0 : head.shape[0];
            check(outcome || head.data <= n, "npy data outside of the body");
            continue;
        }
        for (int kind = KIND_UINT32; kind >= KIND_FLOAT32; kind--) {
            Rows rows = {.limit = ROWS_MOST_BYTES};
            Decoder d;
            outcome = decode(&d, &rows, kind, format, body, n);
            *count = outcome == ROWS_OK ? d.shape[0] : 0;
            if (outcome == ROWS_OK && kind <= KIND_FLOAT64) round_trip(&d, kind, format);
            free(rows.base);
        }
    }
    return outcome;
}

static uint64_t chance = 0x9e3779b97f4a7c15ull;

static size_t draw(size_t below) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return below ? (size_t)(chance % below) : 0;
}

/* Replaces, removes or doubles a few bytes. */
static size_t mutate(uint8_t *body, size_t n) {
    static const char pool[] = "0123456789.-+eE,[]{}\":\n\r \t\\ntfINaN\x80\xff";
    for (size_t left = 1 + draw(4); left && n; left--) {
        const size_t at = draw(n), span = 1 + draw(n - at < 20 ? n - at : 20);
        switch (draw(3)) {
        case 0: body[at] = (uint8_t)pool[draw(sizeof pool - 1)]; break;
        case 1:
            memmove(body + at, body + at + span, n - at - span);
            n -= span;
            break;
        default:
            if (n + span > 4096) break;
            memmove(body + at + span, body + at, n - at);
            n += span;
        }
    }
    return n;
}

int main(int count, char **names) {
    static uint8_t bytes[4096], other[4096];
    static const char *const words[] = {"ok", "undecodable", "not_numbers", "full", "no_memory"};
    FILE *file = count > 3 ? fopen(names[1], "rb") : NULL;
    if (!file) return 2;
    for (int k = POWER_MIN; k <= POWER_MAX; k++) {
        uint64_t power[2];
        if (fread(power, sizeof power, 1, file) != 1) return 2;
        numbers_set_power(k, power[0], power[1]);
    }
    fclose(file);
    if (!numbers_start()) return 2;
    room = guarded();
    text_room = guarded();
    const long rounds = atol(names[2]);
    for (int i = 3; i < count; i++) {
        const char *const slash = strrchr(names[i], '/'), *const name = slash ? slash + 1 : names[i];
        const char *const dot = strrchr(name, '.');
        char format = dot ? dot[1] : 0;
        if (!dot || !strchr("jcn", format) || !(file = fopen(names[i], "rb"))) return 2;
        const size_t n = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        uint64_t rows, ignored;
        if (format == 'c' && strncmp(name, "header_", 7) == 0) format = 'h';
        const int outcome = judge(bytes, n, format, &rows);
        printf("%s %s %llu\n", name, words[outcome], (unsigned long long)rows);
        for (size_t cut = 0; cut < n; cut++) judge(bytes, cut, format, &ignored);
        for (long round = 0; round < rounds; round++) {
            memcpy(other, bytes, n);
            judge(other, mutate(other, n), format, &ignored);
        }
    }
    return 0;
}
