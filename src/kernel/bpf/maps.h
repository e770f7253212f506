/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The values that the loader sets before the programs load, secrets among them, and all maps. The
 * maps of sockets and their connections are one pspd's and shared by all its programs; others
 * belong to one of the two objects, which says so before it includes this: PSP_SOCKET_OBJECT,
 * PSP_NETDEV_OBJECT.
 */
#ifndef PSP_KERNEL_BPF_MAPS_H
#define PSP_KERNEL_BPF_MAPS_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "device/state_table.h"
#include "wire/drop.h"

#include "structs.h"

/*
 * The loader's values. Who compiles the programs for something else than a kernel says what they
 * are there (see src/sim).
 */
#ifndef PSP_LOADED
#define PSP_LOADED const volatile
#endif
PSP_LOADED __u64 psp_epoch = 0;        /* of this pspd, random */
PSP_LOADED __u64 psp_token[2] = {};    /* proves that a request comes from pspd */
PSP_LOADED __u32 psp_view_optname = 0; /* getsockopt number of the view, random */
PSP_LOADED __u32 psp_mark = 0;         /* skb->mark between the programs of this pspd, random */
PSP_LOADED __u16 psp_verified = 0;     /* skb->tc_index of an opened and matched segment, random */

/* psp_assoc: the association that a socket carries. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct psp_sock);
} psp_assoc SEC(".maps");

#define PSP_MAX_SECURED 1024 /* the loader sets what is wanted */

/* psp_departed: connections with a Tx key by 4-tuple, for packets that have no full socket. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PSP_MAX_SECURED);
  __type(key, struct psp_tuple);
  __type(value, struct psp_tuple_entry);
} psp_departed SEC(".maps");

/* psp_by_tx_spi: connections with a Tx key by what their packets show. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PSP_MAX_SECURED);
  __type(key, struct psp_tx_spi);
  __type(value, struct psp_tuple);
} psp_by_tx_spi SEC(".maps");

/* psp_noted: sockets with a Tx key by cookie, with the one connection that the maps above have. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, PSP_MAX_SECURED);
  __type(key, __u64);
  __type(value, struct psp_noted_entry);
} psp_noted SEC(".maps");

/* psp_drops: how often each enum psp_drop_reason happened in these programs. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, PSP_DROP_MAX);
  __type(key, __u32);
  __type(value, __u64);
} psp_drops SEC(".maps");

#ifdef PSP_SOCKET_OBJECT

/*
 * psp_guard: netdevs whose programs are in place, with their PSP device, the epoch of who put them
 * there and the id of the program that psp_sock_out wants to see there. A secured socket may leave
 * only by a guarded netdev of its device. Entries with ifindex 0 are namespaces where sockets may
 * be secured, and PSP_OWNER.
 */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 4096);
  __type(key, struct psp_netdev_key);
  __type(value, struct psp_guard_entry);
} psp_guard SEC(".maps");

/* psp_guard_version: pspd counts here how often it has changed psp_guard, after each change. */
volatile __u32 psp_guard_version = 1;

#endif

#ifdef PSP_NETDEV_OBJECT

PSP_LOADED __u32 psp_netdev_ifindex = 0;
PSP_LOADED __u32 psp_tap_ifindex = 0;
PSP_LOADED __u16 psp_dev_id = 0;
PSP_LOADED __u64 psp_netns = 0; /* cookie of the netdev's network namespace */

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct psp_device_config);
} psp_config SEC(".maps");

/*
 * psp_living holds a socket of pspd, which the kernel takes out when pspd closes it or dies. From
 * then on the number of the TAP may be another netdev's.
 */
struct {
  __uint(type, BPF_MAP_TYPE_SOCKMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} psp_living SEC(".maps");

#endif

static __always_inline void psp_count_drop(__u32 reason) {
  __u64* count = bpf_map_lookup_elem(&psp_drops, &reason);
  if (count) *count += 1;
}

#endif
