# numbers.h, shortest.h, rows.h, json_rows.h, csv_rows.h, text.h and npy.h for Cython.
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef extern from "numbers.h" nogil:
    enum:
        POWER_MIN
        POWER_MAX

    void numbers_set_power(int k, uint64_t high, uint64_t low)
    bint numbers_start()

cdef extern from "shortest.h" nogil:
    enum:
        NUMBER_ROOM

cdef extern from "rows.h" nogil:
    enum:
        ROWS_LEVELS
        ROWS_OK
        ROWS_UNDECODABLE
        ROWS_NOT_NUMBERS
        ROWS_FULL
        ROWS_NO_MEMORY

    ctypedef struct Rows:
        uint8_t *base
        size_t used
        size_t capacity
        size_t limit
        bint shared

    ctypedef struct Decoder:
        Rows *rows
        uint8_t *out
        int status
        unsigned int levels
        uint64_t shape[ROWS_LEVELS]
        char text[1400]

    unsigned int kind_bytes(int kind)
    void decoder_init(Decoder *d, Rows *rows, int kind, const uint8_t *body, size_t length)
    int rows_grow(Rows *rows, size_t filled, size_t need, size_t wish)

cdef extern from "json_rows.h" nogil:
    int json_decode(Decoder *d)

cdef extern from "csv_rows.h" nogil:
    int csv_decode(Decoder *d, bint header)

cdef extern from "text.h" nogil:
    enum:
        TEXT_FLOAT16
        TEXT_FLOAT32
        TEXT_FLOAT64
        TEXT_BOOL
        TEXT_INT8
        TEXT_INT16
        TEXT_INT32
        TEXT_INT64
        TEXT_UINT8
        TEXT_UINT16
        TEXT_UINT32
        TEXT_UINT64

    ctypedef struct Text:
        char *out
        char *end
        bint full

    unsigned int text_item_bytes(int kind)
    unsigned int text_item_max(int kind)
    void text_put(Text *t, const char *data, size_t n)
    const uint8_t *text_json(Text *t, const uint8_t *item, const int64_t *shape, unsigned int levels, int kind)
    void text_csv(Text *t, const uint8_t *item, uint64_t rows, uint64_t columns, int kind)

cdef extern from "npy.h" nogil:
    enum:
        NPY_LEVELS

    ctypedef struct NpyHead:
        const char *descr
        size_t descr_length
        size_t data
        uint64_t shape[NPY_LEVELS]
        uint64_t items
        unsigned int levels
        bint fortran
        char text[200]

    bint npy_read(NpyHead *head, const uint8_t *body, size_t length)
