/* The system calls that the extensions make themselves, one line each. All return -1 and set errno on failure. */
#ifndef HEADRACE_SYSCALLS_H
#define HEADRACE_SYSCALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Shared futexes (no FUTEX_PRIVATE_FLAG): the word lies in memory that other processes map. */
static inline int futex_wait(uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    struct timespec timeout = {(time_t)(timeout_ns / 1000000000ull), (long)(timeout_ns % 1000000000ull)};
    return (int)syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0);
}

static inline int futex_wake(uint32_t *word) { return (int)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0); }

static inline int punch_hole(int fd, uint64_t offset, uint64_t length) {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
}

/* Anonymous memory with a descriptor and no name, whose size nobody can change any more: a truncated mapping is a SIGBUS. */
static inline int memfd_sealed(const char *name, uint64_t length) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -1;
    if (ftruncate(fd, (off_t)length) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* NULL on failure. */
static inline void *map_shared(int fd, uint64_t length, int writable) {
    void *at = mmap(NULL, length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

static inline void unmap_shared(void *at, uint64_t length) { munmap(at, length); }

static inline int64_t file_bytes(int fd) {
    struct stat found;
    return fstat(fd, &found) < 0 ? -1 : (int64_t)found.st_size;
}

static inline ssize_t send_now(int fd, const void *data, size_t length) {
    return send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static inline ssize_t send_two(int fd, const void *a, size_t a_length, const void *b, size_t b_length) {
    struct iovec parts[2] = {{(void *)a, a_length}, {(void *)b, b_length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Bytes that a socket has and its peer has not acknowledged (tcp(7)). */
static inline int unacknowledged(int fd) {
    int count = 0;
    return ioctl(fd, SIOCOUTQ, &count) < 0 ? 0 : count;
}

static inline int eventfd_bump(int fd) {
    uint64_t one = 1;
    return write(fd, &one, sizeof one) == sizeof one ? 0 : -1;
}

static inline int eventfd_clear(int fd) {
    uint64_t count;
    return read(fd, &count, sizeof count) == sizeof count ? 0 : -1;
}

static inline void yield_cpu(void) { sched_yield(); }

#endif
