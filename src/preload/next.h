/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions that the library stands before: those of libc or of the next preloaded library.
 *
 * Threading: any thread. Resolved once at load; a call that comes earlier resolves by itself, to
 * the same values.
 */
#ifndef PSP_PRELOAD_NEXT_H
#define PSP_PRELOAD_NEXT_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

struct psp_next {
  ssize_t (*write)(int, const void*, size_t);
  ssize_t (*writev)(int, const struct iovec*, int);
  ssize_t (*send)(int, const void*, size_t, int);
  ssize_t (*sendto)(int, const void*, size_t, int, const struct sockaddr*, socklen_t);
  ssize_t (*sendmsg)(int, const struct msghdr*, int);
  int (*sendmmsg)(int, struct mmsghdr*, unsigned, int);
  ssize_t (*read)(int, void*, size_t);
  ssize_t (*readv)(int, const struct iovec*, int);
  ssize_t (*recv)(int, void*, size_t, int);
  ssize_t (*recvfrom)(int, void*, size_t, int, struct sockaddr*, socklen_t*);
  ssize_t (*recvmsg)(int, struct msghdr*, int);
  int (*recvmmsg)(int, struct mmsghdr*, unsigned, int, struct timespec*);
  int (*connect)(int, const struct sockaddr*, socklen_t);
  int (*setsockopt)(int, int, int, const void*, socklen_t);
  /* What programs call that were built with _FORTIFY_SOURCE; absent in some libcs. */
  ssize_t (*read_chk)(int, void*, size_t, size_t);
  ssize_t (*recv_chk)(int, void*, size_t, size_t, int);
  ssize_t (*recvfrom_chk)(int, void*, size_t, size_t, int, struct sockaddr*, socklen_t*);
};

/* psp_next returns the table. */
const struct psp_next* psp_next(void);

#endif
