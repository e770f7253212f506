/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * In the place of the kernel's <linux/bpf.h> for programs that are compiled for this machine: its
 * names for what native.h has. What is not here our programs do not use; should they begin to, they
 * do not compile until the model knows it.
 */
#ifndef PSP_SIM_SHIM_LINUX_BPF_H
#define PSP_SIM_SHIM_LINUX_BPF_H

#include <linux/types.h>

#include "sim/bpf/native.h"

#define __sk_buff shim_skb
#define bpf_sock shim_sock
#define bpf_sockopt shim_sockopt

/* As in native.h, by the names that helpers have too. */
struct bpf_tcp_sock {
  __u32 snd_una, snd_nxt, mss_cache;
};
struct bpf_fib_lookup {
  __u8 family;
  __u32 ifindex;
  __be32 ipv4_src, ipv4_dst, ipv6_src[4], ipv6_dst[4];
};
_Static_assert(sizeof(struct bpf_tcp_sock) == sizeof(struct shim_tcp_numbers), "native.h");
_Static_assert(sizeof(struct bpf_fib_lookup) == sizeof(struct shim_route), "native.h");

struct bpf_sock_tuple {
  union {
    struct {
      __be32 saddr, daddr;
      __be16 sport, dport;
    } ipv4;
    struct {
      __be32 saddr[4], daddr[4];
      __be16 sport, dport;
    } ipv6;
  };
};

enum {
  BPF_MAP_TYPE_HASH = 1,
  BPF_MAP_TYPE_ARRAY = 2,
  BPF_MAP_TYPE_PERCPU_ARRAY = 6,
  BPF_MAP_TYPE_SOCKMAP = 15,
  BPF_MAP_TYPE_SK_STORAGE = 24,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_F_NO_PREALLOC = 1 };
enum { BPF_F_INGRESS = 1 };
enum { BPF_SK_STORAGE_GET_F_CREATE = 1 };
enum {
  BPF_FIB_LKUP_RET_SUCCESS = 0,
  BPF_FIB_LKUP_RET_NO_NEIGH = 7,
  BPF_FIB_LKUP_RET_FRAG_NEEDED = 8
};
#define BPF_F_CURRENT_NETNS ((__u64)-1)

#endif
