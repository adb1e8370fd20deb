/* The whole ordering vocabulary of the shared memory: five named operations and the two that a doorbell needs.
 *
 * C11 semantics through the compiler's __atomic builtins, so that the fields stay plain integers for Cython and the code is
 * right on weakly ordered machines (aarch64) as well. ThreadSanitizer understands all of them but the fence; see ring.h.
 */
#ifndef HEADRACE_ATOMICS_H
#define HEADRACE_ATOMICS_H

#include <stdint.h>

static inline uint64_t load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* A full barrier: no load or store crosses it in either direction, a store before it is seen before a load after it is made. */
static inline void fence_seq_cst(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline uint32_t load_relaxed32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint32_t exchange32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }

/* Tells the core that this is a spin: saves power and gives the sibling thread the pipeline. */
static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

#endif
