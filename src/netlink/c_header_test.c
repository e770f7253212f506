/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public C headers compile as C, and a C caller links. Called by c_api_test.cc. Its result is
 * the server's EBADF for a descriptor that is none: the call came through and back. That the header
 * stands alone, and before any other, is for scripts/check-headers.
 */
#include <psp/netlink/uapi.h>
#include <psp/psp.h>

int psp_c_header_test(struct psp_error* err);

/* Returns what a C program gets for a descriptor that is none. */
int psp_c_header_test(struct psp_error* err) {
  struct psp_key key = {.key_len = PSPNL_KEYS_KEY};
  int status = psp_rx_assoc(-1, PSP_VERSION_AES_GCM_128, &key, err);
  psp_key_wipe(&key);
  return key.key_len == 0 ? status : 0;
}
