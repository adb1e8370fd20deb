# The system calls that the extensions make themselves.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "syscalls.h" nogil:
    uint64_t monotonic_ns()
    int futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns)
    int futex_wake(uint32_t *word)
    int punch_hole(int fd, uint64_t offset, uint64_t length)
    int memfd_sealed(const char *name, uint64_t length)
    void *map_shared(int fd, uint64_t length, int writable)
    void unmap_shared(void *at, uint64_t length)
    int64_t file_bytes(int fd)
    ssize_t send_now(int fd, const void *data, size_t length)
    int unacknowledged(int fd)
    ssize_t send_two(int fd, const void *a, size_t a_length, const void *b, size_t b_length)
    int eventfd_bump(int fd)
    int eventfd_clear(int fd)
    void yield_cpu()
