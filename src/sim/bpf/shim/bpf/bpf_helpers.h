/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * In the place of libbpf's <bpf/bpf_helpers.h>: helpers are functions of the model (native.h), maps
 * and programs are ordinary symbols, weak because both objects have the shared ones. A helper that
 * is not here does not compile.
 */
#ifndef PSP_SIM_SHIM_BPF_HELPERS_H
#define PSP_SIM_SHIM_BPF_HELPERS_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((weak))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value* name

#define bpf_map_lookup_elem shim_map_lookup_elem
#define bpf_map_update_elem shim_map_update_elem
#define bpf_map_delete_elem shim_map_delete_elem
#define bpf_sk_storage_get shim_sk_storage_get
#define bpf_sk_fullsock shim_sk_fullsock
#define bpf_tcp_sock(sk) ((struct bpf_tcp_sock*)shim_tcp_numbers_of(sk))
#define bpf_fib_lookup(skb, route, size, flags) \
  shim_fib_lookup(skb, (struct shim_route*)(route), size, flags)
#define bpf_skc_lookup_tcp(skb, tuple, size, netns, flags) \
  shim_skc_lookup_tcp(skb, (union shim_tuple*)(tuple), size, netns, flags)
#define bpf_sk_release shim_sk_release
#define bpf_skb_load_bytes shim_skb_load_bytes
#define bpf_skb_store_bytes shim_skb_store_bytes
#define bpf_skb_vlan_pop shim_skb_vlan_pop
#define bpf_l4_csum_replace shim_l4_csum_replace
#define bpf_csum_diff shim_csum_diff
#define bpf_redirect shim_redirect
#define bpf_get_netns_cookie shim_netns_cookie
#define bpf_set_retval shim_set_retval
#define bpf_ktime_get_boot_ns shim_ktime_get_boot_ns
#define bpf_probe_read_kernel shim_probe_read_kernel
#define bpf_get_socket_cookie(ctx)                                   \
  _Generic((ctx), struct shim_skb *                                  \
           : shim_skb_cookie((const void*)(ctx)), struct shim_sock * \
           : shim_sk_cookie((const void*)(ctx)))

#endif
