/* Binary numbers to decimal text: the shortest digits that read back as the same number, and of these the closest.
 *
 * After R. Giulietti, "The Schubfach way to render doubles" (2020): the bounds of the rounding interval are scaled by 10^-k so
 * that the interval holds at least one integer and at most one multiple of ten; three products, each rounded to odd, decide.
 *
 * Invariant: less than NUMBER_ROOM bytes from `out` on are touched.
 */
#ifndef HEADRACE_SHORTEST_H
#define HEADRACE_SHORTEST_H

#include "numbers.h"

#define NUMBER_ROOM 64u /* bytes that a put_* function may touch */

static inline unsigned digit_count(uint64_t v) {
    unsigned guess = (unsigned)((64 - __builtin_clzll(v | 1)) * 1233) >> 12; /* log10 2 = 1233/4096, nearly */
    return guess + ((v | 1) >= small_tens[guess]); /* zero has a digit too */
}

/* Sixteen characters: in one register where there is one that wide. */
#if defined(__x86_64__)
typedef __m128i Sixteen;

/* The digits of upper and lower, each below 10^8, as text; *last: how many come before the zeros at the end. */
HOT Sixteen sixteen_digits(uint32_t upper, uint32_t lower, unsigned *last) {
    /* Both at once: split into fours, twos and ones, a division being a product with the reciprocal. */
    const __m128i v = _mm_set_epi32(0, (int)lower, 0, (int)upper);
    const __m128i high = _mm_srli_epi64(_mm_mul_epu32(v, _mm_set1_epi32((int)0xd1b71759)), 45); /* v / 10000 */
    const __m128i low = _mm_sub_epi32(v, _mm_mul_epu32(high, _mm_set1_epi32(10000)));
    const __m128i fours = _mm_or_si128(high, _mm_slli_epi64(low, 32));
    const __m128i tops = _mm_srli_epi16(_mm_mulhi_epu16(fours, _mm_set1_epi16(5243)), 3); /* / 100, below 10^4 */
    const __m128i ends = _mm_sub_epi16(fours, _mm_mullo_epi16(tops, _mm_set1_epi16(100)));
    const __m128i twos = _mm_or_si128(tops, _mm_slli_epi32(ends, 16));
    const __m128i tens = _mm_mulhi_epu16(twos, _mm_set1_epi16(6554)); /* / 10, below 100 */
    const __m128i ones = _mm_sub_epi16(twos, _mm_mullo_epi16(tens, _mm_set1_epi16(10)));
    const __m128i digits = _mm_or_si128(tens, _mm_slli_epi16(ones, 8));
    const unsigned zeros = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(digits, _mm_setzero_si128()));
    *last = 31 - (unsigned)__builtin_clz((zeros ^ 0xffff) << 1 | 1);
    return _mm_or_si128(digits, _mm_set1_epi8('0'));
}

static inline void sixteen_put(char *out, Sixteen text) { _mm_storeu_si128((__m128i *)out, text); }
#else
typedef struct {
    uint64_t upper, lower;
} Sixteen;

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

static inline Sixteen sixteen_digits(uint32_t upper, uint32_t lower, unsigned *last) {
    const Sixteen digits = {spread_digits(upper), spread_digits(lower)};
    *last = digits.lower ? 16 - zero_bytes(digits.lower) : digits.upper ? 8 - zero_bytes(digits.upper) : 0;
    return (Sixteen){digits.upper | ASCII_ZEROS, digits.lower | ASCII_ZEROS};
}

static inline void sixteen_put(char *out, Sixteen text) { memcpy(out, &text, 16); }
#endif

/* first.text x 10^e, of which n digits are significant. */
COLD char *put_decimal_far(char *out, char first, Sixteen text, unsigned n, int e) {
    out[0] = first;
    out[1] = '.';
    sixteen_put(out + 2, text);
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
HOT char *put_decimal_near(char *out, char first, Sixteen text, unsigned n, int e) {
    const unsigned whole = e == 0;
    memcpy(out, "0.000000", 8);
    out += (unsigned)(1 - e) & (whole - 1);
    out[0] = first;
    out[1] = '.';
    sixteen_put(out + 1 + whole, text);
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
    unsigned n;
    const Sixteen text = sixteen_digits(nine - first * 100000000u, 0, &n);
    if (__builtin_expect(e > 0 || e < -5, 0)) return put_decimal_far(out, (char)('0' + first), text, n + 1, e);
    return put_decimal_near(out, (char)('0' + first), text, n + 1, e);
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
    unsigned n;
    const Sixteen text = sixteen_digits(eight, (uint32_t)(sixteen - eight * 100000000ull), &n);
    if (__builtin_expect(e > 0 || e < -5, 0)) return put_decimal_far(out, (char)('0' + first), text, n + 1, e);
    return put_decimal_near(out, (char)('0' + first), text, n + 1, e);
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
