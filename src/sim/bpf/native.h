/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The border between the BPF programs, compiled as C for this machine, and the model of a kernel
 * that they run in: what a program sees of a packet and of a socket, what its loader gives it, the
 * helpers that it calls. The structs have the members that our programs read and no others, so that
 * a program that begins to use another one does not compile before the model has it.
 */
#ifndef PSP_SIM_BPF_NATIVE_H
#define PSP_SIM_BPF_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum shim_way { SHIM_OUT, SHIM_IN, SHIM_WAYS };

/* shim_netdev is what a program can learn of a netdev. */
struct shim_netdev {
  uint32_t ifindex;
  uint64_t netns;
  uint32_t tcx_first[SHIM_WAYS];    /* id of the first program at tcx; 0: none */
  uint32_t clsact_first[SHIM_WAYS]; /* of the first filter of clsact; 0: none */
};

/* shim_sock is struct bpf_sock, and behind it what programs read out of the kernel's own. */
struct shim_sock {
  uint32_t family, type, protocol, state;
  uint32_t src_ip4, dst_ip4; /* network order */
  uint32_t src_ip6[4], dst_ip6[4];
  uint32_t src_port; /* host order */
  uint16_t dst_port; /* network order */
  struct {
    bool full;
    uint64_t cookie, netns;
    uint32_t rcv_nxt, rcv_wnd, copied_seq, snd_una, snd_nxt, write_seq, mss_cache;
    bool queue; /* something waits out of order, up to queue_end */
    uint32_t queue_end;
    uint32_t uid;
    const struct shim_netdev* route;
    uint8_t tw_substate;
    uint32_t tw_rcv_nxt, tw_ts_recent_stamp;
    void* model;
  } kernel;
};

struct shim_tcp_numbers {
  uint32_t snd_una, snd_nxt, mss_cache;
};

/* shim_skb is struct __sk_buff. Offsets of the helpers count from `octets`. */
struct shim_skb {
  uint32_t len, pkt_type, mark, protocol, vlan_present, vlan_tci;
  uint32_t ingress_ifindex, ifindex, tc_index, tc_classid, gso_segs, gso_size;
  uint64_t data, data_end; /* the linear part */
  struct shim_sock* sk;
  struct {
    uint8_t* octets;
    uint32_t size;
    const struct shim_netdev* netdev;
  } kernel;
};

struct shim_sockopt {
  struct shim_sock* sk;
  void *optval, *optval_end;
  int32_t level, optname, optlen, retval;
};

union shim_tuple {
  struct {
    uint32_t saddr, daddr;
    uint16_t sport, dport;
  } ipv4;
  struct {
    uint32_t saddr[4], daddr[4];
    uint16_t sport, dport;
  } ipv6;
};

struct shim_route {
  uint8_t family;
  uint32_t ifindex;
  uint32_t ipv4_src, ipv4_dst, ipv6_src[4], ipv6_dst[4];
};

/* shim_values are what a loader sets before it loads. */
struct shim_values {
  uint64_t epoch, token[2];
  uint32_t view_optname, mark;
  uint16_t verified;
  uint32_t guard_version;               /* socket programs */
  uint32_t netdev_ifindex, tap_ifindex; /* netdev programs, to the end */
  uint16_t dev_id;
  uint64_t netns;
};

/* Maps by what they are, for the model to tell which one of its own a program means. */
enum shim_map {
  SHIM_ASSOC,
  SHIM_DEPARTED,
  SHIM_BY_TX_SPI,
  SHIM_NOTED,
  SHIM_DROPS,
  SHIM_GUARD,
  SHIM_CONFIG,
  SHIM_LIVING,
  SHIM_MAPS,
};

/* shim_map_of is the number of a map of one of the two objects; abort: there is none. */
enum shim_map shim_socket_map(const void* map);
enum shim_map shim_netdev_map(const void* map);
void shim_load_socket(const struct shim_values* values);
void shim_load_netdev(const struct shim_values* values);

/* The programs. */
int psp_egress(struct shim_skb* skb);
int psp_ingress(struct shim_skb* skb);
int psp_tap_ingress(struct shim_skb* skb);
int psp_tap_egress(struct shim_skb* skb);
int psp_sock_in(struct shim_skb* skb);
int psp_sock_out(struct shim_skb* skb);
int psp_setsockopt(struct shim_sockopt* ctx);
int psp_getsockopt(struct shim_sockopt* ctx);
int psp_released(struct shim_sock* sk);

/* The helpers, with the contract of those whose names they have behind "shim_". */
void* shim_map_lookup_elem(const void* map, const void* key);
long shim_map_update_elem(const void* map, const void* key, const void* value, uint64_t flags);
long shim_map_delete_elem(const void* map, const void* key);
void* shim_sk_storage_get(const void* map, struct shim_sock* sk, void* value, uint64_t flags);
struct shim_sock* shim_sk_fullsock(struct shim_sock* sk);
struct shim_tcp_numbers* shim_tcp_numbers_of(struct shim_sock* sk);
struct shim_sock* shim_skc_lookup_tcp(struct shim_skb* skb, union shim_tuple* tuple, uint32_t size,
                                      uint64_t netns, uint64_t flags);
void shim_sk_release(struct shim_sock* sk);
long shim_skb_load_bytes(const struct shim_skb* skb, uint32_t offset, void* to, uint32_t size);
long shim_skb_store_bytes(struct shim_skb* skb, uint32_t offset, const void* from, uint32_t size,
                          uint64_t flags);
long shim_skb_vlan_pop(struct shim_skb* skb);
long shim_l4_csum_replace(struct shim_skb* skb, uint32_t offset, uint64_t from, uint64_t to,
                          uint64_t flags);
int64_t shim_csum_diff(const void* from, uint32_t from_size, const void* to, uint32_t to_size,
                       uint32_t seed);
long shim_redirect(uint32_t ifindex, uint64_t flags);
long shim_fib_lookup(struct shim_skb* skb, struct shim_route* route, int size, uint32_t flags);
uint64_t shim_skb_cookie(const struct shim_skb* skb);
uint64_t shim_sk_cookie(const struct shim_sock* sk);
uint64_t shim_netns_cookie(const struct shim_sockopt* ctx);
int shim_set_retval(int value);
uint64_t shim_ktime_get_boot_ns(void);
long shim_probe_read_kernel(void* to, uint32_t size, const void* from);
/* shim_has_field: has the kernel that is modelled that member? abort: not known. */
bool shim_has_field(const char* member);

#ifdef __cplusplus
}
#endif

#endif
