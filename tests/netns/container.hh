// SPDX-License-Identifier: Apache-2.0
//
// Container: a network namespace as a container has it: behind a veth of host A, which routes for
// it, kept by a process of its own.
//
//   Container eth0 --veth or netkit-- vc0 host A eth0 --[ Cable ]-- eth0 host B
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <sys/types.h>

#include "lab.hh"

namespace psp::lab {

class Container {
 public:
  enum class Link { kVeth, kNetkitL2, kNetkitL3 };

  // kItself: root inside is nobody outside, as with user namespaces.
  enum class Owner { kHost, kItself };

  explicit Container(Lab& lab, Link link = Link::kVeth, Owner owner = Owner::kHost);
  ~Container();  // as kill
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  Netns& ns() { return *netns_; }
  pid_t pid() const { return process_; }
  std::uint32_t ifindex() const { return ifindex_; }  // of its eth0
  std::int32_t nsid() const { return nsid_; }         // its number at host A

  // associate lets its eth0 use the first device of host A.
  ClientResult<void> associate();
  ClientResult<void> disassociate();

  // has_netkit: this kernel has such devices (6.7 and later, if configured).
  static bool has_netkit();

  // client is a control connection from inside.
  Client client();
  // connect connects from inside to host B; `a` is the container's end.
  Connection connect(Kind kind);
  // secure is as that of a connection between the hosts.
  Secured secure(const Connection& connection);

  // as_root runs `action` as root of the container: its result, 0 to 254, or -1. Descriptors that
  // it opens are here as well.
  int as_root(const std::function<int()>& action) const;

  // packet_socket is one of its root's (AF_PACKET), on a netdev of the container. What it sends
  // goes past every filter (PACKET_QDISC_BYPASS).
  UniqueFd packet_socket(const std::string& netdev);

  // kill ends its process and all that the test holds of the namespace.
  void kill();

 private:
  void live(Owner owner);
  void wire(Link link);
  Lab& lab_;
  std::optional<Netns> netns_;
  pid_t process_ = -1;
  std::uint32_t ifindex_ = 0;
  std::int32_t nsid_ = -1;
};

// connect makes a TCP connection from a namespace to an address of another one.
Connection connect(const Netns& from, const Netns& to, const std::string& address);

// ifindex_of is that of a netdev; 0 if there is none.
std::uint32_t ifindex_of(const Netns& netns, const std::string& name);

}  // namespace psp::lab
