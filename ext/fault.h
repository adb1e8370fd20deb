/* Faults on purpose, for tests/fault: compiled into debug builds only, so that a release build has nothing to be told.
 *
 * HEADRACE_FAULT=POINT:N:FILE lets the N-th passage of the point named POINT fail, once: whoever fails takes FILE away, and with
 * FILE gone nothing fails any more, in no process. A crash point ends the process as SIGKILL does; slot.lease and ring.full make
 * their caller go the way that it would go for want of room, and frontend.memory has it raise MemoryError.
 *
 *   worker.before_take  worker.after_take  worker.begun  worker.mid_write  worker.before_publish  worker.after_publish
 *   worker.in_need  worker.mid_grant                      where an answer takes a larger slot
 *   frontend.before_submit  frontend.after_submit  frontend.before_grant  frontend.after_send  frontend.memory
 *   slot.lease  ring.full
 */
#ifndef HEADRACE_FAULT_H
#define HEADRACE_FAULT_H

#ifdef HEADRACE_DEBUG

#define FAULTS_COMPILED_IN 1

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline int fault_strikes(const char *point) {
    static const char *spec = "";
    static unsigned long passes;
    if (spec && !*spec) spec = getenv("HEADRACE_FAULT");
    if (!spec) return 0;
    size_t length = strlen(point);
    if (strncmp(spec, point, length) != 0 || spec[length] != ':') return 0;
    char *file;
    unsigned long wanted = strtoul(spec + length + 1, &file, 10);
    return ++passes == wanted && *file == ':' && unlink(file + 1) == 0;
}

static inline void crash_point(const char *point) {
    if (fault_strikes(point)) kill(getpid(), SIGKILL);
}

/* memcpy with a crash point half way. */
static inline void fault_memcpy(const char *point, void *to, const void *from, size_t length) {
    memcpy(to, from, length / 2);
    crash_point(point);
    memcpy((char *)to + length / 2, (const char *)from + length / 2, length - length / 2);
}

#else

#define FAULTS_COMPILED_IN 0

#include <string.h>

static inline int fault_strikes(const char *point) { return (void)point, 0; }
static inline void crash_point(const char *point) { (void)point; }
static inline void fault_memcpy(const char *point, void *to, const void *from, size_t length) {
    (void)point;
    memcpy(to, from, length);
}

#endif
#endif
