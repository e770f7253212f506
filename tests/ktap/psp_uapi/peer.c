// SPDX-License-Identifier: Apache-2.0
//
// The peer service, --serve, and what a case asks of it.
//
// Every connection is accepted and what arrives on it is counted. One that begins with the line
// "CONTROL" commands the others, which it names by the port that they come from:
//   ASSOC PORT VERSION SPI KEY  -> OK SPI KEY    rx-assoc and tx-assoc on that connection
//   SEND PORT COUNT             -> OK            then sends so many octets of the pattern
//   COUNT PORT                  -> OK COUNT      octets that have arrived
//   CHECK PORT                  -> OK SUM        their sum
// and "ERR text" if it failed.
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <time.h>

#include "psp_uapi.h"

struct guest {
  int fd;
  uint16_t port;
  bool control;
  uint64_t count, sum;
  uint64_t close_at_ms;  // 0: its peer has not finished yet
  char line[512];
  size_t line_size;
};
static struct guest guests[512];
static unsigned guest_count;

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint8_t pattern(uint64_t at) { return (uint8_t)(at * 31 + 7); }

static int send_pattern(int fd, uint64_t count) {
  uint8_t buffer[4096];
  for (uint64_t at = 0; at < count;) {
    size_t part = count - at < sizeof buffer ? (size_t)(count - at) : sizeof buffer;
    for (size_t i = 0; i < part; i++) buffer[i] = pattern(at + i);
    const ssize_t n = send(fd, buffer, part, MSG_NOSIGNAL);
    if (n <= 0) return -1;
    at += (uint64_t)n;
  }
  return 0;
}

static void to_hex(const struct key* key, char* text) {
  for (size_t i = 0; i < key->size; i++) sprintf(text + 2 * i, "%02x", key->octets[i]);
}
static void from_hex(struct key* key, const char* text) {
  key->size = strlen(text) / 2 < sizeof key->octets ? strlen(text) / 2 : sizeof key->octets;
  for (size_t i = 0; i < key->size; i++) {
    unsigned value = 0;
    sscanf(text + 2 * i, "%2x", &value);
    key->octets[i] = (uint8_t)value;
  }
}

static void serve_assoc(struct guest* g, uint32_t version, struct key* theirs, char* reply,
                        size_t room) {
  struct key ours;
  char hex[80] = "";
  tap.bad = false;
  must_rx(g->fd, version, &ours);
  if (!tap.bad) must_tx(g->fd, version, theirs);
  if (tap.bad) {
    snprintf(reply, room, "ERR %.200s\n", tap.why);
    return;
  }
  to_hex(&ours, hex);
  snprintf(reply, room, "OK %u %s\n", ours.spi, hex);
}

// delivery is what SEND wants: done behind the reply, since who gets it reads that first.
struct delivery {
  int fd;
  uint64_t count;
};

static void serve_line(const char* line, char* reply, size_t room, struct delivery* due) {
  char verb[16] = "", hex[80] = "";
  unsigned port = 0, number = 0, spi = 0;
  const int fields = sscanf(line, "%15s %u %u %u %79s", verb, &port, &number, &spi, hex);
  struct guest* g = NULL;
  for (unsigned i = 0; i < guest_count; i++)
    if (guests[i].port == port && !guests[i].control) g = &guests[i];
  if (fields < 2 || g == NULL) {
    snprintf(reply, room, "ERR no connection from port %u\n", port);
  } else if (strcmp(verb, "ASSOC") == 0) {
    struct key theirs = {.spi = spi};
    from_hex(&theirs, hex);
    serve_assoc(g, number, &theirs, reply, room);
  } else if (strcmp(verb, "SEND") == 0) {
    snprintf(reply, room, "OK\n");
    *due = (struct delivery){.fd = g->fd, .count = number};
  } else if (strcmp(verb, "COUNT") == 0) {
    snprintf(reply, room, "OK %llu\n", (unsigned long long)g->count);
  } else if (strcmp(verb, "CHECK") == 0) {
    snprintf(reply, room, "OK %llu\n", (unsigned long long)g->sum);
  } else {
    snprintf(reply, room, "ERR what is %s?\n", verb);
  }
}

static bool serve_guest(struct guest* g) {
  uint8_t buffer[65536];
  const ssize_t n = recv(g->fd, buffer, sizeof buffer, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return true;
  if (n <= 0) return false;
  if (g->count == 0 && n >= 8 && memcmp(buffer, "CONTROL\n", 8) == 0) g->control = true;
  for (ssize_t i = 0; i < n; i++) {
    if (!g->control) {
      g->sum += (uint64_t)buffer[i] * ((g->count + (uint64_t)i) % 251 + 1);
      continue;
    }
    if (buffer[i] != '\n') {
      if (g->line_size + 1 < sizeof g->line) g->line[g->line_size++] = (char)buffer[i];
      continue;
    }
    char reply[512];
    g->line[g->line_size] = '\0';
    g->line_size = 0;
    if (strcmp(g->line, "CONTROL") == 0) continue;
    struct delivery due = {.fd = -1};
    serve_line(g->line, reply, sizeof reply, &due);
    if (send(g->fd, reply, strlen(reply), MSG_NOSIGNAL) < 0) return false;
    if (due.fd >= 0) send_pattern(due.fd, due.count);
  }
  g->count += (uint64_t)n;
  return true;
}

static void serve_accept(int listener) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  const int fd = accept4(listener, (struct sockaddr*)&name, &size, SOCK_CLOEXEC);
  if (fd < 0) return;
  if (guest_count == sizeof guests / sizeof guests[0]) {
    close(fd);
    return;
  }
  const uint16_t port = name.ss_family == AF_INET ? ((struct sockaddr_in*)&name)->sin_port
                                                  : ((struct sockaddr_in6*)&name)->sin6_port;
  guests[guest_count++] = (struct guest){.fd = fd, .port = ntohs(port)};
}

// A case may look at a socket that has finished and whose peer has not: an end that answers at once
// would have its FIN in the queue before or after.
#define FINISHED_MS 1000

static void close_finished(void) {
  for (unsigned i = guest_count; i-- > 0;) {
    if (guests[i].close_at_ms == 0 || guests[i].close_at_ms > now_ms()) continue;
    close(guests[i].fd);
    guests[i] = guests[--guest_count];
  }
}

int serve(const struct sockaddr_storage* where, socklen_t size) {
  int listener = socket(where->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (const struct sockaddr*)where, size) != 0 || listen(listener, 64) != 0) {
    perror("psp_uapi --serve");
    return 1;
  }
  if (set_up() != NULL) fprintf(stderr, "psp_uapi --serve: no psp family here: only accepts\n");
  puts("serving");
  fflush(stdout);
  for (;;) {
    struct pollfd ready[1 + sizeof guests / sizeof guests[0]];
    ready[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    const unsigned count = guest_count;
    bool finished = false;
    for (unsigned i = 0; i < count; i++) {
      const bool over = guests[i].close_at_ms != 0;
      finished |= over;
      ready[i + 1] = (struct pollfd){.fd = over ? -1 : guests[i].fd, .events = POLLIN};
    }
    if (poll(ready, count + 1, finished ? FINISHED_MS / 10 : -1) < 0) continue;
    // Newcomers first: a control connection may name one that came at the same time.
    if (ready[0].revents != 0) serve_accept(listener);
    for (unsigned i = count; i-- > 0;) {
      if (ready[i + 1].revents == 0 || serve_guest(&guests[i])) continue;
      guests[i].close_at_ms = now_ms() + FINISHED_MS;
    }
    close_finished();
  }
}

bool command(char* answer, size_t room, const char* format, ...) {
  char line[512];
  const int fd = connect_peer();
  va_list list;
  va_start(list, format);
  int size = snprintf(line, sizeof line, "CONTROL\n");
  size += vsnprintf(line + size, sizeof line - (size_t)size, format, list);
  va_end(list);
  size_t got = 0;
  if (!tap.bad && send(fd, line, (size_t)size, MSG_NOSIGNAL) == size) {
    ssize_t n;
    while (got + 1 < room && (n = recv(fd, answer + got, room - got - 1, 0)) > 0) {
      got += (size_t)n;
      if (answer[got - 1] == '\n') break;
    }
  }
  answer[got] = '\0';
  if (strncmp(answer, "OK", 2) == 0) return true;
  FAIL("peer says '%s' to '%s'", answer, line + 8);
  return false;
}

int secure(uint32_t version) {
  char text[512], hex[80] = "";
  struct key ours, theirs = {0};
  const int fd = connect_peer();
  must_rx(fd, version, &ours);
  if (tap.bad) return -1;
  to_hex(&ours, hex);
  if (!command(text, sizeof text, "ASSOC %u %u %u %s\n", local_port(fd), version, ours.spi, hex))
    return -1;
  if (sscanf(text, "OK %u %79s", &theirs.spi, hex) != 2) FAIL("peer says %s", text);
  from_hex(&theirs, hex);
  must_tx(fd, version, &theirs);
  return tap.bad ? -1 : fd;
}

void fetch(int fd, unsigned count) {
  char text[512];
  uint8_t buffer[65536];
  if (!command(text, sizeof text, "SEND %u %u\n", local_port(fd), count)) return;
  for (unsigned at = 0; at < count;) {
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    CHECK(n > 0, "only %u of %u octets arrived: %s", at, count, strerror(errno));
    for (ssize_t i = 0; i < n; i++, at++)
      CHECK(buffer[i] == pattern(at), "octet %u is not what was sent", at);
  }
}

void deliver(int fd, unsigned count) {
  char text[512];
  uint64_t sum = 0, got = 0;
  CHECK(send_pattern(fd, count) == 0, "send: %s", strerror(errno));
  for (uint64_t at = 0; at < count; at++) sum += (uint64_t)pattern(at) * (at % 251 + 1);
  for (int tries = 0; tries < PATIENCE_MS / 20 && got < count; tries++) {
    if (!command(text, sizeof text, "COUNT %u\n", local_port(fd))) return;
    got = strtoull(text + 3, NULL, 10);
    if (got < count) usleep(20000);
  }
  CHECK_EQ(got, count, "octets at the peer");
  if (!command(text, sizeof text, "CHECK %u\n", local_port(fd))) return;
  CHECK_EQ(strtoull(text + 3, NULL, 10), sum, "their sum");
}
