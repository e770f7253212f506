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

/* psp_family is `psp` as the kernel numbers it; id 0: it has none. */
struct psp_family {
  uint16_t id;
  uint32_t mgmt, use; /* its groups */
};

enum psp_route {
  PSP_ROUTE_KERNEL,
  PSP_ROUTE_LOOKUP, /* to pspd: the kernel has no such family, and it asks for `psp` */
  PSP_ROUTE_BOTH,   /* a dump: pspd's part, then the kernel's */
  PSP_ROUTE_DAEMON, /* to pspd: carries the family id that pspd gave */
  PSP_ROUTE_SHARED, /* carries the family id that the kernel gave: to it, to pspd or to both */
};

/*
 * psp_next_message returns the length of the netlink message at the start of `size` octets, as the
 * kernel cuts them (netlink_rcv_skb), and its route; 0 if the kernel would stop here. `kernel_id`
 * is that of struct psp_family.
 */
size_t psp_next_message(const void* octets, size_t size, uint16_t kernel_id, enum psp_route* route);

/* psp_has_ours is true if any message in `size` octets is not for the kernel alone. */
bool psp_has_ours(const void* octets, size_t size, uint16_t kernel_id);

/* psp_subject is what a request of the family is about. */
struct psp_subject {
  bool list;       /* all devices */
  uint32_t dev_id; /* this one; 0: none is named */
  int sock_fd;     /* the socket of rx-assoc or tx-assoc; -1: none */
};
struct psp_subject psp_subject_of(const void* octets, size_t size);

/* psp_read_family reads nlctrl's answer about `psp`; id 0 if it is none. */
struct psp_family psp_read_family(const void* octets, size_t size);

/* psp_is_overrun: these octets are pspd's sign that notifications were lost. */
bool psp_is_overrun(const void* octets, size_t size);

/* psp_notification_group returns the id of the group that a notification is of, 0 if it is none. */
uint32_t psp_notification_group(const void* octets, size_t size, const struct psp_family* kernel);

#endif
