/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From TLS to PSP in one call: give it the SSL of a connected socket after its handshake, get the
 * bare socket back, secured by PSP on both sides.
 *
 *     struct psp_upgrade_state* up = psp_upgrade_new(ssl, NULL);
 *     int status = psp_upgrade_run(up, 10000);        // both ends call it; waits up to 10 s
 *     if (status == PSP_UPGRADE_PSP)        ... read(fd), write(fd): PSP; ssl is over ...
 *     else if (status == PSP_UPGRADE_TLS)   ... go on with ssl; psp_upgrade_message(up) says why
 *     else                                  ... psp_upgrade_message(up); close(fd)
 *     psp_upgrade_free(up);
 *     SSL_free(ssl);                                  // sends nothing under PSP
 *
 * Programs with an event loop call psp_upgrade() instead of psp_upgrade_run() until it says PSP,
 * TLS or FAILED, and wait for what it wants in between. docs/tls.md has both in full.
 *
 * Link with libpsp-tls and OpenSSL 3. The process must ignore SIGPIPE.
 * Thread: any, one at a time for each object; different objects are independent.
 */
#ifndef PSP_TLS_H
#define PSP_TLS_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

#include <psp/psp.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What psp_upgrade and psp_upgrade_run return. */
enum psp_upgrade_status {
  PSP_UPGRADE_FAILED = -1,    /* close the socket; psp_upgrade_message says why */
  PSP_UPGRADE_PSP = 1,        /* done: the bare socket is secured by PSP, the SSL is over */
  PSP_UPGRADE_TLS = 2,        /* done: there is no PSP, the SSL is as before */
  PSP_UPGRADE_WANT_READ = 3,  /* call again when the socket is readable */
  PSP_UPGRADE_WANT_WRITE = 4, /* ... is writable */
  PSP_UPGRADE_WANT_RETRY = 5, /* ... in PSP_UPGRADE_RETRY_MS milliseconds */
  PSP_UPGRADE_WANT_DRAIN = 6, /* ... when psp_upgrade_read has taken some of what is pending */
};
#define PSP_UPGRADE_RETRY_MS 20

enum psp_upgrade_policy {
  PSP_UPGRADE_REQUIRED = 0,  /* PSP or failure */
  PSP_UPGRADE_PREFERRED = 1, /* stay on TLS where there is no PSP, if the peer allows it too */
};

/* What kind of failure it was. */
enum psp_upgrade_error_code {
  PSP_UPGRADE_ERROR_NONE = 0,
  PSP_UPGRADE_ERROR_IO,             /* the connection broke */
  PSP_UPGRADE_ERROR_PEER_CLOSED,    /* the peer ended it */
  PSP_UPGRADE_ERROR_PROTOCOL,       /* the peer sent what it must not send */
  PSP_UPGRADE_ERROR_AUTHENTICATION, /* octets, or addresses, were changed on the way */
  PSP_UPGRADE_ERROR_NO_PSP,         /* there is no version that both can receive */
  PSP_UPGRADE_ERROR_RX_ASSOC,       /* no Rx key */
  PSP_UPGRADE_ERROR_TX_ASSOC,       /* the Tx key was not taken */
  PSP_UPGRADE_ERROR_CLEAR_DATA,     /* clear data came after the peer's key */
  PSP_UPGRADE_ERROR_PEER_REFUSED,   /* the peer said why it cannot go on */
  PSP_UPGRADE_ERROR_USAGE,          /* the SSL or the options are not fit */
  PSP_UPGRADE_ERROR_TIMEOUT,        /* psp_upgrade_run: time was up */
};

/*
 * psp_upgrade_options: start from PSP_UPGRADE_OPTIONS_INIT. A field that is 0 or NULL has its
 * default.
 */
struct psp_upgrade_options {
  size_t size;       /* of this struct, so that it can grow */
  uint32_t versions; /* bit n: PSP version n may be used; default: those that encrypt */
  int policy;        /* enum psp_upgrade_policy */
  /*
   * "softpsp", the default, or by name a protocol of other programs, which needs exactly one
   * version: "fizz-v0", or "kernel-selftest" (keys in clear: psp_upgrade_new_clear).
   */
  const char* protocol;
  const char* pspd; /* where pspd listens, and nobody else is asked; default $PSP_SOCKET,
                        or else the kernel's family and pspd at "@softpsp" */
  size_t early_max; /* most that is ever pending; WANT_DRAIN: there is more; default 1 MiB */
};
#define PSP_UPGRADE_OPTIONS_INIT \
  { sizeof(struct psp_upgrade_options), 0, 0, NULL, NULL, 0 }

struct psp_upgrade_state;

/*
 * psp_upgrade_new begins an upgrade of `ssl`: TLS 1.3, its handshake done, directly on a TCP socket
 * (SSL_set_fd), blocking or not, no kTLS, no SSL_write unfinished, not shut down. `options` may be
 * NULL. The caller keeps `ssl` and the socket, and uses neither until the upgrade has ended.
 * Anything that is not fit is said by the first psp_upgrade. NULL: out of memory.
 */
struct psp_upgrade_state* psp_upgrade_new(SSL* ssl, const struct psp_upgrade_options* options);

/*
 * psp_upgrade_new_clear begins the exchange of the kernel's selftest responder on a bare socket.
 * KEYS TRAVEL IN CLEAR: for test labs. options->protocol must be "kernel-selftest".
 */
struct psp_upgrade_state* psp_upgrade_new_clear(int fd, const struct psp_upgrade_options* options);

/* psp_upgrade goes on as far as it can without waiting (with a blocking socket: to the end). */
int psp_upgrade(struct psp_upgrade_state* up);

/*
 * psp_upgrade_run goes on to the end and waits for up to `timeout_ms` (negative: for ever). It
 * returns PSP, TLS, FAILED or WANT_DRAIN. A blocking socket is made non-blocking while it runs.
 */
int psp_upgrade_run(struct psp_upgrade_state* up, int timeout_ms);

/*
 * psp_upgrade_pending is how many octets the peer's application sent through TLS before its upgrade
 * and nobody has read, never more than early_max; psp_upgrade_read takes up to `size` of them. They
 * come before everything that the socket or the SSL still holds. Also after a failure.
 */
size_t psp_upgrade_pending(const struct psp_upgrade_state* up);
size_t psp_upgrade_read(struct psp_upgrade_state* up, void* buffer, size_t size);

/*
 * psp_upgrade_message is one sentence: why it failed, why it stayed on TLS, or what it waits for.
 * It lives until the next call with `up`. psp_upgrade_error is an enum psp_upgrade_error_code.
 */
const char* psp_upgrade_message(const struct psp_upgrade_state* up);
int psp_upgrade_error(const struct psp_upgrade_state* up);

/*
 * psp_upgrade_info: what came of it, after PSP. Start from PSP_UPGRADE_INFO_INIT: nothing is
 * written behind `size` octets. 0; -EINVAL before, or if `size` is not set.
 */
struct psp_upgrade_info {
  size_t size;             /* of this struct, so that it can grow */
  uint32_t version;        /* PSP_VERSION_* */
  uint32_t dev_id;         /* the device of our Rx key */
  uint32_t rx_spi, tx_spi; /* host order */
  uint32_t proven;         /* 1: the PSP stream begins as agreed inside TLS ("softpsp" only) */
};
#define PSP_UPGRADE_INFO_INIT \
  { sizeof(struct psp_upgrade_info), 0, 0, 0, 0, 0 }
int psp_upgrade_get_info(const struct psp_upgrade_state* up, struct psp_upgrade_info* info);

/*
 * psp_upgrade_free ends it; before its end that cancels it, and the socket must be closed. It uses
 * the SSL, so it comes before SSL_free. As free(), this and the other _free do nothing with NULL.
 */
void psp_upgrade_free(struct psp_upgrade_state* up);

/*
 * psp_upgrade_announce makes the connections of `ctx` announce the upgrade in their TLS handshake,
 * so that a server can serve clients with and without it on one port: where the peer did not
 * announce, an upgrade sends nothing and ends at once (PREFERRED: on TLS). Call it before SSL_new.
 * Returns 0, or -EINVAL if OpenSSL refuses. psp_upgrade_announced: 1 the peer did, 0 it did not, -1
 * this end did not ask.
 */
int psp_upgrade_announce(SSL_CTX* ctx);
int psp_upgrade_announced(const SSL* ssl);

/* How long a connection may still live. */
enum psp_freshness {
  PSP_FRESH = 0,
  PSP_RENEW = 1,   /* its device key has rotated: establish another before it rotates again */
  PSP_STALE = 2,   /* it has rotated twice, or the device is gone: the connection is dead */
  PSP_UNKNOWN = 3, /* notifications were lost: renew, to be sure */
};

struct psp_rotation;
struct psp_ticket;

/*
 * psp_rotation_new watches the device keys of this host, at the kernel and at `pspd` (NULL: the
 * default), if both are there. NULL: it could not subscribe; `err` says why.
 */
struct psp_rotation* psp_rotation_new(const char* pspd, struct psp_error* err);
/* psp_rotation_fd is readable when psp_rotation_process has something to do; -1: pspd went away. */
int psp_rotation_fd(const struct psp_rotation* watch);
/* psp_rotation_process never waits; it returns how many tickets have changed. */
int psp_rotation_process(struct psp_rotation* watch);
void psp_rotation_free(struct psp_rotation* watch);

/*
 * psp_ticket_new is called for a connection BEFORE its upgrade (it does what psp_rotation_process
 * does, too; NULL: out of memory); psp_ticket_bind after it, with
 * psp_upgrade_info.dev_id; psp_ticket_state is an enum psp_freshness. A ticket may outlive its
 * watch.
 */
struct psp_ticket* psp_ticket_new(struct psp_rotation* watch);
void psp_ticket_bind(struct psp_ticket* ticket, uint32_t dev_id);
int psp_ticket_state(const struct psp_ticket* ticket);
void psp_ticket_free(struct psp_ticket* ticket);

#ifdef __cplusplus
}
#endif

#endif
