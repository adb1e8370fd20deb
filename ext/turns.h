/* Whose turn it is to get a slot where slots are scarce: a rule over numbers, which knows neither slots nor connections.
 *
 * Requests that find none wait in three lines and keep their places until they have one. A place is a number that grows with time.
 *
 *   WHOLE   small (a body of one read at most), and all of it is there
 *   SMALL   small, its body still arrives
 *   LARGE   any other; its body always still arrives
 *
 * Rules
 * 1. In a line nobody overtakes.
 * 2. Bodies that still arrive have a share of the arena: large ones half, small ones what these leave of three quarters, of which a
 *    quarter is theirs alone. So slow uploads keep out neither small requests nor those that are whole.
 * 3. Between lines the older goes first, and holds up the younger, unless it waits for its share alone: others do not need that.
 * 4. Small requests may overtake a large one while slots of small requests are within the reserve, an eighth of the arena. So the large
 *    one has to outlive only those that were there before it, however many small ones follow. Payloads are at most half of an arena;
 *    slots of one size lie side by side and only whole ends of a row can become something else, so the eighth may keep twice as much.
 */
#ifndef HEADRACE_TURNS_H
#define HEADRACE_TURNS_H

#include <stdint.h>

enum { LINE_WHOLE, LINE_SMALL, LINE_LARGE, LINES };

#define TURN_NOBODY UINT64_MAX

typedef struct {
    uint64_t place; /* of the first in line; TURN_NOBODY: the line is empty */
    uint64_t needed_bytes;
} TurnHead;

typedef struct {
    uint64_t arena_bytes;
    uint64_t small_bytes;             /* slots of small requests, their answers' too */
    uint64_t incomplete_bytes[LINES]; /* slots whose bodies still arrive; of WHOLE there are none */
    TurnHead heads[LINES];
} Turns;

static inline void turns_init(Turns *turns, uint64_t arena_bytes) {
    *turns = (Turns){.arena_bytes = arena_bytes};
    for (int line = 0; line < LINES; line++) turns->heads[line].place = TURN_NOBODY;
}

/* Rule 2. A single large one may be larger than its share. */
static inline int turns_has_share(const Turns *turns, int line, uint64_t needed_bytes) {
    uint64_t quarter = turns->arena_bytes / 4;
    uint64_t small = turns->incomplete_bytes[LINE_SMALL], large = turns->incomplete_bytes[LINE_LARGE];
    if (line == LINE_WHOLE) return 1;
    if (line == LINE_SMALL) return !(small + large) || small + large + needed_bytes <= 3 * quarter;
    return (!large || large + needed_bytes <= 2 * quarter) && (small <= quarter || small + large + needed_bytes <= 3 * quarter);
}

/* Whether a request with this place may look for a slot before all that wait. */
static inline int turns_is_due(const Turns *turns, int line, uint64_t place, uint64_t needed_bytes) {
    if (turns->heads[line].place < place || !turns_has_share(turns, line, needed_bytes)) return 0;
    int is_within_reserve = turns->small_bytes + needed_bytes <= turns->arena_bytes / 8;
    for (int other = 0; other < LINES; other++) {
        const TurnHead *head = &turns->heads[other];
        if (head->place >= place) continue;
        if (other != LINE_LARGE) {
            if (turns_is_due(turns, other, head->place, head->needed_bytes)) return 0;
        } else if (!is_within_reserve && (line == LINE_SMALL || turns_has_share(turns, LINE_LARGE, head->needed_bytes))) {
            return 0; /* a SMALL one also where the large one lacks its share, for it would take of that */
        }
    }
    return 1;
}

#endif
