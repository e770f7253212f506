/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way to pspd: one connection for each request, opened and closed inside the call. The library
 * so keeps no descriptor that a program might close, reuse or pass on to a child, and pspd judges
 * the credentials that the caller has now.
 *
 * Threading: any thread, also in a signal handler and after fork. What is shared is atomic.
 */
#ifndef PSP_PRELOAD_FORWARD_H
#define PSP_PRELOAD_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "message.h"

/* psp_forward_init reads where pspd listens ($PSP_SOCKET). Call once, before other threads. */
void psp_forward_init(void);

enum {
  PSP_AWAY = -1,             /* nobody there whom we would trust */
  PSP_MESSAGE_MAX = 60000,   /* what an envelope holds */
  PSP_ANSWER_TIMEOUT_S = 10, /* then pspd counts as stuck: ETIMEDOUT */
};

/*
 * psp_forward sends one attribute of enum softpsp_forward, for the netlink socket `fd`, with the
 * descriptor `attached` unless it is -1, and waits until pspd is done. Returns 0, PSP_AWAY or an
 * errno. Keeps errno.
 */
int psp_forward(int fd, uint16_t attribute, const void* value, size_t size, int attached);

/* psp_is_sender: netlink port `port`, seen by the socket `fd`, is pspd's. May ask pspd. */
bool psp_is_sender(int fd, uint32_t port);

/* psp_named: the user said where pspd listens ($PSP_SOCKET), so that nobody else is asked. */
bool psp_named(void);

/* psp_serves asks pspd whether the device of the socket `fd` is one of its. Keeps errno. */
bool psp_serves(int fd);

/* psp_kernel_family asks the kernel for `psp`, once for all. Keeps errno. */
struct psp_family psp_kernel_family(void);

#endif
