# fault.h for Cython: faults on purpose, in debug builds only.
cdef extern from "fault.h" nogil:
    int FAULTS_COMPILED_IN
    int fault_strikes(const char *point)
    void crash_point(const char *point)
    void fault_memcpy(const char *point, void *to, const void *source, size_t length)
