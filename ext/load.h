/* A load generator's core: many keep-alive connections to one HTTP server, one thread, one epoll, no Python.
 *
 *     schedule --due--> idle connection --request--> busy --answer--> idle
 *
 * Open loop: requests are planned by a schedule that knows nothing of answers. A request that is due while no connection is
 * free waits, and its latency counts from when it was planned, so a stalled server cannot hide the requests that it kept from
 * being sent (coordinated omission). Closed loop: a connection sends as soon as its answer is there; planned is when it was sent.
 *
 * Invariants
 * 1. Every planned request ends in exactly one counter: good, refused, wrong, lost, malformed, late (its time-out passed) or unsent.
 * 2. Memory does not grow with the run: no list of planned times, of answers or of latencies is kept.
 * 3. Requests that were planned before `measure_ns` count as warm-up, however late they end.
 * 4. What a request is, is borrowed from the caller: heads, bodies and expected bodies must outlive the Load.
 */
#ifndef HEADRACE_LOAD_H
#define HEADRACE_LOAD_H

#include "syscalls.h"

#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "answer.h"
#include "histogram.h"

#define LOAD_EVENTS 256
#define LOAD_READ_BYTES (256u << 10)
#define LOAD_SWEEP_NS 20000000ull      /* time-outs and connections that are to be tried again are looked at this often */
#define LOAD_RETRY_NS 10000000ull      /* first pause after a connection that failed; doubled up to the next */
#define LOAD_RETRY_MAX_NS 1000000000ull
#define LOAD_TIMER UINT32_MAX          /* epoll's word for the timer; others are numbers of connections */

enum { LOAD_DOWN, LOAD_CONNECTING, LOAD_IDLE, LOAD_BUSY };
enum { LOAD_SLICE, LOAD_SAMPLE, LOAD_DONE, LOAD_FAILED };
enum { LOAD_CLOSED_LOOP, LOAD_CONSTANT, LOAD_POISSON };
enum { LOAD_GOOD, LOAD_REFUSED, LOAD_WRONG, LOAD_LOST, LOAD_MALFORMED, LOAD_LATE, LOAD_UNSENT, LOAD_OUTCOMES };

typedef struct {
    const uint8_t *head, *body, *expected;
    size_t head_bytes, body_bytes, expected_bytes;
    int is_compared;     /* with `expected` */
    uint32_t alias;      /* weighted choice by Walker's alias method: this one with probability `keep`, else `alias` */
    double keep;
    uint64_t sent, good; /* measured */
} LoadRequest;

typedef struct {
    Answer answer;
    uint64_t planned_ns, sent_ns, free_ns; /* free_ns: since when it is idle */
    uint64_t retry_ns, pause_ns;
    size_t sent_bytes, compared_bytes;
    uint8_t *kept; /* body of an answer that is to be shown to the caller */
    size_t kept_bytes, kept_room;
    uint32_t request;
    int fd;
    uint8_t state, is_blocked, is_same, is_kept;
    uint8_t is_mute;   /* the server takes no more of the request; its answer may still come */
    uint8_t is_queued; /* lies in the ring of idle ones, if only because it was idle before it went down */
} LoadConnection;

typedef struct {
    uint64_t by_outcome[LOAD_OUTCOMES];
    uint64_t sent;
} LoadCounts;

typedef struct {
    /* the plan */
    struct sockaddr_storage address;
    socklen_t address_bytes;
    int loop;
    double gap_ns; /* mean, between planned requests */
    uint64_t warm_up_ns, duration_ns, grace_ns, timeout_ns;
    uint64_t keep_every, keep_max_bytes;
    LoadRequest *requests;
    LoadConnection *connections;
    uint32_t request_count, connection_count;
    /* where it is */
    int epoll, timer, has_begun;
    uint64_t begin_ns, measure_ns, end_ns; /* known when it has begun: when connections were made */
    uint64_t planned, next_ns, armed_ns, sweep_ns, asked;
    double offset_ns; /* Poisson: of the next planned request, from begin_ns */
    uint64_t random;
    uint32_t *idle; /* round robin, so that all connections are used alike */
    uint32_t idle_head, idle_count, busy_count;
    int event_at, event_count;
    struct epoll_event events[LOAD_EVENTS];
    uint8_t *buffer;
    HttpLimits limits;
    /* an answer that the caller is to judge */
    uint8_t *sample;
    size_t sample_bytes, sample_room;
    uint64_t sample_planned_ns, sample_ended_ns;
    uint32_t sample_request;
    uint16_t sample_status;
    int has_sample;
    /* what was found */
    LoadCounts warm_up, measured;
    uint64_t statuses[600]; /* measured */
    uint64_t ended_good; /* good answers that came within the measured time, whenever their requests were planned */
    uint64_t received_bytes, sent_bytes, connect_errors, reconnects;
    int last_errno; /* of a connection that could not be made */
    Histogram good, refused, interval, lateness; /* lateness: of our own sends, where a connection was free in time */
} Load;

/* SplitMix64 (Steele, Lea, Flood 2014): any seed will do. */
static inline uint64_t load_random(Load *l) {
    uint64_t z = l->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline double load_uniform(Load *l) { return (double)(load_random(l) >> 11) * 0x1p-53; }

static inline void load_plan_next(Load *l) {
    l->planned++;
    if (l->loop == LOAD_POISSON) l->offset_ns -= log1p(-load_uniform(l)) * l->gap_ns;
    else l->offset_ns = (double)l->planned * l->gap_ns;
    l->next_ns = l->begin_ns + (uint64_t)l->offset_ns;
}

static inline LoadCounts *load_counts(Load *l, uint64_t planned_ns) {
    return planned_ns < l->measure_ns ? &l->warm_up : &l->measured;
}

static inline void load_count(Load *l, uint64_t planned_ns, int outcome) { load_counts(l, planned_ns)->by_outcome[outcome]++; }

/* Enters an answer that has come whole. */
static inline void load_enter(Load *l, uint32_t request, uint16_t status, int outcome, uint64_t planned_ns, uint64_t now) {
    uint64_t latency = now > planned_ns ? now - planned_ns : 0;
    load_count(l, planned_ns, outcome);
    if (outcome == LOAD_GOOD) {
        histogram_add(&l->interval, latency, 1);
        if (now >= l->measure_ns && now < l->end_ns) l->ended_good++;
    }
    if (planned_ns < l->measure_ns) return;
    l->statuses[status < 600 ? status : 599]++;
    if (outcome == LOAD_GOOD) {
        histogram_add(&l->good, latency, 1);
        l->requests[request].good++;
    } else {
        histogram_add(&l->refused, latency, 1);
    }
}

/* The caller's verdict on the sample. */
static inline void load_judge(Load *l, int is_right) {
    l->has_sample = 0;
    load_enter(l, l->sample_request, l->sample_status, is_right ? LOAD_GOOD : LOAD_WRONG, l->sample_planned_ns,
               l->sample_ended_ns);
}

static inline int load_watch(Load *l, LoadConnection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(c - l->connections)};
    return epoll_ctl(l->epoll, operation, c->fd, &event);
}

static inline void load_drop(Load *l, LoadConnection *c, uint64_t retry_ns) {
    if (c->state == LOAD_BUSY) l->busy_count--;
    if (c->fd >= 0) close(c->fd); /* which takes it out of the epoll set */
    c->fd = -1;
    c->state = LOAD_DOWN;
    c->retry_ns = retry_ns;
    if (l->sweep_ns > retry_ns) l->sweep_ns = retry_ns;
}

static inline void load_fail_connect(Load *l, LoadConnection *c, int error, uint64_t now) {
    l->connect_errors++;
    l->last_errno = error;
    c->pause_ns = c->pause_ns ? c->pause_ns * 2 : LOAD_RETRY_NS;
    if (c->pause_ns > LOAD_RETRY_MAX_NS) c->pause_ns = LOAD_RETRY_MAX_NS;
    load_drop(l, c, now + c->pause_ns);
}

/* A request that gets no answer. */
static inline void load_fail(Load *l, LoadConnection *c, int outcome, uint64_t now) {
    load_count(l, c->planned_ns, outcome);
    load_drop(l, c, now + LOAD_RETRY_NS);
}

static inline void load_write(Load *l, LoadConnection *c) {
    const LoadRequest *r = &l->requests[c->request];
    size_t total = r->head_bytes + r->body_bytes;
    while (c->sent_bytes < total && !c->is_mute) {
        size_t head = c->sent_bytes < r->head_bytes ? r->head_bytes - c->sent_bytes : 0;
        size_t past = head ? 0 : c->sent_bytes - r->head_bytes;
        ssize_t n = head && r->body_bytes ? send_two(c->fd, r->head + c->sent_bytes, head, r->body, r->body_bytes)
                    : head                ? send_now(c->fd, r->head + c->sent_bytes, head)
                                          : send_now(c->fd, r->body + past, r->body_bytes - past);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) {
                if (!c->is_blocked) load_watch(l, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
                c->is_blocked = 1;
                return;
            }
            c->is_mute = 1; /* an early answer may have come before the end, and reading will tell */
            break;
        }
        c->sent_bytes += (size_t)n;
        l->sent_bytes += (uint64_t)n;
    }
    if (c->is_blocked) load_watch(l, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
    c->is_blocked = 0;
}

static inline void load_send(Load *l, LoadConnection *c, uint64_t planned_ns, uint64_t now) {
    c->request = 0;
    if (l->request_count > 1) {
        uint32_t drawn = (uint32_t)(((load_random(l) >> 32) * l->request_count) >> 32);
        c->request = load_uniform(l) < l->requests[drawn].keep ? drawn : l->requests[drawn].alias;
    }
    c->state = LOAD_BUSY;
    c->planned_ns = planned_ns;
    c->sent_ns = now;
    c->sent_bytes = c->compared_bytes = c->kept_bytes = 0;
    c->is_same = 1;
    c->is_mute = 0;
    c->is_kept = l->keep_every && ++l->asked % l->keep_every == 0;
    l->busy_count++;
    load_counts(l, planned_ns)->sent++;
    if (planned_ns >= l->measure_ns) l->requests[c->request].sent++;
    answer_start(&c->answer);
    load_write(l, c);
}

/* The connection is free: it sends the next request (closed loop), or waits for one to be due. */
static inline void load_set_free(Load *l, LoadConnection *c, uint64_t now) {
    c->free_ns = now;
    if (l->loop == LOAD_CLOSED_LOOP && l->has_begun && now < l->end_ns) {
        load_send(l, c, now, now);
        return;
    }
    c->state = LOAD_IDLE;
    if (!c->is_queued) { /* so at most once, and the ring has room for all */
        c->is_queued = 1;
        uint32_t at = l->idle_head + l->idle_count++;
        l->idle[at < l->connection_count ? at : at - l->connection_count] = (uint32_t)(c - l->connections);
    }
}

static inline void load_connected(Load *l, LoadConnection *c, uint64_t now) {
    c->pause_ns = 0;
    c->is_blocked = 0;
    load_watch(l, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
    load_set_free(l, c, now);
}

static inline void load_connect(Load *l, LoadConnection *c, uint64_t now) {
    int one = 1;
    c->fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        load_fail_connect(l, c, errno, now);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int code = connect(c->fd, (const struct sockaddr *)&l->address, l->address_bytes);
    if ((code < 0 && errno != EINPROGRESS) || load_watch(l, c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLRDHUP) < 0) {
        load_fail_connect(l, c, errno, now);
        return;
    }
    c->state = LOAD_CONNECTING; /* a connection that is made at once becomes writable at once */
    c->sent_ns = now;
}

/* The next idle connection, or NULL. Those that went down while they waited are passed over. */
static inline LoadConnection *load_take_idle(Load *l) {
    while (l->idle_count) {
        LoadConnection *c = &l->connections[l->idle[l->idle_head]];
        l->idle_head = l->idle_head + 1 < l->connection_count ? l->idle_head + 1 : 0;
        l->idle_count--;
        c->is_queued = 0;
        if (c->state == LOAD_IDLE) return c;
    }
    return NULL;
}

/* Sends what is due as far as connections are free. What was planned before the end has some grace after it. */
static inline void load_send_due(Load *l, uint64_t now) {
    if (now > l->end_ns + l->grace_ns) return;
    while (l->next_ns <= now && l->next_ns < l->end_ns) {
        LoadConnection *c = load_take_idle(l);
        if (!c) return;
        if (c->free_ns <= l->next_ns && l->next_ns >= l->measure_ns) histogram_add(&l->lateness, now - l->next_ns, 1);
        load_send(l, c, l->next_ns, now);
        load_plan_next(l);
    }
}

/* Takes a piece of a body: compares it, keeps it. */
static inline void load_take_body(Load *l, LoadConnection *c, const uint8_t *data, size_t n) {
    const LoadRequest *r = &l->requests[c->request];
    if (r->is_compared && c->is_same) {
        c->is_same = n <= r->expected_bytes - c->compared_bytes && !memcmp(r->expected + c->compared_bytes, data, n);
        c->compared_bytes += n;
    }
    if (!c->is_kept) return;
    if (c->kept_bytes + n > c->kept_room) {
        size_t room = (c->kept_bytes + n) * 2;
        uint8_t *grown = n > l->keep_max_bytes - c->kept_bytes ? NULL : realloc(c->kept, room);
        if (!grown) { /* what cannot be looked at is not right */
            c->is_kept = c->is_same = 0;
            return;
        }
        c->kept = grown;
        c->kept_room = room;
    }
    memcpy(c->kept + c->kept_bytes, data, n);
    c->kept_bytes += n;
}

/* An answer has come whole. `extra`: bytes lie behind it, which nobody asked for. */
static inline void load_complete(Load *l, LoadConnection *c, int extra, uint64_t now) {
    const LoadRequest *r = &l->requests[c->request];
    uint16_t status = c->answer.status;
    int is_right = c->is_same && (!r->is_compared || c->compared_bytes == r->expected_bytes);
    int outcome = status >= 300 ? LOAD_REFUSED : is_right ? LOAD_GOOD : LOAD_WRONG;
    if (outcome == LOAD_GOOD && c->is_kept && !l->has_sample) {
        uint8_t *before = l->sample; /* the two buffers change places */
        size_t room = l->sample_room;
        l->sample = c->kept;
        l->sample_room = c->kept_room;
        c->kept = before;
        c->kept_room = room;
        l->sample_bytes = c->kept_bytes;
        l->sample_request = c->request;
        l->sample_status = status;
        l->sample_planned_ns = c->planned_ns;
        l->sample_ended_ns = now;
        l->has_sample = 1;
    } else {
        load_enter(l, c->request, status, outcome, c->planned_ns, now);
    }
    if (c->answer.closes || extra || c->sent_bytes < r->head_bytes + r->body_bytes) {
        l->reconnects++;
        load_drop(l, c, now);
        if (now < l->end_ns) load_connect(l, c, now);
        return;
    }
    l->busy_count--;
    load_set_free(l, c, now);
}

static inline void load_read(Load *l, LoadConnection *c, uint64_t now) {
    ssize_t n = recv(c->fd, l->buffer, LOAD_READ_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (c->state == LOAD_IDLE) { /* closed while nobody waits for anything, or told what nobody asked */
        l->reconnects++;
        load_drop(l, c, now + LOAD_RETRY_NS);
        return;
    }
    if (n <= 0) {
        if (n == 0 && answer_end(&c->answer) == ANSWER_WHOLE) load_complete(l, c, 0, now);
        else load_fail(l, c, LOAD_LOST, now);
        return;
    }
    l->received_bytes += (uint64_t)n;
    const uint8_t *at = l->buffer, *data;
    size_t left = (size_t)n, used, bytes;
    for (;;) {
        int code = answer_next(&c->answer, &l->limits, at, left, &used, &data, &bytes);
        at += used;
        left -= used;
        if (code == ANSWER_DATA) load_take_body(l, c, data, bytes);
        else if (code == ANSWER_BAD) load_fail(l, c, LOAD_MALFORMED, now);
        else if (code == ANSWER_WHOLE) load_complete(l, c, left > 0, now);
        if (code != ANSWER_DATA) return;
    }
}

static inline void load_handle(Load *l, const struct epoll_event *event) {
    if (event->data.u32 == LOAD_TIMER) return; /* it has done its duty by waking us; arming it anew clears it */
    LoadConnection *c = &l->connections[event->data.u32];
    uint64_t now = monotonic_ns();
    if (c->state == LOAD_CONNECTING) {
        int error = 0;
        socklen_t bytes = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        if (error || event->events & (EPOLLHUP | EPOLLERR)) load_fail_connect(l, c, error ? error : ECONNREFUSED, now);
        else load_connected(l, c, now);
        return;
    }
    if (c->state == LOAD_BUSY && event->events & EPOLLOUT && c->is_blocked) load_write(l, c);
    if (c->state != LOAD_DOWN && event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) load_read(l, c, now);
}

/* Time-outs, and connections that are to be made. */
static inline void load_sweep(Load *l, uint64_t now) {
    l->sweep_ns = now + LOAD_SWEEP_NS;
    for (uint32_t i = 0; i < l->connection_count; i++) {
        LoadConnection *c = &l->connections[i];
        if (c->state == LOAD_BUSY && now - c->sent_ns > l->timeout_ns) load_fail(l, c, LOAD_LATE, now);
        if (c->state == LOAD_CONNECTING && now - c->sent_ns > l->timeout_ns) load_fail_connect(l, c, ETIMEDOUT, now);
        if (c->state == LOAD_DOWN && c->retry_ns <= now && (!l->has_begun || now < l->end_ns)) load_connect(l, c, now);
        if (c->state == LOAD_DOWN && c->retry_ns < l->sweep_ns && c->retry_ns > now) l->sweep_ns = c->retry_ns;
    }
}

static inline void load_arm(Load *l, uint64_t at_ns) {
    if (l->armed_ns == at_ns) return;
    struct itimerspec when = {{0, 0}, {(time_t)(at_ns / 1000000000ull), (long)(at_ns % 1000000000ull)}};
    timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &when, NULL);
    l->armed_ns = at_ns;
}

/* What was planned and never sent, for want of a free connection. */
static inline void load_count_unsent(Load *l) {
    while (l->loop != LOAD_CLOSED_LOOP && l->next_ns < l->end_ns) {
        load_count(l, l->next_ns, LOAD_UNSENT);
        load_plan_next(l);
    }
}

/* Where to connect to. -1 when that is no numeric address of the family. */
static inline int load_address(Load *l, int family, const char *host, uint16_t port) {
    l->address.ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)&l->address;
        in->sin_port = htons(port);
        l->address_bytes = sizeof *in;
        return inet_pton(family, host, &in->sin_addr) == 1 ? 0 : -1;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&l->address;
    in6->sin6_port = htons(port);
    l->address_bytes = sizeof *in6;
    return family == AF_INET6 && inet_pton(family, host, &in6->sin6_addr) == 1 ? 0 : -1;
}

static inline void load_destroy(Load *l) {
    for (uint32_t i = 0; l->connections && i < l->connection_count; i++) {
        LoadConnection *c = &l->connections[i];
        if (c->fd >= 0) close(c->fd);
        free(c->kept);
        answer_free(&c->answer);
    }
    if (l->epoll >= 0) close(l->epoll);
    if (l->timer >= 0) close(l->timer);
    free(l->connections);
    free(l->requests);
    free(l->idle);
    free(l->buffer);
    free(l->sample);
    free(l);
}

/* A load without a plan. NULL with errno when memory or descriptors are not to be had. */
static inline Load *load_create(uint32_t connection_count, uint32_t request_count) {
    Load *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    http_limits_default(&l->limits);
    l->connection_count = connection_count;
    l->request_count = request_count;
    l->connections = calloc(connection_count, sizeof *l->connections);
    l->requests = calloc(request_count, sizeof *l->requests);
    l->idle = calloc(connection_count, sizeof *l->idle);
    l->buffer = malloc(LOAD_READ_BYTES);
    for (uint32_t i = 0; l->connections && i < connection_count; i++) l->connections[i].fd = -1;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = LOAD_TIMER};
    if (l->connections && l->requests && l->idle && l->buffer && l->epoll >= 0 && l->timer >= 0 &&
        !epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->timer, &event))
        return l;
    int error = errno;
    load_destroy(l);
    errno = error;
    return NULL;
}

/* Begins when each connection was tried once. Returns 0 when none could be made; last_errno says why. */
static inline int load_begin(Load *l, uint64_t now) {
    uint32_t up = 0;
    for (uint32_t i = 0; i < l->connection_count; i++) {
        const LoadConnection *c = &l->connections[i];
        if (c->state == LOAD_CONNECTING || (c->state == LOAD_DOWN && !c->pause_ns)) return 1;
        up += c->state == LOAD_IDLE;
    }
    if (!up) return 0;
    l->has_begun = 1;
    l->begin_ns = now;
    l->measure_ns = now + l->warm_up_ns;
    l->end_ns = l->measure_ns + l->duration_ns;
    l->next_ns = now;
    if (l->loop == LOAD_POISSON) load_plan_next(l);
    for (uint32_t i = 0; l->loop == LOAD_CLOSED_LOOP && i < l->connection_count; i++)
        if (l->connections[i].state == LOAD_IDLE) load_set_free(l, &l->connections[i], now);
    return 1;
}

/* Goes on until `until_ns`, an answer to be judged, or the end. LOAD_FAILED: errno says why. */
static inline int load_run(Load *l, uint64_t until_ns) {
    for (;;) {
        while (l->event_at < l->event_count) {
            load_handle(l, &l->events[l->event_at++]);
            if (l->has_sample) return LOAD_SAMPLE;
        }
        uint64_t now = monotonic_ns();
        if (now >= l->sweep_ns) load_sweep(l, now);
        if (!l->has_begun && !load_begin(l, now)) {
            errno = l->last_errno;
            return LOAD_FAILED;
        }
        int is_open = l->has_begun && l->loop != LOAD_CLOSED_LOOP;
        if (is_open) load_send_due(l, now);
        int is_spent = !is_open || /* no request is left to be sent by plan */
                       l->next_ns >= l->end_ns || now > l->end_ns + l->grace_ns;
        if (l->has_begun && now >= l->end_ns && is_spent && !l->busy_count) {
            load_count_unsent(l);
            return LOAD_DONE;
        }
        if (now >= until_ns) return LOAD_SLICE;
        uint64_t wake = until_ns < l->sweep_ns ? until_ns : l->sweep_ns;
        if (now < l->end_ns && l->end_ns < wake) wake = l->end_ns;
        if (!is_spent && l->idle_count && l->next_ns < wake) wake = l->next_ns;
        if (wake > now) load_arm(l, wake);
        int n = epoll_wait(l->epoll, l->events, LOAD_EVENTS, wake > now ? -1 : 0);
        if (n < 0 && errno != EINTR) return LOAD_FAILED;
        l->event_at = 0;
        l->event_count = n < 0 ? 0 : n;
    }
}

#endif
