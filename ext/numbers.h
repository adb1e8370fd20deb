/* Decimal text to and from binary numbers, correctly rounded both ways. No allocation, no locale, no Python.
 *
 * Reading (read_float32, read_float64, read_int64): the text becomes w x 10^q with at most 19 digits in w. Multiplying w by
 * the upper 128 bits of 10^q gives bounds on the value that lie closer together than 2^-64 of it; where both round to one
 * number, that is the answer (as D. Lemire, "Number parsing at a gigabyte per second", 2021, does it). The rare rest, next to
 * a tie, goes to strtod on a bounded copy of the digits.
 *
 * Writing (put_float32, put_float64): the shortest digits that read back as the same number, and of these the closest, after
 * R. Giulietti, "The Schubfach way to render doubles" (2020): the bounds of the rounding interval are scaled by 10^-k so that
 * the interval holds at least one integer and at most one multiple of ten; three products, each rounded to odd, decide.
 *
 * Invariants
 * 1. Reading touches no byte outside [p, end), decimal_scan_usual none outside [p - USUAL_BEFORE, p + USUAL_BEHIND). Writing
 *    touches less than NUMBER_ROOM bytes from `out` on.
 * 2. powers_of_ten is filled (numbers_set_power for each exponent) and numbers_start is called before anything else.
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

#define NUMBER_ROOM 64u   /* bytes that a put_* function may touch */
#define POWER_MIN (-342)  /* 10^-343 x 2^64 is less than half of the least float64 */
#define POWER_MAX 324     /* 10^324 scales the least float64 to an integer */
#define POWER32_MIN (-31) /* likewise for writing float32 */
#define POWER32_MAX 45
#define SLOW_DIGITS 800   /* a tie between two float64 ends within 768 digits; past that only "more" or "no more" matters */

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

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

/* A number as it stands in the text: (-1)^negative x digits x 10^exponent. */
typedef struct {
    uint64_t digits; /* modulo 2^64 if truncated; after decimal_settle the first 19 significant ones */
    int64_t exponent; /* of ten, that goes with `digits` */
    const uint8_t *text; /* first digit or point; where the fault lies if the scan failed */
    const uint8_t *stop; /* past the number */
    bool negative;
    bool truncated; /* more than 19 digits in the text. After decimal_settle: digits left out, not all zero */
} Decimal;

/* The value of eight digits, each byte 0..9, the first one lowest. */
static inline uint64_t eight_digits(uint64_t u) {
    u = (u * 10 + (u >> 8)) & 0x00ff00ff00ff00ffull;
    u = (u * 100 + (u >> 16)) & 0x0000ffff0000ffffull;
    return (u * 10000 + (u >> 32)) & 0xffffffffull;
}

/* Bit 7 of each byte that was no digit, at least of the first such one: a carry out of it only disturbs bytes after it. */
static inline uint64_t no_digits(uint64_t u) { return (u | (u + 0x7676767676767676ull)) & 0x8080808080808080ull; }

/* v followed by the first n digits of u, 0 <= n <= 8. Two shifts, since none of 64 bits is possible. */
static inline uint64_t join_digits(uint64_t v, uint64_t u, unsigned n) {
    const unsigned shift = 32 - 4 * n;
    return v * small_tens[n] + eight_digits(u << shift << shift);
}

/* Appends the digits at p to *value (modulo 2^64) and returns where they end. Sixteen at a time and without a branch on how
 * many there are: that number cannot be predicted, and a misprediction costs more than a few idle multiplications. */
HOT const uint8_t *digit_run(const uint8_t *p, const uint8_t *end, uint64_t *value) {
    uint64_t v = *value;
    while (end - p >= 16) {
        uint64_t u[2];
        memcpy(u, p, 16);
        u[0] ^= ASCII_ZEROS;
        u[1] ^= ASCII_ZEROS;
        const uint64_t other[2] = {no_digits(u[0]), no_digits(u[1])};
        const unsigned n = other[0] ? (unsigned)__builtin_ctzll(other[0]) >> 3 : 8;
        unsigned m = other[1] ? (unsigned)__builtin_ctzll(other[1]) >> 3 : 8;
        m &= 0u - (n == 8);
        v = join_digits(join_digits(v, u[0], n), u[1], m);
        p += n + m;
        if (m < 8) {
            *value = v;
            return p;
        }
    }
    for (; p < end && (uint8_t)(*p - '0') <= 9; p++) v = v * 10 + (uint64_t)(*p - '0');
    *value = v;
    return p;
}

/* The same for the digits before the point, which are few. */
static inline const uint8_t *digit_run_short(const uint8_t *p, const uint8_t *end, uint64_t *value) {
    while (end - p >= 8) {
        uint64_t u;
        memcpy(&u, p, 8);
        u ^= ASCII_ZEROS;
        const uint64_t other = no_digits(u);
        const unsigned n = other ? (unsigned)__builtin_ctzll(other) >> 3 : 8;
        *value = join_digits(*value, u, n);
        p += n;
        if (other) return p;
    }
    for (; p < end && (uint8_t)(*p - '0') <= 9; p++) *value = *value * 10 + (uint64_t)(*p - '0');
    return p;
}

/* Scans a number. json: the grammar of RFC 8259; else also a leading plus, leading zeros, "5." and ".5". Returns false when
 * there is none, d->text being the byte at fault. Does not look at what follows the number. */
HOT bool decimal_scan(const uint8_t *p, const uint8_t *end, const bool json, Decimal *d) {
    d->negative = p < end && *p == '-'; /* added, not branched on: signs cannot be predicted */
    p += d->negative;
    if (!json && !d->negative && p < end && *p == '+') p++;
    const uint8_t *const whole = p;
    uint64_t w = 0;
    if (p < end && (uint8_t)(*p - '0') <= 9) {
        w = (uint64_t)(*p++ - '0');
        if (p < end && (uint8_t)(*p - '0') <= 9) {
            if (json && w == 0) {
                d->text = p;
                return false;
            }
            p = digit_run_short(p, end, &w);
        }
    } else if (json) {
        d->text = p;
        return false;
    }
    int64_t count = p - whole, exponent = 0;
    if (p < end && *p == '.') {
        const uint8_t *const fraction = ++p;
        p = digit_run(p, end, &w);
        exponent = fraction - p;
        count -= exponent;
        if (json && p == fraction) {
            d->text = p;
            return false;
        }
    }
    if (!json && count == 0) {
        d->text = p;
        return false;
    }
    d->text = whole;
    d->digits = w;
    d->exponent = exponent;
    if (p < end && (*p | 0x20) == 'e') {
        p++;
        bool down = false;
        if (p < end && (*p == '-' || *p == '+')) down = *p++ == '-';
        const uint8_t *const first = p;
        int64_t e = 0;
        for (; p < end && (uint8_t)(*p - '0') <= 9; p++)
            if (e < (int64_t)1e16) e = e * 10 + (*p - '0'); /* larger than any count of digits: saturated */
        if (p == first) {
            d->text = p;
            return false;
        }
        d->exponent += down ? -e : e;
    }
    d->stop = p;
    d->truncated = count > 19;
    return true;
}

#define USUAL_BEFORE 16 /* bytes of the body that decimal_scan_usual may touch before p, */
#define USUAL_BEHIND 40 /* and from p on */

/* The same for what nearly every number looks like, [-]d.ddd with up to 18 digits behind the point and no exponent. False:
 * some other number, or none; decimal_scan knows. Where the number ends depends on one load and a handful of operations, and
 * on no branch that the digits decide; so the processor begins the next number long before this one is done. */
HOT bool decimal_scan_usual(const uint8_t *p, Decimal *d) {
#if defined(__x86_64__)
    const unsigned negative = p[0] == '-', first = (unsigned)p[negative] - '0';
    if (first > 9 || p[negative + 1] != '.') return false;
    const __m128i zero = _mm_set1_epi8('0'), nine = _mm_set1_epi8(9);
    const __m128i a = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(p + 2)), zero);
    const __m128i b = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(p + 18)), zero);
    /* Bit i: p[2 + i] is a digit; in a negative number bit 0 is the point, which counts as one. */
    const uint32_t digits = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(a, nine), a)) |
                            (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(b, nine), b)) << 16 | negative;
    const unsigned run = (unsigned)__builtin_ctzll(~(uint64_t)digits), count = run - negative;
    const uint8_t *const stop = p + 2 + run;
    if (count - 1 > 17 || (*stop | 0x20) == 'e') return false;
    /* The last sixteen digits, the bytes before them cleared; two at a time, four, eight. */
    static const uint8_t keep[32] = {[16] = 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    const unsigned tail = count < 16 ? count : 16, over = count - tail;
    __m128i x = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(stop - 16)), zero);
    x = _mm_and_si128(x, _mm_loadu_si128((const __m128i *)(keep + tail)));
    x = _mm_add_epi16(_mm_mullo_epi16(_mm_and_si128(x, _mm_set1_epi16(255)), _mm_set1_epi16(10)), _mm_srli_epi16(x, 8));
    x = _mm_madd_epi16(x, _mm_set1_epi32(1 << 16 | 100));
    x = _mm_madd_epi16(_mm_packs_epi32(x, x), _mm_set1_epi32(1 << 16 | 10000));
    const uint64_t halves = (uint64_t)_mm_cvtsi128_si64(x);
    /* Up to two more before them. */
    static const uint8_t weights[3][2] = {{0, 0}, {1, 0}, {10, 1}};
    const uint8_t *const fraction = p + negative + 2;
    const uint64_t more = (uint64_t)(fraction[0] - '0') * weights[over][0] + (uint64_t)(fraction[1] - '0') * weights[over][1];
    d->digits = first * small_tens[count] + more * small_tens[16] + (halves & 0xffffffffu) * 100000000u + (halves >> 32);
    d->exponent = -(int64_t)count;
    d->negative = negative;
    d->truncated = false;
    d->stop = stop;
    return true;
#else
    (void)p, (void)d;
    return false;
#endif
}

/* More than 19 digits: finds the significant ones and keeps the first 19. */
static inline void decimal_settle(Decimal *d) {
    if (!d->truncated) return;
    d->truncated = false;
    uint64_t w = 0;
    unsigned kept = 0;
    for (const uint8_t *p = d->text; p < d->stop && (*p | 0x20) != 'e'; p++) {
        if (*p == '.' || (!kept && *p == '0')) continue;
        if (kept < 19) {
            w = w * 10 + (uint64_t)(*p - '0');
            kept++;
        } else {
            d->exponent++; /* it went with the last digit of the text */
            d->truncated |= *p != '0';
        }
    }
    d->digits = w;
}

/* The scan where speed does not matter, settled. */
COLD bool decimal_look(const uint8_t *p, const uint8_t *end, bool json, Decimal *d) {
    if (!(json ? decimal_scan(p, end, true, d) : decimal_scan(p, end, false, d))) return false;
    decimal_settle(d);
    return true;
}

#define UNDECIDED UINT64_MAX

/* Rounds w x 10^q to the nearest float of `fraction` stored bits whose least normal exponent is `least`: its encoding without
 * the sign, where anything from infinity's encoding on means overflow, or UNDECIDED. quick: also undecided are subnormals and
 * all values next to a tie. */
HOT uint64_t decimal_round(uint64_t w, int64_t power, const int fraction, const int least, const bool quick) {
    if (w == 0 || power < POWER_MIN) return 0;
    if (power > 308) return UNDECIDED - 1;
    const int q = (int)power, shift = __builtin_clzll(w);
    const Power ten = powers_of_ten[q - POWER_MIN];
    w <<= shift;
    uint128 product = (uint128)w * ten.high;
    uint64_t high = (uint64_t)(product >> 64);
    /* w x 10^q = (high + [0, 2)) x 2^(log2 + 1 - shift): what the lower word and ten.low may add is less than 2. */
    const int top = 62 + (int)(high >> 63);
    const int exponent = top + log2_of_ten(q) + 1 - shift;
    int drop = top - fraction;
    const bool subnormal = exponent < least;
    if (subnormal) {
        if (quick) return UNDECIDED;
        drop += least - exponent;
        if (drop > 64) return 0;
    }
    const uint64_t tie = 1ull << (drop - 1);
    uint64_t kept = drop < 64 ? high >> drop : 0, rest = high & (2 * tie - 1);
    bool up = rest >= tie;
    if (__builtin_expect(rest - (tie - 1) <= 1, 0)) { /* next to the tie: the lower words matter */
        if (quick) return UNDECIDED;
        const bool exact = q >= 0 && q <= 55;
        const uint128 more = (uint128)w * ten.low;
        const uint64_t low = (uint64_t)more, middle = (uint64_t)product + (uint64_t)(more >> 64);
        rest += middle < (uint64_t)product; /* the carry; it cannot go past the tie */
        if (rest < tie) {
            up = false;
            if (!exact && middle == UINT64_MAX && low + w < low) return UNDECIDED; /* 10^q has more digits, which may carry */
        } else {
            up = rest > tie || middle || low || !exact || (kept & 1);
        }
    }
    kept += up;
    /* The hidden bit in `kept` raises the exponent field by one; so does a carry out of the fraction. */
    return kept + (subnormal ? 0 : (uint64_t)(exponent - least) << fraction);
}

/* The digits once more, as text that strtod takes: at most SLOW_DIGITS of them and a last 1 for any that were not zero. */
static inline void decimal_copy(const Decimal *d, char *copy) {
    size_t n = 0;
    int64_t exponent = d->exponent, significant = 0;
    bool more = false;
    for (const uint8_t *p = d->text; p < d->stop && (*p | 0x20) != 'e'; p++) {
        if (*p == '.' || (!significant && *p == '0')) continue;
        significant++;
        if (n < SLOW_DIGITS) copy[n++] = (char)*p;
        else more |= *p != '0';
    }
    /* d->exponent goes with the first 19 significant digits, or with all of them where there are fewer. */
    exponent += significant < 19 ? 0 : 19 - (int64_t)n;
    if (more) {
        copy[n++] = '1';
        exponent--;
    }
    exponent = exponent < -20000 ? -20000 : exponent > 20000 ? 20000 : exponent;
    copy[n++] = 'e';
    if (exponent < 0) {
        copy[n++] = '-';
        exponent = -exponent;
    }
    for (int64_t unit = 10000; unit; unit /= 10) copy[n++] = (char)('0' + exponent / unit % 10);
    copy[n] = 0;
}

#define FLOAT32_INFINITY (0xffull << 23)
#define FLOAT64_INFINITY (0x7ffull << 52)

static inline uint64_t round32(uint64_t w, int64_t q, const bool quick) { return decimal_round(w, q, 23, -126, quick); }
static inline uint64_t round64(uint64_t w, int64_t q, const bool quick) { return decimal_round(w, q, 52, -1022, quick); }

/* Each takes a settled number and returns false when it is too large for the type. */
COLD bool read_float64(const Decimal *d, double *out) {
    char copy[SLOW_DIGITS + 16];
    uint64_t bits = round64(d->digits, d->exponent, false);
    if (d->truncated && bits != round64(d->digits + 1, d->exponent, false)) bits = UNDECIDED;
    if (bits == UNDECIDED) {
        decimal_copy(d, copy);
        const double value = strtod_l(copy, NULL, numbers_locale);
        memcpy(&bits, &value, 8);
    }
    if (bits >= FLOAT64_INFINITY) return false;
    bits |= (uint64_t)d->negative << 63;
    memcpy(out, &bits, 8);
    return true;
}

COLD bool read_float32(const Decimal *d, float *out) {
    char copy[SLOW_DIGITS + 16];
    uint64_t bits = round32(d->digits, d->exponent, false);
    if (d->truncated && bits != round32(d->digits + 1, d->exponent, false)) bits = UNDECIDED;
    uint32_t word = (uint32_t)bits;
    if (bits == UNDECIDED) {
        decimal_copy(d, copy);
        const float value = strtof_l(copy, NULL, numbers_locale);
        memcpy(&word, &value, 4);
        bits = word;
    }
    if (bits >= FLOAT32_INFINITY) return false;
    word |= (uint32_t)d->negative << 31;
    memcpy(out, &word, 4);
    return true;
}

enum { INTEGER_OK = 0, INTEGER_RANGE = 1, INTEGER_FRACTION = 2 };

/* Exact: 1.50e1 is 15, 1.5 is INTEGER_FRACTION, 9223372036854775808 is INTEGER_RANGE. */
static inline int read_int64(const Decimal *d, int64_t *out) {
    uint64_t w = d->digits;
    int64_t q = d->exponent;
    if (d->truncated) return q > 0 ? INTEGER_RANGE : INTEGER_FRACTION; /* at least 10^19, or cut behind the point */
    for (; w && q < 0; q++, w /= 10)
        if (w % 10) return INTEGER_FRACTION;
    for (; w && q > 0; q--) {
        if (w > UINT64_MAX / 10) return INTEGER_RANGE;
        w *= 10;
    }
    if (w > (uint64_t)INT64_MAX + d->negative) return INTEGER_RANGE;
    *out = d->negative ? (int64_t)(0 - w) : (int64_t)w;
    return INTEGER_OK;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------- */

/* Eight digits of v < 10^8, each byte 0..9, the first one lowest. */
static inline uint64_t spread_digits(uint32_t v) {
    uint64_t u = v / 10000 | (uint64_t)(v % 10000) << 32;
    uint64_t tens = (u * 5243 >> 19) & 0x0000007f0000007full;
    u = tens | (u - 100 * tens) << 16;
    tens = (u * 103 >> 10) & 0x000f000f000f000full;
    return tens | (u - 10 * tens) << 8;
}

/* How many of eight digits, not all zero, are zeros at the end. */
static inline unsigned zero_bytes(uint64_t digits) { return (unsigned)__builtin_clzll(digits) >> 3; }

static inline unsigned digit_count(uint64_t v) {
    unsigned guess = (unsigned)((64 - __builtin_clzll(v | 1)) * 1233) >> 12; /* log10 2 = 1233/4096, nearly */
    return guess + ((v | 1) >= small_tens[guess]); /* zero has a digit too */
}

/* first.upper,lower x 10^e, of which n digits are significant; `upper` and `lower` hold eight characters each. */
COLD char *put_decimal_far(char *out, char first, uint64_t upper, uint64_t lower, unsigned n, int e) {
    out[0] = first;
    out[1] = '.';
    memcpy(out + 2, &upper, 8);
    memcpy(out + 10, &lower, 8);
    if (e > 0 && e < 16) { /* the point moves e places to the right */
        memset(out + 18, '0', 16);
        memmove(out + 1, out + 2, (size_t)e);
        out[e + 1] = '.';
        const unsigned shown = (unsigned)e + 2;
        return out + 1 + (n > shown ? n : shown);
    }
    out += n > 1 ? n + 1 : 1;
    *out++ = 'e';
    if (e < 0) *out++ = '-';
    const unsigned size = (unsigned)(e < 0 ? -e : e);
    if (size >= 100) *out++ = (char)('0' + size / 100);
    if (size >= 10) *out++ = (char)('0' + size / 10 % 10);
    *out++ = (char)('0' + size % 10);
    return out;
}

/* The same for 0.00ddd or d.ddd, without a branch: small numbers of mixed size are the usual case, and a misprediction costs
 * more than all this. -5 <= e <= 0. */
HOT char *put_decimal_near(char *out, char first, uint64_t upper, uint64_t lower, const bool wide, unsigned n, int e) {
    const unsigned whole = e == 0;
    memcpy(out, "0.000000", 8);
    out += (unsigned)(1 - e) & (whole - 1);
    out[0] = first;
    out[1] = '.';
    memcpy(out + 1 + whole, &upper, 8);
    if (wide) memcpy(out + 9 + whole, &lower, 8);
    return out + n + whole + (whole & (n == 1));
}

/* digits x 10^exponent; the digits may end in zeros. */
typedef struct {
    uint64_t digits;
    int exponent;
} Shortest;

/* a if `which`, else b; compilers make branches of ?: here. */
static inline uint64_t select64(bool which, uint64_t a, uint64_t b) { return b ^ ((a ^ b) & (0 - (uint64_t)which)); }

/* Schubfach's choice among the integers next to the scaled value. low, mid, high: four times the scaled bounds and value,
 * rounded to odd; the interval holds its bounds unless `odd`. It is at least one wide, so that the integer nearest to the
 * value lies inside, except perhaps where it is `uneven`. All is computed and then selected, since none of it can be
 * predicted. */
HOT uint64_t shortest_pick(uint64_t low, uint64_t mid, uint64_t high, uint64_t odd, const bool uneven) {
    low += odd;
    high -= odd;
    const uint64_t s = mid / 4, ten = s / 10 * 10;
    const bool down = low <= 4 * ten, up = 4 * ten + 40 <= high; /* at most one of the two multiples of ten lies inside */
    uint64_t one = s + (mid % 4 + (s & 1) > 2); /* a tie goes to the even one */
    if (uneven) {
        const bool floor_in = low <= 4 * s, ceiling_in = 4 * s + 4 <= high;
        if (floor_in != ceiling_in) one = s + ceiling_in;
    }
    return select64(down ^ up, ten + 10 * up, one);
}

/* The integer part of a scaled value, of which 64 + 32 bits are fraction, rounded to odd: its last bit also stands for the
 * rest. What lies below the fraction's upper half is error of the power of ten, and so is a one at its end. */
static inline uint64_t round_odd32(uint128 scaled) { return (uint64_t)(scaled >> 64) | ((uint64_t)scaled >> 32 > 1); }

HOT Shortest shortest32_scaled(uint32_t c, int q, int k, const bool uneven) {
    const int h = q + log2_of_ten(-k) + 1;
    const uint64_t g = powers_of_ten32[-k - POWER32_MIN];
    const uint128 mid = (uint128)g * ((4 * c) << h), half = (uint128)g << (h + 1); /* half the distance to the neighbour */
    const uint64_t low = round_odd32(mid - (uneven ? half / 2 : half)), high = round_odd32(mid + half);
    return (Shortest){shortest_pick(low, round_odd32(mid), high, c & 1, uneven), k};
}

/* fraction and field: the stored bits of a positive number. */
static inline Shortest shortest32(uint32_t fraction, uint32_t field) {
    const int q = (int)field + !field - 150;
    const uint32_t c = fraction | (uint32_t)(field != 0) << 23;
    if (__builtin_expect(fraction == 0 && field > 1, 0)) /* a power of two: its lower neighbour is only half as far */
        return shortest32_scaled(c, q, log10_of_three_quarters(q), true);
    return shortest32_scaled(c, q, log10_of_two(q), false);
}

/* g x c in the same way, with 128 bits of fraction. Three products are faster here than one and two 192-bit sums. */
static inline uint64_t scale_odd64(Power g, uint64_t c) {
    const uint128 low = (uint128)g.low * c, p = (uint128)g.high * c + (uint64_t)(low >> 64);
    return (uint64_t)(p >> 64) | ((uint64_t)p > 1);
}

HOT Shortest shortest64_scaled(uint64_t c, int q, int k, const bool uneven) {
    const int h = q + log2_of_ten(-k) + 1;
    Power g = powers_of_ten[-k - POWER_MIN];
    const bool inexact = -k < 0 || -k > 55;
    g.low += inexact;
    g.high += inexact & (g.low == 0);
    const uint64_t low = scale_odd64(g, (4 * c - 2 + uneven) << h), high = scale_odd64(g, (4 * c + 2) << h);
    return (Shortest){shortest_pick(low, scale_odd64(g, (4 * c) << h), high, c & 1, uneven), k};
}

static inline Shortest shortest64(uint64_t fraction, uint32_t field) {
    const int q = (int)field + !field - 1075;
    const uint64_t c = fraction | (uint64_t)(field != 0) << 52;
    if (__builtin_expect(fraction == 0 && field > 1, 0)) return shortest64_scaled(c, q, log10_of_three_quarters(q), true);
    return shortest64_scaled(c, q, log10_of_two(q), false);
}

/* The shortest text that reads back as `value`, which must be finite. */
HOT char *put_float32(char *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    *out = '-';
    out += bits >> 31;
    bits &= 0x7fffffffu;
    if (bits == 0) {
        memcpy(out, "0.0", 3);
        return out + 3;
    }
    Shortest s = shortest32(bits & 0x7fffffu, bits >> 23);
    /* Nine digits, so that each has its place: seven to nine as they come, fewer only from subnormals. */
    int e = s.exponent + 8;
    while (__builtin_expect(s.digits < 1000000, 0)) s.digits *= 10, e--;
    const unsigned missing = (s.digits < 100000000) + (s.digits < 10000000);
    const uint32_t nine = (uint32_t)(s.digits * small_tens[missing]);
    e -= (int)missing;
    const uint32_t first = nine / 100000000u;
    const uint64_t rest = spread_digits(nine - first * 100000000u);
    const unsigned n = rest ? 9 - zero_bytes(rest) : 1;
    if (__builtin_expect(e > 0 || e < -5, 0))
        return put_decimal_far(out, (char)('0' + first), rest | ASCII_ZEROS, ASCII_ZEROS, n, e);
    return put_decimal_near(out, (char)('0' + first), rest | ASCII_ZEROS, 0, false, n, e);
}

HOT char *put_float64(char *out, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    *out = '-';
    out += bits >> 63;
    bits &= ~(1ull << 63);
    if (bits == 0) {
        memcpy(out, "0.0", 3);
        return out + 3;
    }
    Shortest s = shortest64(bits & ((1ull << 52) - 1), (uint32_t)(bits >> 52));
    int e = s.exponent + 16;
    while (__builtin_expect(s.digits < 1000000000000000, 0)) s.digits *= 10, e--; /* subnormals */
    const unsigned missing = s.digits < 10000000000000000;
    const uint64_t seventeen = s.digits * (missing ? 10 : 1);
    e -= (int)missing;
    const uint64_t first = seventeen / 10000000000000000ull, sixteen = seventeen - first * 10000000000000000ull;
    const uint32_t eight = (uint32_t)(sixteen / 100000000u);
    const uint64_t upper = spread_digits(eight), lower = spread_digits((uint32_t)(sixteen - eight * 100000000ull));
    const unsigned n = lower ? 17 - zero_bytes(lower) : upper ? 9 - zero_bytes(upper) : 1;
    if (__builtin_expect(e > 0 || e < -5, 0))
        return put_decimal_far(out, (char)('0' + first), upper | ASCII_ZEROS, lower | ASCII_ZEROS, n, e);
    return put_decimal_near(out, (char)('0' + first), upper | ASCII_ZEROS, lower | ASCII_ZEROS, true, n, e);
}

static inline char *put_uint64(char *out, uint64_t value) {
    const unsigned count = digit_count(value);
    for (unsigned i = count; i-- > 0; value /= 10) out[i] = (char)('0' + value % 10);
    return out + count;
}

static inline char *put_int64(char *out, int64_t value) {
    *out = '-';
    return value < 0 ? put_uint64(out + 1, 0 - (uint64_t)value) : put_uint64(out, (uint64_t)value);
}

#endif
