/* Feeds files to http.h as the bytes of one connection each: whole, byte by byte, and split in two at every offset.
 *
 *   http_driver FILE...      prints "name requests outcome" for each; outcome is "ok", "incomplete" or a refusal's word
 *   http_driver -            the same for inputs on standard input, each behind its length (4 bytes, little-endian), with no name
 *                            and, besides byte by byte, at a few splits
 *
 * Every buffer ends right before a page without access, and moves between two calls: a byte read past the end, or a pointer
 * kept, is a crash. The outcome, every head and every body byte go into a digest, which must not depend on the split; if it
 * does, the exit status is 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "http.h"

enum { ROOM = 1 << 20 };

static uint8_t *edges[2]; /* the two page edges that bytes are shown in front of, by turns */
static int turn;

static const uint8_t *show(const uint8_t *bytes, size_t n) {
    uint8_t *place = edges[turn ^= 1] - n;
    memcpy(place, bytes, n);
    return place;
}

typedef struct {
    uint64_t digest;
    int requests;
    int outcome;
} Result;

static void note(Result *r, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) r->digest = (r->digest ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3ull;
}

static void note_number(Result *r, uint64_t number) { note(r, &number, sizeof number); }

static void note_head(Result *r, const uint8_t *buf, const HttpHead *h) {
    const HttpSpan spans[] = {h->path, h->query, h->fields, h->content_type, h->accept};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        note_number(r, spans[i].length);
        note(r, buf + spans[i].offset, spans[i].length);
    }
    const uint64_t numbers[] = {h->content_length, h->head_length,  h->skipped,     h->field_count, h->flags,
                                h->method,         h->minor,        h->content_kind, h->accept_kind};
    note(r, numbers, sizeof numbers);
    HttpSpan name, value;
    for (size_t at = 0; http_next_field(buf + h->fields.offset, h->fields.length, &at, &name, &value);) {
        note(r, buf + h->fields.offset + name.offset, name.length);
        note(r, buf + h->fields.offset + value.offset, value.length);
    }
    uint8_t scratch[ROOM / 16];
    HttpPath path;
    const uint8_t *alone = show(buf + h->path.offset, h->path.length);
    note_number(r, (uint64_t)http_split_path(alone, h->path.length, &path, scratch, sizeof scratch));
}

/* One connection: sizes say where the input is cut; `step` bytes at a time from `first` on. */
static Result run(const uint8_t *bytes, size_t len, size_t first, size_t step) {
    HttpLimits limits;
    HttpScan scan = {0};
    HttpHead head;
    HttpChunks chunks;
    Result r = {0xcbf29ce484222325ull, 0, HTTP_INCOMPLETE};
    enum { IN_HEAD, IN_BODY, IN_CHUNKS } state = IN_HEAD;
    uint64_t lacking = 0;
    size_t start = 0; /* what was not taken yet begins here */
    http_limits_default(&limits);
    for (size_t end = first < len ? first : len;; end = len - end > step ? end + step : len) {
        for (int is_hungry = 0; !is_hungry;) {
            if (state == IN_HEAD) {
                const uint8_t *buf = show(bytes + start, end - start);
                r.outcome = http_parse_head(buf, end - start, &limits, &scan, &head);
                if (r.outcome < 0) return r;
                if (r.outcome == HTTP_INCOMPLETE) break;
                note_head(&r, buf, &head);
                memset(&scan, 0, sizeof scan);
                start += head.head_length;
                lacking = head.flags & HTTP_CHUNKED ? 1 : head.content_length;
                http_chunks_start(&chunks);
                state = head.flags & HTTP_CHUNKED ? IN_CHUNKS : IN_BODY;
            } else if (state == IN_BODY) {
                size_t n = lacking < end - start ? (size_t)lacking : end - start;
                note(&r, bytes + start, n);
                start += n;
                lacking -= n;
                is_hungry = lacking != 0;
            } else {
                size_t used, data_len;
                const uint8_t *data;
                const uint8_t *buf = show(bytes + start, end - start);
                r.outcome = http_chunks_next(&chunks, &limits, buf, end - start, &used, &data, &data_len);
                if (r.outcome < 0) return r;
                if (data_len) note(&r, data, data_len);
                start += used;
                is_hungry = r.outcome == HTTP_INCOMPLETE;
                lacking = r.outcome != HTTP_CHUNK_END;
            }
            if (state != IN_HEAD && lacking == 0) {
                r.requests++;
                state = IN_HEAD;
            }
        }
        if (end == len) break;
    }
    r.outcome = state == IN_HEAD && start == len ? HTTP_OK : HTTP_INCOMPLETE;
    return r;
}

static const char *word(int outcome) {
    return outcome < 0 ? http_error_word(outcome) : outcome == HTTP_OK ? "ok" : "incomplete";
}

/* Compares one input, cut as said (0: byte by byte), with the whole; 1 when they differ. */
static int differs(const char *name, const uint8_t *bytes, size_t len, Result whole, size_t cut) {
    Result split = run(bytes, len, cut ? cut : 1, cut ? len : 1);
    if (split.digest == whole.digest && split.outcome == whole.outcome && split.requests == whole.requests) return 0;
    fprintf(stderr, "%s cut at %zu: %d %s, but whole: %d %s\n", name, cut, split.requests, word(split.outcome), whole.requests,
            word(whole.outcome));
    return 1;
}

static int run_stream(uint8_t *bytes) {
    int is_broken = 0;
    uint8_t length[4];
    for (unsigned n = 0; fread(length, 1, 4, stdin) == 4; n++) {
        size_t len = length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
        if (len > ROOM || fread(bytes, 1, len, stdin) != len) return 2;
        char name[24];
        snprintf(name, sizeof name, "input %u", n);
        Result whole = run(bytes, len, len, 1);
        is_broken |= differs(name, bytes, len, whole, 0);
        for (unsigned i = 1; len > 1 && i < 4; i++) is_broken |= differs(name, bytes, len, whole, 1 + (n * 7919u + i * 104729u) % (len - 1));
        printf("%d %s\n", whole.requests, word(whole.outcome));
    }
    return is_broken;
}

int main(int argc, char **argv) {
    static uint8_t bytes[ROOM];
    int is_broken = 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < 2; i++) {
        uint8_t *map = mmap(NULL, ROOM + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map + ROOM, page, PROT_NONE) != 0) return 2;
        edges[i] = map + ROOM;
    }
    if (argc == 2 && strcmp(argv[1], "-") == 0) return run_stream(bytes);
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) return 2;
        size_t len = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        const char *slash = strrchr(argv[i], '/');
        const char *name = slash ? slash + 1 : argv[i];
        Result whole = run(bytes, len, len, 1);
        for (size_t cut = 0; cut <= len; cut++) is_broken |= differs(name, bytes, len, whole, cut);
        printf("%s %d %s\n", name, whole.requests, word(whole.outcome));
    }
    return is_broken;
}
