/* What reading (decimal.h) and writing (shortest.h) of decimal numbers share: powers of ten, and which of two they are next to.
 * No allocation, no locale of the process, no Python.
 *
 * powers_of_ten is filled (numbers_set_power for each exponent) and numbers_start is called before anything else.
 */
#ifndef HEADRACE_NUMBERS_H
#define HEADRACE_NUMBERS_H

#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "eight digits are read and written as one little-endian word"
#endif

#define POWER_MIN (-342)  /* 10^-343 x 2^64 is less than half of the least float64 */
#define POWER_MAX 324     /* 10^324 scales the least float64 to an integer */
#define POWER32_MIN (-31) /* likewise for writing float32 */
#define POWER32_MAX 45

#define ASCII_ZEROS 0x3030303030303030ull

typedef unsigned __int128 uint128;

/* HOT: parameters that are constants make it another function. COLD: kept out of the loops, whose registers are few. */
#define HOT static inline __attribute__((always_inline))
#define COLD static __attribute__((noinline, unused))

/* floor(10^k x 2^s) with s such that bit 127 is the highest set; exact for 0 <= k <= 55. */
typedef struct {
    uint64_t high, low;
} Power;

static Power powers_of_ten[POWER_MAX - POWER_MIN + 1];
static uint64_t powers_of_ten32[POWER32_MAX - POWER32_MIN + 1]; /* the upper 64 bits, rounded up: enough to write float32 */
static locale_t numbers_locale;

static inline void numbers_set_power(int k, uint64_t high, uint64_t low) {
    powers_of_ten[k - POWER_MIN] = (Power){high, low};
    if (k >= POWER32_MIN && k <= POWER32_MAX) powers_of_ten32[k - POWER32_MIN] = high + (low != 0);
}

static inline bool numbers_start(void) {
    if (!numbers_locale) numbers_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return numbers_locale != (locale_t)0;
}

static const uint64_t small_tens[20] = {
    1ull, 10ull, 100ull, 1000ull, 10000ull, 100000ull, 1000000ull, 10000000ull,
    100000000ull, 1000000000ull, 10000000000ull, 100000000000ull, 1000000000000ull,
    10000000000000ull, 100000000000000ull, 1000000000000000ull, 10000000000000000ull,
    100000000000000000ull, 1000000000000000000ull, 10000000000000000000ull,
};

/* floor(log2(10^k)) and floor(log10(2^e)), exact for |k| <= 400 and |e| <= 1300: all of them were computed. */
static inline int log2_of_ten(int k) { return (k * 217706) >> 16; }
static inline int log10_of_two(int e) { return (e * 315653) >> 20; }
static inline int log10_of_three_quarters(int e) { return (e * 315653 - 131008) >> 20; } /* floor(log10(3/4 x 2^e)) */

#endif
