# response.h for Cython: response heads, request ids, dates.
from libc.stdint cimport uint64_t

cdef extern from "response.h" nogil:
    enum:
        RESPONSE_HEAD_MAX
        RESPONSE_COMMON_MAX
        REQUEST_ID_LENGTH
        CONNECTION_DEFAULT
        CONNECTION_CLOSE
        CONNECTION_KEEP_ALIVE

    ctypedef struct ResponseDate:
        pass

    const char *media_text(unsigned int kind)
    void request_id_text(uint64_t prefix, uint64_t number, char *out)
    const char *response_date(ResponseDate *cache)
    size_t response_head(char *out, unsigned int status, unsigned int kind, uint64_t body_length, const char *id,
                         const char *date, int connection, const char *fields, size_t fields_length,
                         const char *common, size_t common_length)
    size_t response_phrase_line(const char *fields, size_t fields_length)
    bint response_has_field(const char *fields, size_t fields_length, const char *name, size_t name_length)
