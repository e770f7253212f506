// SPDX-License-Identifier: Apache-2.0
//
// The helpers of the BPF programs. What the kernel would refuse to load, or does otherwise than it
// is modelled here, aborts: never a silent success.
//
// Errors and odd cases are the kernel's: loads beyond the end fill with zeros, a pointer that is
// null reads as zero, a storage is there for full sockets only. Time, cookies and look-ups come
// from the host whose program runs (Running); two calls at once cannot be.
#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "wire/checksum.hh"

#include "programs.hh"

namespace psp::sim {
namespace {

// C has no closures: who runs is known here, for as long as it runs.
Running* running = nullptr;

Running& now() {
  if (running == nullptr) std::abort();
  return *running;
}

Map& map_of(const void* symbol) {
  const Object& object = now().object;
  const auto& map = object.maps[object.netdev ? shim_netdev_map(symbol) : shim_socket_map(symbol)];
  if (!map) std::abort();
  return *map;
}

bool is_living(const void* symbol) {
  return now().object.netdev && shim_netdev_map(symbol) == SHIM_LIVING;
}

}  // namespace

Running::Running(Surroundings& surroundings, Object& which) : kernel(surroundings), object(which) {
  if (running != nullptr) std::abort();
  running = this;
  (object.netdev ? shim_load_netdev : shim_load_socket)(&object.values);
}

Running::~Running() { running = nullptr; }

}  // namespace psp::sim

using namespace psp::sim;

void* shim_map_lookup_elem(const void* map, const void* key) {
  if (!is_living(map)) return map_of(map).lookup(key);
  static shim_sock alive;
  return *now().object.living ? &alive : nullptr;
}

long shim_map_update_elem(const void* map, const void* key, const void* value, uint64_t flags) {
  return map_of(map).update(key, value, flags);
}

long shim_map_delete_elem(const void* map, const void* key) { return map_of(map).erase(key); }

void* shim_sk_storage_get(const void* map, shim_sock* sk, void* value, uint64_t flags) {
  if (value != nullptr || flags > 1) std::abort();
  if (sk == nullptr || !sk->kernel.full) return nullptr;
  Map& storage = map_of(map);
  const std::uint64_t id = static_cast<Sock*>(sk->kernel.model)->id;
  void* there = storage.lookup(&id);
  if (there != nullptr || flags == 0) return there;
  return storage.update(&id, nullptr, 0) == 0 ? storage.lookup(&id) : nullptr;
}

shim_sock* shim_sk_fullsock(shim_sock* sk) {
  return sk != nullptr && sk->kernel.full ? sk : nullptr;
}

shim_tcp_numbers* shim_tcp_numbers_of(shim_sock* sk) {
  static shim_tcp_numbers view;
  if (sk == nullptr || !sk->kernel.full) return nullptr;
  view = {sk->kernel.snd_una, sk->kernel.snd_nxt, sk->kernel.mss_cache};
  return &view;
}

shim_sock* shim_skc_lookup_tcp(shim_skb* /*skb*/, shim_tuple* tuple, uint32_t size, uint64_t netns,
                               uint64_t flags) {
  if (netns != UINT64_MAX || flags != 0) std::abort();
  Tuple found;
  if (size == sizeof tuple->ipv4) {
    std::memcpy(found.remote.octets.data(), &tuple->ipv4.saddr, 4);
    std::memcpy(found.local.octets.data(), &tuple->ipv4.daddr, 4);
    found.remote_port = ntohs(tuple->ipv4.sport);
    found.local_port = ntohs(tuple->ipv4.dport);
  } else if (size == sizeof tuple->ipv6) {
    found.family = 6;
    std::memcpy(found.remote.octets.data(), tuple->ipv6.saddr, 16);
    std::memcpy(found.local.octets.data(), tuple->ipv6.daddr, 16);
    found.remote_port = ntohs(tuple->ipv6.sport);
    found.local_port = ntohs(tuple->ipv6.dport);
  } else {
    std::abort();
  }
  Sock* sock = now().kernel.find_socket(found);
  return sock == nullptr ? nullptr : &sock->refresh();
}

void shim_sk_release(shim_sock* sk) {
  if (sk == nullptr) std::abort();
}

long shim_skb_load_bytes(const shim_skb* skb, uint32_t offset, void* to, uint32_t size) {
  if (size == 0) std::abort();
  if (offset > skb->kernel.size || size > skb->kernel.size - offset) {
    std::memset(to, 0, size);
    return -EFAULT;
  }
  std::memcpy(to, skb->kernel.octets + offset, size);
  return 0;
}

long shim_skb_store_bytes(shim_skb* skb, uint32_t offset, const void* from, uint32_t size,
                          uint64_t flags) {
  if (flags != 0) std::abort();
  if (offset > skb->kernel.size || size > skb->kernel.size - offset) return -EFAULT;
  std::memcpy(skb->kernel.octets + offset, from, size);
  return 0;
}

// There are no VLANs here.
long shim_skb_vlan_pop(shim_skb* /*skb*/) { std::abort(); }

long shim_l4_csum_replace(shim_skb* skb, uint32_t offset, uint64_t from, uint64_t to,
                          uint64_t flags) {
  if (from != 0 || flags != 0) std::abort();
  std::uint16_t check;
  if (shim_skb_load_bytes(skb, offset, &check, sizeof check) != 0) return -EFAULT;
  const auto sum = static_cast<std::uint16_t>(~check);
  check = static_cast<std::uint16_t>(~psp::wire::checksum_fold(sum + (to & 0xffffffff)));
  return shim_skb_store_bytes(skb, offset, &check, sizeof check, 0);
}

int64_t shim_csum_diff(const void* from, uint32_t from_size, const void* to, uint32_t to_size,
                       uint32_t seed) {
  if (from_size % 4 != 0 || to_size % 4 != 0) std::abort();
  std::uint64_t sum = seed;
  const auto add = [&sum](const void* words, uint32_t size, std::uint32_t flip) {
    for (uint32_t i = 0; i < size; i += 4) {
      std::uint32_t word;
      std::memcpy(&word, static_cast<const char*>(words) + i, 4);
      sum += word ^ flip;
    }
  };
  add(from, from_size, UINT32_MAX);
  add(to, to_size, 0);
  while (sum >> 32) sum = (sum & UINT32_MAX) + (sum >> 32);
  return static_cast<int64_t>(sum);
}

long shim_redirect(uint32_t ifindex, uint64_t flags) {
  if (flags > 1) std::abort();
  now().redirect = Redirect{ifindex, flags == 1};
  return 7;  // TC_ACT_REDIRECT
}

// No host here forwards: what is not for it is for nobody.
long shim_fib_lookup(shim_skb* /*skb*/, shim_route* route, int size, uint32_t flags) {
  if (size != sizeof *route || flags != 0) std::abort();
  Address to;
  if (route->family == AF_INET)
    std::memcpy(to.octets.data(), &route->ipv4_dst, 4);
  else
    std::memcpy(to.octets.data(), route->ipv6_dst, 16);
  return now().kernel.is_local(to) ? 4 /* NOT_FWDED */ : 5 /* FWD_DISABLED */;
}

uint64_t shim_sk_cookie(const shim_sock* sk) {
  if (sk == nullptr) return 0;
  Sock& sock = *static_cast<Sock*>(sk->kernel.model);
  sock.asked = true;
  return sock.id;
}

uint64_t shim_skb_cookie(const shim_skb* skb) { return shim_sk_cookie(skb->sk); }
uint64_t shim_netns_cookie(const shim_sockopt* ctx) { return ctx->sk->kernel.netns; }

int shim_set_retval(int value) {
  now().retval = value;
  return 0;
}

uint64_t shim_ktime_get_boot_ns(void) { return now().kernel.boot_ns(); }

long shim_probe_read_kernel(void* to, uint32_t size, const void* from) {
  if (reinterpret_cast<uintptr_t>(from) < 4096) {
    std::memset(to, 0, size);
    return -EFAULT;
  }
  std::memcpy(to, from, size);
  return 0;
}

bool shim_has_field(const char* member) {
  const std::string_view name = member;
  if (name == "device->tcx_egress" || name == "device->tcx_ingress") return now().kernel.has_tcx();
  if (name == "net->ns.__ns_ref") return true;
  std::abort();
}
