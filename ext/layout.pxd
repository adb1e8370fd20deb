# layout.h for Cython: the structs and constants that two processes see.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "layout.h" nogil:
    enum:
        LAYOUT_MAGIC
        LAYOUT_VERSION
        MAX_WORKERS
        MAX_FRONTENDS
        RING_ENTRIES
        SLOTS_MAX
        SLOT_ALIGN
        WORKER_BOOTING
        WORKER_IDLE
        WORKER_RUNNING
        WORKER_LOADING
        SUBMIT_RUN
        CODED_BODY
        CODED_ANSWER
        SUBMIT_GRANT
        SUBMIT_ALONE
        COMPLETE_DONE
        COMPLETE_NEED
        COMPLETE_RELEASE
        COMPLETE_HELD
        MEDIA_NONE
        MEDIA_JSON
        MEDIA_NPY
        MEDIA_CSV
        MEDIA_RAW
        MEDIA_NPZ
        MEDIA_TEXT
        MEDIA_FORM
        MEDIA_MULTIPART
        MEDIA_ANY
        MEDIA_OTHER
    const uint64_t BOARD_BYTES
    const uint64_t RINGS_OFFSET
    const uint64_t MARKS_OFFSET
    const uint64_t ARENA_OFFSET

    uint64_t align64(uint64_t n)

    ctypedef struct Doorbell:
        uint32_t parked

    ctypedef struct BoardHeader:
        uint64_t magic
        uint32_t version
        uint32_t workers

    ctypedef struct WorkerPage:
        Doorbell bell
        uint64_t control_sent
        uint64_t state
        uint64_t state_since_ns
        uint64_t state_model
        uint64_t turns
        uint64_t requests
        uint64_t batches
        uint64_t spins
        uint64_t parks
        uint64_t bells
        uint64_t copied_bytes
        uint64_t held_slots
        uint64_t dropped
        uint64_t invalid_submissions
        uint64_t busy_ns

    ctypedef struct SegmentHeader:
        uint64_t magic
        uint32_t version
        uint32_t frontend
        uint64_t segment_bytes
        uint64_t id_prefix
        Doorbell bell

    ctypedef struct Submission:
        uint64_t request_id
        uint64_t arrival_ns
        uint64_t deadline_ns
        uint32_t slot
        uint32_t generation
        uint32_t offset64
        uint32_t capacity64
        uint32_t body_length
        uint32_t head_length
        uint32_t model
        uint16_t attempt
        uint8_t op
        uint8_t kind
        uint8_t accept
        uint8_t codings
        uint8_t flags

    ctypedef struct Completion:
        uint64_t request_id
        uint64_t started_ns
        uint64_t finished_ns
        uint32_t slot
        uint32_t generation
        uint32_t offset
        uint32_t fields_length
        uint32_t body_offset
        uint32_t body_length
        uint16_t status
        uint8_t op
        uint8_t flags
        uint8_t kind
        uint16_t batch_rows
        uint32_t waited_us
        uint32_t copied_bytes

    ctypedef struct SlotMark:
        uint64_t cancelled
        uint64_t begun

    ctypedef struct RingHeader:
        uint64_t tail
        uint64_t head

    ctypedef struct RingPair:
        RingHeader submit
        RingHeader complete
        Submission *submissions
        Completion *completions
