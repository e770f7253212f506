/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Socket options that the programs know, and calls that are none of ours. The numbers are those of
 * linux/in.h, linux/tcp.h and asm-generic/socket.h. The programs run for every socket option of
 * every process of the host, so what is not ours must go on exactly as without them: psp_pass has
 * the one trap in that.
 */
#ifndef PSP_KERNEL_BPF_OPTIONS_H
#define PSP_KERNEL_BPF_OPTIONS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define IP_OPTIONS 4
#define SOL_SOCKET 1
#define SO_OOBINLINE 10
#define TCP_MAXSEG 2
#define TCP_REPAIR 19
#define TCP_ULP 31
#define PSP_PAGE 4096 /* the smallest there is */

/*
 * psp_pass leaves a call to the kernel. Of an option longer than a page the program sees a page,
 * and kernels before 6.5 refuse the call unless the program says that it did not touch it.
 */
static __always_inline int psp_pass(struct bpf_sockopt* ctx) {
  if (ctx->optlen > PSP_PAGE) *(volatile __s32*)&ctx->optlen = 0;
  return 1;
}

#endif
