"""What lies in a segment, for tests that write into it themselves: offsets and structs of ext/layout.h."""

import struct
from dataclasses import dataclass

DONE, NEED, RELEASE = 0, 1, 2
RUN, GRANT = 0, 1
HELD = 1
MEDIA_JSON = 1

RING_ENTRIES = 1024
RINGS_OFFSET = 4096
PAIR_BYTES = 4096 + 2 * 64 * RING_ENTRIES
MARKS_OFFSET = RINGS_OFFSET + 1024 * PAIR_BYTES
SUBMIT_TAIL, SUBMIT_HEAD, COMPLETE_TAIL, COMPLETE_HEAD = 0, 128, 256, 384
SUBMISSIONS, COMPLETIONS = 4096, 4096 + 64 * RING_ENTRIES
SUBMISSION = struct.Struct("<QQQIIIIIIIHBBBBB5x")
COMPLETION = struct.Struct("<QQQIIIIIIHBBBxHII")
assert SUBMISSION.size == COMPLETION.size == 64


@dataclass(frozen=True)
class Submission:
    request_id: int
    arrival_ns: int
    deadline_ns: int
    slot: int
    generation: int
    offset64: int
    capacity64: int
    body_length: int
    head_length: int
    model: int
    attempt: int
    op: int
    kind: int
    accept: int
    codings: int
    flags: int

    @property
    def start(self) -> int:
        return self.offset64 * 64

    @property
    def capacity(self) -> int:
        return self.capacity64 * 64

    @property
    def room(self) -> int:
        """Where an answer may begin, from the start of the slot."""
        return (self.body_length + 63) // 64 * 64
