/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What headers begin with that are compiled as C, as C++ and for BPF: integers by their size, bool,
 * and functions that live in a header. For BPF nothing of the C library may come in, and the
 * verifier wants every such function in line.
 */
#ifndef PSP_BASE_INTEGERS_H
#define PSP_BASE_INTEGERS_H

#include <stdbool.h>

#ifdef __bpf__
typedef unsigned char psp_u8;
typedef unsigned short psp_u16;
typedef unsigned int psp_u32;
typedef unsigned long long psp_u64;
#define PSP_INLINE static inline __attribute__((always_inline))
#else
#include <linux/types.h>
typedef __u8 psp_u8;
typedef __u16 psp_u16;
typedef __u32 psp_u32;
typedef __u64 psp_u64;
#define PSP_INLINE static inline
#endif

#endif
