"""The arena's books, and whose turn it is to get a slot, for tests and tools. (The frontend uses arena.h and turns.h itself.)"""

from arena cimport (
    ARENA_NONE,
    Arena as Books,
    ArenaClass,
    ArenaRange,
    arena_class_of,
    arena_init,
    arena_lease,
    arena_next_period,
    arena_offset,
    arena_release,
    arena_trim_begin,
    arena_trim_end,
)
from turns cimport LINE_LARGE, LINE_SMALL, LINE_WHOLE, LINES, Turns, turns_init, turns_is_due

WHOLE, SMALL, LARGE = LINE_WHOLE, LINE_SMALL, LINE_LARGE


def is_due(heads, int line, unsigned long long place, unsigned long long needed, *, unsigned long long arena,
           unsigned long long small=0, unsigned long long incomplete_small=0, unsigned long long incomplete_large=0):
    """Whether a request with this place may look for a slot of `needed` bytes before all that wait (turns.h).

    heads: by line (WHOLE, SMALL, LARGE), (place, needed bytes) of the first that waits in it. All others: bytes; small:
    of slots that small requests hold.
    """
    cdef Turns turns
    turns_init(&turns, arena)
    turns.small_bytes = small
    turns.incomplete_bytes[LINE_SMALL] = incomplete_small
    turns.incomplete_bytes[LINE_LARGE] = incomplete_large
    for index, (first, bytes_) in heads.items():
        if not 0 <= index < LINES:
            raise ValueError(f"there is no line {index}")
        turns.heads[<int>index].place, turns.heads[<int>index].needed_bytes = first, bytes_
    return bool(turns_is_due(&turns, line, place, needed))


cdef class Arena:
    """Books of an arena that may commit `limit_bytes`, with slots of up to `largest` bytes.

    No memory stands behind it: slots are numbers, offsets are what they would be in a segment.
    """

    cdef Books books

    def __cinit__(self, unsigned long long limit_bytes, unsigned long long largest):
        arena_init(&self.books, limit_bytes, largest)

    def lease(self, unsigned long long size):
        """Number of the lowest free slot that holds `size` bytes; None when the arena has none to give."""
        cdef unsigned int slot = arena_lease(&self.books, size)
        return None if slot == ARENA_NONE else slot

    def release(self, unsigned int slot):
        """Gives a slot back. ValueError when it is not leased."""
        if not arena_release(&self.books, slot):
            raise ValueError(f"slot {slot} is not leased")

    def place(self, unsigned int slot):
        """(offset from the start of the arena, capacity) of a slot, in bytes."""
        if slot >= self.books.slot_count:
            raise ValueError(f"slot {slot} is not below {self.books.slot_count}")
        return arena_offset(&self.books, slot), arena_class_of(&self.books, slot).stride

    def trim(self, unsigned int index, keep=None):
        """Begins to trim class `index`, down to `keep` warm slots or by what the last periods needed: (offset, length)."""
        cdef ArenaClass *k = self._class(index)
        cdef unsigned int warm = arena_next_period(k) if keep is None else keep
        cdef ArenaRange found = arena_trim_begin(&self.books, k, warm)
        return found.offset, found.length

    def trimmed(self, unsigned int index):
        """The pages of class `index` are gone: its trimming slots can be leased again."""
        arena_trim_end(self._class(index))

    cdef ArenaClass *_class(self, unsigned int index) except NULL:
        if index >= self.books.class_count:
            raise ValueError(f"class {index} is not below {self.books.class_count}")
        return &self.books.classes[index]

    @property
    def bytes(self):
        return self.books.bytes

    @property
    def committed_bytes(self):
        return self.books.committed_bytes

    @property
    def exhausted(self):
        return self.books.exhausted

    @property
    def classes(self):
        """One dict a class: stride, offset, first, count, leased, warm, trimming, free."""
        found = []
        cdef ArenaClass *k
        for index in range(self.books.class_count):
            k = &self.books.classes[index]
            free = 0
            for word in range(64):
                free += int(k.free_words[word]).bit_count()
            found.append({
                "offset": k.offset, "stride": k.stride, "first": k.first, "count": k.count,
                "leased": k.leased, "warm": k.warm, "trimming": k.trimming, "free": free,
            })
        return found
