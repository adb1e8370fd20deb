# http.h for Cython: inlined into every extension that cimports it.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "http.h" nogil:
    ctypedef struct HttpLimits:
        uint32_t max_line
        uint32_t max_head
        uint32_t max_fields
        uint32_t max_blank_lines
        uint32_t max_chunk_line
        uint32_t max_chunk_overhead
        uint32_t max_trailer
        uint32_t max_trailer_fields

    void http_limits_default(HttpLimits *limits)

    int HTTP_OK, HTTP_INCOMPLETE, HTTP_CHUNK_DATA, HTTP_CHUNK_END

    int http_is_error(int code)
    int http_error_status(int code)
    const char *http_error_text(int code)
    const char *http_error_word(int code)

    int HTTP_OTHER, HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_PUT, HTTP_DELETE, HTTP_OPTIONS, HTTP_PATCH, HTTP_TRACE, HTTP_CONNECT
    int HTTP_KEEP_ALIVE, HTTP_CHUNKED, HTTP_HAS_LENGTH, HTTP_EXPECT_CONTINUE, HTTP_EXPECT_OTHER

    const char *http_method_name(unsigned method)

    ctypedef struct HttpSpan:
        uint32_t offset
        uint32_t length

    ctypedef struct HttpHead:
        uint64_t timeout_ms
        uint64_t content_length
        HttpSpan path
        HttpSpan query
        HttpSpan fields
        HttpSpan content_type
        HttpSpan accept
        uint32_t head_length
        uint32_t skipped
        uint32_t field_count
        uint16_t flags
        uint8_t method
        uint8_t minor
        uint8_t content_kind
        uint8_t accept_kind
        uint8_t codings

    ctypedef struct HttpScan:
        uint32_t at

    int http_parse_head(const uint8_t *buf, size_t len, const HttpLimits *limits, HttpScan *scan, HttpHead *head)
    int http_next_field(const uint8_t *block, size_t len, size_t *at, HttpSpan *name, HttpSpan *value)

    ctypedef struct HttpChunks:
        uint64_t received
        uint64_t left

    void http_chunks_start(HttpChunks *c)
    uint64_t http_chunks_announced(const HttpChunks *c)
    int http_chunks_next(HttpChunks *c, const HttpLimits *limits, const uint8_t *buf, size_t len, size_t *used,
                         const uint8_t **data, size_t *data_len)

    int HTTP_SEGMENTS

    ctypedef struct HttpPath:
        uint32_t count
        HttpSpan segments[4]

    int http_split_path(const uint8_t *path, size_t len, HttpPath *out, uint8_t *scratch, size_t room)
    int http_field_ok(const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len)
    int http_field_is_owned(const uint8_t *name, size_t n)
