// SPDX-License-Identifier: Apache-2.0
//
// Lab: two hosts A and B, and between them a cable that the test holds in its hands.
//
//   A eth0 --veth-- a0 [ Cable ] b0 --veth-- eth0 B      (eth1 the same, with two cables)
//
// The cables lie in a third namespace: see cable.hh.
//
// Threading: a Lab belongs to the test's thread; each Cable has one of its own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hh"
#include "netlink/client.hh"

#include "cable.hh"
#include "host.hh"
#include "packets.hh"

namespace psp::lab {

// kIpv4Mapped: IPv4 on the wire between IPv6 sockets, the accepting one a dual-stack listener's.
enum class Kind { kIpv4, kIpv6, kIpv4Mapped };
std::string kind_name(Kind kind);

// Connection is an established TCP connection, A the connecting side.
struct Connection {
  UniqueFd a, b;
  Flow flow;
};

class Lab {
 public:
  struct Options {
    unsigned links = 1;
    unsigned mtu = 1500;
  };
  Lab();
  explicit Lab(const Options& options);
  ~Lab();

  Netns& ns(From side) { return side == From::kA ? a_ : b_; }
  Cable& cable(std::size_t link = 0) { return *cables_[link]; }

  // start starts pspd with all versions enabled; a failure fails the test.
  Pspd& start(From side, const std::vector<std::string>& more = {});
  Pspd& pspd(From side) { return *daemon(side); }
  int stop(From side);
  // kill ends it with SIGKILL; what it leaves is cleaned up with the lab.
  void kill(From side);
  void clean_up(From side);
  void set_mtu(unsigned mtu);
  // client is a new control connection.
  Client client(From side);

  // connect waits until both sides are established. A port 0 is any.
  struct Endpoints {
    std::uint16_t a_port = 0, b_port = 0;
    unsigned link = 0;
  };
  Connection connect(Kind kind, const Endpoints& endpoints);
  Connection connect(Kind kind) { return connect(kind, Endpoints{}); }
  static std::string address(From side, Kind kind, unsigned link = 0);

  // daemon_info is what pspd says of itself and its devices.
  DaemonInfo daemon_info(From side);
  // drops is how often pspd of `side` dropped for a reason, by its name.
  std::uint64_t drops(From side, const std::string& reason);
  StatsInfo stats(From side);
  // association is pspd's view of one socket, if it has one.
  std::optional<AssocInfo> association(From side, int fd);

 private:
  std::optional<Pspd>& daemon(From side) { return side == From::kA ? a_pspd_ : b_pspd_; }
  void link(unsigned number, unsigned mtu);
  static Flow flow_of(int a, int b, const Cable& cable, std::size_t mark);

  Netns a_, b_, middle_;
  std::vector<std::unique_ptr<Cable>> cables_;
  std::optional<Pspd> a_pspd_, b_pspd_;
  bool a_killed_ = false, b_killed_ = false;
};

// secure does the whole exchange: Rx on both, then Tx on both.
struct Secured {
  KeyInfo a_rx, b_rx;
};
Secured secure(Client a, Client b, const Connection& connection,
               Version version = Version::kAesGcm128);
Secured secure(Lab& lab, const Connection& connection, Version version = Version::kAesGcm128);

// Socket helpers. send_all fails the test if it cannot; receive reads up to `size` octets and waits
// up to `patience` for them; pending reads what is there now.
void send_all(int fd, const Octets& octets);
Octets receive(int fd, std::size_t size, std::chrono::milliseconds patience = 5s);
Octets pending(int fd);
int maxseg(int fd);
// at_end waits for the orderly end of the stream; reset_errno for an error on the socket.
bool at_end(int fd, std::chrono::milliseconds patience = 5s);
int socket_error(int fd, std::chrono::milliseconds patience = 5s);
std::uint32_t send_window(int fd);

// expect_nothing_in_clear: since `mark` a link has seen no clear segment of the connection, and
// nothing but PSP packets holds a piece of `content`, 16 octets or more.
void expect_nothing_in_clear(Lab& lab, const Flow& flow, std::size_t mark, const Octets& content,
                             std::size_t link = 0);

}  // namespace psp::lab

// A test begins with this: it skips, and says what is missing.
#define PSP_NEEDS_LAB() \
  if (const auto& lacking = ::psp::lab::missing()) GTEST_SKIP() << *lacking
