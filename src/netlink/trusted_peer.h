/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom a client gives keys to: a pspd that runs as root or as the client's own user. For C++
 * clients and for libpsp-genl.so, which is C and calls nothing that allocates. Anybody may listen
 * at an abstract name, and before pspd does: without this he would be given Tx keys, and could give
 * out Rx keys that he knows. Asked once, when a connection is made.
 */
#ifndef PSP_NETLINK_TRUSTED_PEER_H
#define PSP_NETLINK_TRUSTED_PEER_H

#include <stdbool.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * psp_stranger_uid returns the number under which a user namespace shows every user that it does
 * not know (65534 unless root has changed it); (uid_t)-1 where it knows all, as the first one does.
 */
uid_t psp_stranger_uid(void);

/*
 * psp_uid_trusted: `peer` is root or `self`, and no stranger. Who runs under the strangers' number
 * himself could not tell his own pspd from that of any user outside.
 */
static inline bool psp_uid_trusted(uid_t peer, uid_t self, uid_t stranger) {
  return (peer == 0 || peer == self) && (peer != stranger || stranger == (uid_t)-1);
}

/* psp_peer_trusted asks the kernel about a connected unix socket; *peer is who it is. */
bool psp_peer_trusted(int fd, uid_t* peer);

#ifdef __cplusplus
}
#endif
#endif
