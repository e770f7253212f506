/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands in the octets that a program writes: which netlink messages are for pspd, which
 * descriptor they name. Nothing here makes a system call or looks further than it is told; octets
 * need no alignment.
 */
#ifndef PSP_PRELOAD_MESSAGE_H
#define PSP_PRELOAD_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum psp_route {
  PSP_ROUTE_KERNEL,
  PSP_ROUTE_LOOKUP, /* to pspd, if the kernel has no such family: asks for `psp` by name or id */
  PSP_ROUTE_BOTH,   /* a dump of all families: pspd's part, then the kernel's */
  PSP_ROUTE_DAEMON, /* to pspd: carries the family id that pspd gave */
};

/*
 * psp_next_message returns the length of the netlink message at the start of `size` octets, as the
 * kernel cuts them (netlink_rcv_skb), and its route; 0 if the kernel would stop here.
 */
size_t psp_next_message(const void* octets, size_t size, enum psp_route* route);

/* psp_has_ours is true if any message in `size` octets is not for the kernel alone. */
bool psp_has_ours(const void* octets, size_t size);

/* psp_sock_fd finds the descriptor that rx-assoc or tx-assoc names; -1 if there is none. */
int psp_sock_fd(const void* octets, size_t size);

/* psp_is_overrun: these octets are pspd's sign that notifications were lost. */
bool psp_is_overrun(const void* octets, size_t size);

/* psp_notification_group returns the id of the group that a notification is of, 0 if it is none. */
uint32_t psp_notification_group(const void* octets, size_t size);

#endif
