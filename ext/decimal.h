/* Decimal text to binary numbers, correctly rounded.
 *
 * The text becomes w x 10^q with at most 19 digits in w. Multiplying w by the upper 128 bits of 10^q gives bounds on the value
 * that lie closer together than 2^-64 of it; where both round to one number, that is the answer (as D. Lemire, "Number parsing
 * at a gigabyte per second", 2021, does it). The rare rest, next to a tie, goes to strtod on a bounded copy of the digits.
 * float32 is rounded once, from the decimal: never by way of float64.
 *
 * Invariant: no byte outside [p, end) is touched, by decimal_scan_usual none outside [p - USUAL_BEFORE, p + USUAL_BEHIND).
 */
#ifndef HEADRACE_DECIMAL_H
#define HEADRACE_DECIMAL_H

#include "numbers.h"

#define SLOW_DIGITS 800 /* a tie between two float64 ends within 768 digits; past that only "more" or "no more" matters */

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
    uint64_t halves = (uint64_t)_mm_cvtsi128_si64(x);
    /* Into a general register: GCC 12 went by way of the stack, and a number took half as long again. */
    __asm__("" : "+r"(halves));
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

#endif
