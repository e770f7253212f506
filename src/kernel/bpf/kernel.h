/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The few kernel structures that the programs read, by name: libbpf finds their real offsets in the
 * running kernel's BTF (CO-RE), so the members listed here need not be all nor in order. A member
 * that some kernels lack is asked for first (bpf_core_field_exists); one that was renamed stands
 * twice, the older with ___before. No vmlinux.h: it would be that of one kernel, and these are all
 * that we rely on. The simulator (src/sim/bpf) compiles them for the machine that it runs on.
 */
#ifndef PSP_KERNEL_BPF_KERNEL_H
#define PSP_KERNEL_BPF_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
  int counter;
} atomic_t;

struct refcount_struct {
  atomic_t refs;
};

struct ns_common {
  struct refcount_struct __ns_ref; /* since 6.18 */
};

struct ns_common___before {
  struct refcount_struct count;
};

struct net {
  __u64 net_cookie;
  struct ns_common ns;
};

struct net___before {
  struct ns_common___before ns;
};

typedef struct {
  struct net* net;
} possible_net_t;

struct bpf_prog_aux {
  __u32 id;
};

struct bpf_prog {
  struct bpf_prog_aux* aux;
};

struct bpf_mprog_fp {
  struct bpf_prog* prog;
};

struct bpf_mprog_entry {
  struct bpf_mprog_fp fp_items[1]; /* there are more */
};

struct tcf_proto {
  void* root;
};

struct mini_Qdisc {
  struct tcf_proto* filter_list;
};

struct net_device {
  int ifindex;
  possible_net_t nd_net;
  struct bpf_mprog_entry *tcx_egress, *tcx_ingress; /* since 6.6: tcx, which runs before tc */
  struct mini_Qdisc *miniq_egress, *miniq_ingress;  /* before: the filters of a clsact qdisc */
};

struct dst_entry {
  struct net_device* dev;
};

struct rb_node;
struct rb_root {
  struct rb_node* rb_node;
};

struct sk_buff {
  char cb[48];
  struct net_device* dev;
};

typedef struct {
  __s64 counter;
} atomic64_t;

struct sock_common {
  possible_net_t skc_net;
  atomic64_t skc_cookie;
  unsigned long skc_flags;
  __u32 skc_tw_rcv_nxt;
};

typedef struct {
  __u32 val;
} kuid_t;

struct sock {
  struct sock_common __sk_common;
  kuid_t sk_uid;
  struct dst_entry* sk_dst_cache;
};

struct tcp_ulp_ops;
struct inet_connection_sock {
  const struct tcp_ulp_ops* icsk_ulp_ops;
};

struct tcp_sock {
  struct inet_connection_sock inet_conn;
  __u32 rcv_nxt;
  __u32 rcv_wnd;
  __u32 copied_seq;
  __u32 write_seq;
  __u32 snd_nxt;
  __u32 snd_una;
  __u32 mss_cache;
  __u16 urg_data; /* not 0: `urg_seq` is where an urgent octet is or was */
  __u32 urg_seq;
  struct rb_root out_of_order_queue;
  struct sk_buff* ooo_last_skb;
};

struct inet_timewait_sock {
  struct sock_common __tw_common;
  volatile unsigned char tw_substate;
};

struct tcp_timewait_sock {
  struct inet_timewait_sock tw_sk;
  int tw_ts_recent_stamp;
};

struct tcp_skb_cb {
  __u32 seq;
  __u32 end_seq;
};

#pragma clang attribute pop

/*
 * The list of cls_bpf, which may be in a module whose types are not at hand; the same in all
 * kernels that have no tcx. psp_cls_bpf_prog is what psp_list links, by its second member.
 */
struct psp_list {
  struct psp_list* next;
};
struct psp_cls_bpf_prog {
  struct bpf_prog* filter;
  struct psp_list link;
};

/*
 * psp_kernel_pointer is the kernel's object behind a BPF pointer, to be read with BPF_CORE_READ.
 * The way over the stack makes a plain number of it, which the verifier otherwise lets nobody add
 * to.
 */
static __always_inline const void* psp_kernel_pointer(const void* object) {
  const void* pointer = NULL;

  bpf_probe_read_kernel(&pointer, sizeof pointer, &object);
  return pointer;
}

static __always_inline const struct tcp_sock* psp_kernel_tcp(const void* sk) {
  return psp_kernel_pointer(sk);
}

#endif
