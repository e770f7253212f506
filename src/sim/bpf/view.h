/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The kernel's structs of kernel/bpf/kernel.h as the programs find them behind their pointers, made
 * of what the model has. The pointer that a program takes for a struct tcp_sock is that of a struct
 * shim_sock: shim_view, which every BPF_CORE_READ begins with, has the one for the other.
 */
#ifndef PSP_SIM_BPF_VIEW_H
#define PSP_SIM_BPF_VIEW_H

#include <stdlib.h>
#include <string.h>

#include "kernel/bpf/kernel.h"

/* shim_hook is the head of a netdev's hooks, one way. */
struct shim_hook {
  struct bpf_mprog_entry tcx;
  struct mini_Qdisc clsact;
  struct tcf_proto proto;
  struct psp_list head;
  struct psp_cls_bpf_prog filter;
  struct bpf_prog programs[2];
  struct bpf_prog_aux aux[2];
};

/* shim_device is a netdev with its hooks. What one call has read stays valid. */
struct shim_device {
  struct net_device device;
  struct net net;
  struct shim_hook hooks[SHIM_WAYS];
};

static inline struct bpf_mprog_entry* shim_tcx(struct shim_hook* hook, uint32_t first) {
  if (!first) return NULL;
  hook->aux[0].id = first;
  hook->programs[0].aux = &hook->aux[0];
  hook->tcx.fp_items[0].prog = &hook->programs[0];
  return &hook->tcx;
}

static inline struct mini_Qdisc* shim_clsact(struct shim_hook* hook, uint32_t first) {
  if (!first) return NULL;
  hook->aux[1].id = first;
  hook->programs[1].aux = &hook->aux[1];
  hook->filter.filter = &hook->programs[1];
  hook->filter.link.next = &hook->head;
  hook->head.next = &hook->filter.link;
  hook->proto.root = &hook->head;
  hook->clsact.filter_list = &hook->proto;
  return &hook->clsact;
}

static inline void shim_fill_device(struct shim_device* to, const struct shim_netdev* from) {
  struct shim_hook* hooks = to->hooks;

  memset(to, 0, sizeof *to);
  to->device.ifindex = (int)from->ifindex;
  to->device.nd_net.net = &to->net;
  to->net.net_cookie = from->netns;
  to->device.tcx_egress = shim_tcx(&hooks[SHIM_OUT], from->tcx_first[SHIM_OUT]);
  to->device.tcx_ingress = shim_tcx(&hooks[SHIM_IN], from->tcx_first[SHIM_IN]);
  to->device.miniq_egress = shim_clsact(&hooks[SHIM_OUT], from->clsact_first[SHIM_OUT]);
  to->device.miniq_ingress = shim_clsact(&hooks[SHIM_IN], from->clsact_first[SHIM_IN]);
}

static inline const struct sk_buff* shim_view_skb(const struct shim_skb* skb) {
  static struct shim_device device;
  static struct sk_buff view;

  if (!skb->kernel.netdev) abort();
  shim_fill_device(&device, skb->kernel.netdev);
  view.dev = &device.device;
  return &view;
}

static inline void shim_fill_common(struct sock_common* common, struct net* net,
                                    const struct shim_sock* sk) {
  net->net_cookie = sk->kernel.netns;
  net->ns.__ns_ref.refs.counter = 1;
  common->skc_net.net = net;
  common->skc_cookie.counter = (__s64)sk->kernel.cookie;
  common->skc_flags = 0;
  common->skc_tw_rcv_nxt = sk->kernel.tw_rcv_nxt;
}

static inline const struct sock* shim_view_sock(const struct shim_sock* sk) {
  static struct shim_device device;
  static struct dst_entry route;
  static struct sock view;
  static struct net net;

  memset(&view, 0, sizeof view);
  shim_fill_common(&view.__sk_common, &net, sk);
  view.sk_uid.val = sk->kernel.uid;
  if (!sk->kernel.route) return &view;
  shim_fill_device(&device, sk->kernel.route);
  route.dev = &device.device;
  view.sk_dst_cache = &route;
  return &view;
}

static inline const struct tcp_sock* shim_view_tcp(const struct shim_sock* sk) {
  static struct sk_buff last;
  static struct tcp_sock view;
  struct tcp_skb_cb cb = {.end_seq = sk->kernel.queue_end};

  memset(&view, 0, sizeof view);
  view.rcv_nxt = sk->kernel.rcv_nxt;
  view.rcv_wnd = sk->kernel.rcv_wnd;
  view.copied_seq = sk->kernel.copied_seq;
  view.write_seq = sk->kernel.write_seq;
  view.snd_nxt = sk->kernel.snd_nxt;
  view.snd_una = sk->kernel.snd_una;
  view.mss_cache = sk->kernel.mss_cache;
  if (!sk->kernel.queue) return &view;
  memcpy(last.cb, &cb, sizeof cb);
  view.out_of_order_queue.rb_node = (struct rb_node*)&last;
  view.ooo_last_skb = &last;
  return &view;
}

static inline const struct tcp_timewait_sock* shim_view_timewait(const struct shim_sock* sk) {
  static struct tcp_timewait_sock view;
  static struct net net;

  memset(&view, 0, sizeof view);
  shim_fill_common(&view.tw_sk.__tw_common, &net, sk);
  view.tw_sk.tw_substate = sk->kernel.tw_substate;
  view.tw_ts_recent_stamp = (int)sk->kernel.tw_ts_recent_stamp;
  return &view;
}

#define shim_view(src) \
  _Generic((src),                                                                     \
      const struct sk_buff*: shim_view_skb((const void*)(src)),                       \
      const struct sock*: shim_view_sock((const void*)(src)),                         \
      const struct tcp_sock*: shim_view_tcp((const void*)(src)),                      \
      const struct tcp_timewait_sock*: shim_view_timewait((const void*)(src)),        \
      default: (src))

#endif
