/* tally.h by itself: every bucket against a plain search, and what a request costs (`tally_driver ROUNDS`: ns a request). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tally.h"

static void check_time(uint64_t ns) {
    unsigned expected = 0;
    while (expected < TIME_BOUNDS && ns > time_bounds_ns[expected]) expected++;
    assert(time_bucket(ns) == expected);
}

static void check_buckets(void) {
    for (unsigned i = 0; i < TIME_BOUNDS; i++)
        for (int64_t off = -2; off <= 2; off++) check_time(time_bounds_ns[i] + (uint64_t)off);
    for (unsigned bit = 0; bit < 64; bit++)
        for (int64_t off = -2; off <= 2; off++) check_time((1ull << bit) + (uint64_t)off);
    check_time(0);
    check_time(UINT64_MAX);
    for (uint64_t rows = 0; rows <= 1 << 17; rows++) {
        unsigned expected = 0;
        while (expected < ROW_BOUNDS && rows > 1ull << expected) expected++;
        assert(row_bucket(rows) == expected);
    }
}

static void check_statuses(void) {
    TallyCounts counts;
    memset(&counts, 0, sizeof(counts));
    for (unsigned status = 0; status <= 999; status++) count_status(&counts, status);
    uint64_t known = sizeof(known_statuses) / sizeof(known_statuses[0]), others = 0;
    for (unsigned i = 0; i < STATUSES; i++) assert(counts.statuses[i] == (i < known));
    for (unsigned i = 0; i < STATUS_CLASSES; i++) others += counts.others[i];
    assert(others == 1000 - known);
    for (unsigned i = 1; i < known; i++) assert(known_statuses[i - 1] < known_statuses[i]);
}

/* Times that cannot be, and batches larger than any: nothing of them is counted. */
static void check_lies(void) {
    TallyCounts counts, none;
    memset(&counts, 0, sizeof(counts));
    memset(&none, 0, sizeof(none));
    count_work(&counts, 100, 99, 200, 300, 1);
    count_work(&counts, 100, 200, 199, 300, 1);
    count_work(&counts, 100, 200, 301, 300, 1);
    count_work(&counts, 100, 0, 0, 300, 1);
    assert(memcmp(&counts, &none, sizeof(none)) == 0);
    count_work(&counts, 100, 100, 300, 300, ROWS_MOST + 1);
    assert(counts.rows_sum == 0 && counts.computed.sum_ns == 200 && counts.computed.buckets[0] == 1);
}

static double cost_ns(uint64_t rounds) {
    static TallyCounts counts[64];
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (uint64_t i = 0; i < rounds; i++) {
        TallyCounts *one = &counts[i * 7 % 64];
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now); /* the one that a frontend reads for it */
        uint64_t ns = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec, spent = (i * 2654435761u) % 3000000;
        count_answer(one, 200, ns - spent - 1000, ns, 100, 200);
        count_work(one, ns - spent, ns - spent / 2, ns, ns, 1 + i % 32);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / (double)rounds;
}

int main(int argc, char **argv) {
    check_buckets();
    check_statuses();
    check_lies();
    if (argc > 1) printf("%.1f\n", cost_ns(strtoull(argv[1], NULL, 10)));
    return 0;
}
