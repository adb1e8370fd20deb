/* What the kernel's sockets cost, in the fewest steps: `floor PORT BODY`.
 *
 * One thread, one epoll, one read buffer for all connections. Reads each request to its end without keeping it, and
 * answers BODY, whatever was asked. Keep-alive and pipelining; a body needs a content-length. A head that goes on after
 * HEAD_MAX bytes or a length that is no number ends the connection. It checks nothing else and is not to be served to anyone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_MAX = 16 << 10, READ_BYTES = 256 << 10, EVENTS = 256, BACKLOG = 4096 };

typedef struct {
    int fd;
    char *head;         /* the start of a head that has not ended yet; NULL: none */
    size_t head_bytes;  /* of it */
    uint64_t body_left; /* bytes of a body still to come */
    uint64_t owed;      /* answers not yet wholly written */
    size_t sent;        /* bytes written of the first of them */
    bool is_watching_output;
} Connection;

static char buffer[HEAD_MAX + READ_BYTES]; /* a kept head is put before what is read next */
static char *answer;
static size_t answer_bytes;
static int epoll_fd;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Length of the body that this head announces; -1 when that cannot be told. */
static int64_t content_length(const char *head, const char *end) {
    static const char name[] = "content-length:";
    for (const char *line = head; line < end;) {
        const char *stop = memchr(line, '\n', end - line);
        if (stop == NULL)
            break;
        if ((size_t)(stop - line) >= sizeof name && strncasecmp(line, name, sizeof name - 1) == 0) {
            char *rest;
            errno = 0;
            unsigned long long length = strtoull(line + sizeof name - 1, &rest, 10);
            bool is_number = errno == 0 && (*rest == '\r' || *rest == '\n' || *rest == ' ');
            return is_number && length <= INT64_MAX ? (int64_t)length : -1;
        }
        line = stop + 1;
    }
    return 0;
}

/* Take requests from `length` bytes at `data`, counting the answers that they are owed. False: end the connection. */
static bool take(Connection *c, const char *data, size_t length) {
    while (length > 0) {
        if (c->body_left > 0) {
            size_t part = length < c->body_left ? length : (size_t)c->body_left;
            c->body_left -= part;
            data += part;
            length -= part;
            if (c->body_left == 0)
                c->owed++;
            continue;
        }
        const char *end = memmem(data, length, "\r\n\r\n", 4);
        if (end == NULL) {
            if (length >= HEAD_MAX || (c->head = malloc(length)) == NULL)
                return false;
            memcpy(c->head, data, length);
            c->head_bytes = length;
            return true;
        }
        end += 4;
        int64_t body = content_length(data, end);
        if (body < 0)
            return false;
        c->body_left = (uint64_t)body;
        if (body == 0)
            c->owed++;
        length -= end - data;
        data = end;
    }
    return true;
}

/* Write what is owed, as far as the socket takes it. False: end the connection. */
static bool pay(Connection *c) {
    while (c->owed > 0) {
        ssize_t count = write(c->fd, answer + c->sent, answer_bytes - c->sent);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno != EAGAIN)
            return false;
        if (count < 0)
            break;
        c->sent += (size_t)count;
        if (c->sent == answer_bytes) {
            c->sent = 0;
            c->owed--;
        }
    }
    bool is_waiting = c->owed > 0;
    if (is_waiting != c->is_watching_output) { /* no more is read from a client that does not take its answers */
        struct epoll_event event = {.events = is_waiting ? EPOLLOUT : EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) < 0)
            return false;
        c->is_watching_output = is_waiting;
    }
    return true;
}

/* One read, and the answers to what it completes. False: end the connection. */
static bool serve(Connection *c) {
    size_t kept = c->head_bytes;
    if (kept > 0) {
        memcpy(buffer, c->head, kept);
        free(c->head);
        c->head = NULL;
        c->head_bytes = 0;
    }
    ssize_t count = read(c->fd, buffer + kept, READ_BYTES);
    if (count <= 0)
        return false; /* told that there is something, so no EAGAIN; and the kept head is gone with the connection */
    return take(c, buffer, kept + (size_t)count) && pay(c);
}

static void end(Connection *c) {
    close(c->fd);
    free(c->head);
    free(c);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (c == NULL || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
            fail("floor: connection");
        c->fd = fd;
    }
}

static int listen_on(uint16_t port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
        fail("floor: listen");
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: floor PORT BODY\n");
        return 2;
    }
    int length = asprintf(&answer, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                          strlen(argv[2]), argv[2]);
    if (length < 0)
        fail("floor: answer");
    answer_bytes = (size_t)length;
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on((uint16_t)atoi(argv[1]));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("floor: epoll");
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("floor: wait");
        for (int i = 0; i < count; i++) {
            Connection *c = events[i].data.ptr;
            if (c == NULL)
                accept_all(listener);
            else if (!(events[i].events & EPOLLOUT ? pay(c) : serve(c)))
                end(c);
        }
    }
}
