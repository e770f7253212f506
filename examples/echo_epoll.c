/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An echo server in C with epoll: one thread that waits nowhere else. A connection goes from TLS by
 * the upgrade to PSP, and from then on it is read() and write().
 *     cc echo_epoll.c $(pkg-config --cflags --libs psp-tls) -o echo_epoll
 *     ./echo_epoll 7000 server.pem server.key
 */
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <psp/tls.h>

struct connection {
  int fd, retry;
  time_t begun;
  void (*go_on)(struct connection*); /* secure, then echo */
  SSL* ssl;                          /* until it is secured and what came before has been echoed */
  struct psp_upgrade_state* up;      /* from the end of the TLS handshake on, as long as ssl */
  struct connection* next;           /* of those with an ssl */
  size_t filled, sent;               /* of the buffer */
  char buffer[16384];
};

static int epoll_fd;
static SSL_CTX* tls;
static struct connection* with_ssl;

static time_t now(void) {
  struct timespec t;
  return clock_gettime(CLOCK_MONOTONIC, &t), t.tv_sec;
}

static void wait_for(struct connection* c, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void forget_tls(struct connection* c) {
  struct connection** at = &with_ssl;
  while (*at != c) at = &(*at)->next;
  *at = c->next;
  if (c->up) psp_upgrade_free(c->up); /* before the SSL, which goes without a word */
  SSL_free(c->ssl);
  c->up = NULL, c->ssl = NULL;
}

static void end(struct connection* c, const char* why) {
  if (why) fprintf(stderr, "echo_epoll: %s\n", why);
  if (c->ssl) forget_tls(c);
  close(c->fd);
  free(c);
}

/* What the peer sent before its upgrade comes first. */
static ssize_t take(struct connection* c) {
  const size_t n = c->up ? psp_upgrade_read(c->up, c->buffer, sizeof c->buffer) : 0;
  if (n > 0) return (ssize_t)n;
  if (c->ssl) forget_tls(c);
  return read(c->fd, c->buffer, sizeof c->buffer);
}

/* Nothing more is read before all is sent: who does not read costs one buffer. */
static void echo(struct connection* c) {
  for (;;) {
    const int writes = c->sent < c->filled;
    const ssize_t n = writes ? write(c->fd, c->buffer + c->sent, c->filled - c->sent) : take(c);
    if (n < 0 && errno == EAGAIN) return wait_for(c, writes ? EPOLLOUT : EPOLLIN);
    if (n <= 0) return end(c, n < 0 ? "the connection broke" : NULL);
    if (!writes) c->filled = (size_t)n;
    c->sent = writes ? c->sent + (size_t)n : 0;
  }
}

/* secure goes on with TLS and the upgrade until it would have to wait. */
static void secure(struct connection* c) {
  if (!c->up) {
    ERR_clear_error(); /* or SSL_get_error would tell of another connection */
    const int wants = SSL_get_error(c->ssl, SSL_do_handshake(c->ssl));
    if (wants == SSL_ERROR_WANT_READ) return wait_for(c, EPOLLIN);
    if (wants == SSL_ERROR_WANT_WRITE) return wait_for(c, EPOLLOUT);
    if (wants != SSL_ERROR_NONE) return end(c, "the TLS handshake failed");
    if (!(c->up = psp_upgrade_new(c->ssl, NULL))) return end(c, "out of memory");
  }
  const int status = psp_upgrade(c->up);       /* without options: PSP or nothing */
  c->retry = status == PSP_UPGRADE_WANT_RETRY; /* tick does it */
  if (status == PSP_UPGRADE_PSP) return (c->go_on = echo)(c);
  if (status == PSP_UPGRADE_WANT_READ) return wait_for(c, EPOLLIN);
  if (status == PSP_UPGRADE_WANT_WRITE) return wait_for(c, EPOLLOUT);
  if (c->retry) return wait_for(c, 0);
  end(c, status == PSP_UPGRADE_FAILED ? psp_upgrade_message(c->up) : "the peer talks too early");
}

static void accept_one(int listener) {
  const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) { /* out of descriptors, it would be asked again at once, and again */
    if (errno == EMFILE || errno == ENFILE) usleep(10000);
    return;
  }
  struct connection* c = calloc(1, sizeof *c);
  if (!c || !(c->ssl = SSL_new(tls))) abort(); /* out of memory */
  c->fd = fd, c->begun = now(), c->go_on = secure;
  c->next = with_ssl, with_ssl = c;
  SSL_set_fd(c->ssl, fd);
  SSL_set_accept_state(c->ssl);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* What no event tells: that time is up, 10 s after accept, and that it is time to try again. */
static void tick(void) {
  for (struct connection *c = with_ssl, *next = NULL; c; c = next) {
    next = c->next;
    if (c->go_on == secure && now() - c->begun > 10)
      end(c, "was not secured in 10 s");
    else if (c->retry)
      secure(c);
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return fprintf(stderr, "usage: echo_epoll PORT CERTIFICATE KEY\n"), 2;
  signal(SIGPIPE, SIG_IGN);
  tls = SSL_CTX_new(TLS_server_method());
  SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
  if (SSL_CTX_use_certificate_chain_file(tls, argv[2]) != 1 ||
      SSL_CTX_use_PrivateKey_file(tls, argv[3], SSL_FILETYPE_PEM) != 1)
    return fprintf(stderr, "echo_epoll: cannot use %s with %s\n", argv[2], argv[3]), 2;
  const int listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[1]))};
  if (bind(listener, (const struct sockaddr*)&any, sizeof any) != 0 || listen(listener, 128) != 0)
    return perror("echo_epoll"), 1;
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[64];
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    const int n = epoll_wait(epoll_fd, events, 64, with_ssl ? PSP_UPGRADE_RETRY_MS : -1);
    for (int i = 0; i < n; ++i) {
      struct connection* c = events[i].data.ptr;
      c ? c->go_on(c) : accept_one(listener);
    }
    tick();
  }
}
