/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of the functions behind this library, by dlsym(RTLD_NEXT). It is filled by the
 * constructor, or by the first call if another library's constructor makes one earlier; two threads
 * that fill it at once write the same values. The address of pspd is read at the same moment,
 * before the program can change its environment.
 */
#include "next.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "forward.h"

static struct psp_next table;
static atomic_bool ready;

static void* find(const char* name) { return dlsym(RTLD_NEXT, name); }

/* ISO C knows no cast from what dlsym returns to a function. */
#define RESOLVE(member, name)                            \
  do {                                                   \
    void* symbol = find(name);                           \
    memcpy(&table.member, &symbol, sizeof table.member); \
  } while (0)

static void resolve(void) {
  RESOLVE(write, "write");
  RESOLVE(writev, "writev");
  RESOLVE(send, "send");
  RESOLVE(sendto, "sendto");
  RESOLVE(sendmsg, "sendmsg");
  RESOLVE(sendmmsg, "sendmmsg");
  RESOLVE(read, "read");
  RESOLVE(readv, "readv");
  RESOLVE(recv, "recv");
  RESOLVE(recvfrom, "recvfrom");
  RESOLVE(recvmsg, "recvmsg");
  RESOLVE(recvmmsg, "recvmmsg");
  RESOLVE(connect, "connect");
  RESOLVE(setsockopt, "setsockopt");
  RESOLVE(read_chk, "__read_chk");
  RESOLVE(recv_chk, "__recv_chk");
  RESOLVE(recvfrom_chk, "__recvfrom_chk");
  psp_forward_init();
  atomic_store_explicit(&ready, true, memory_order_release);
}

const struct psp_next* psp_next(void) {
  if (__builtin_expect(!atomic_load_explicit(&ready, memory_order_acquire), 0)) resolve();
  return &table;
}

__attribute__((constructor)) static void start(void) { (void)psp_next(); }
