// SPDX-License-Identifier: Apache-2.0
//
// Kernel: one network namespace below its programs: netdevs with their hooks, a TAP, IP as far as
// it must be, the table of sockets, the cgroup programs, and the calls that applications and pspd
// make. The BPF programs run in it where they do in Linux: at the cgroup before the netdev, at tcx
// before clsact, after the lookup of the socket and before TCP. A container is a second one, whose
// netdev lies on one of the host's as a macvlan does; what the namespaces of a host share is in
// Common.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "icmp.hh"
#include "programs.hh"
#include "random.hh"
#include "schedule.hh"
#include "tcp.hh"

namespace psp::sim {

// Netdev has hooks for programs: lists, the first in line first.
struct Netdev {
  shim_netdev numbers{};
  bool present = true;
  bool tap = false;
  bool clsact = false;
  struct Hook {
    std::vector<Program> tcx, filters;
  };
  Hook in, out;
};

// Cgroup are the programs at the root of the cgroup tree.
struct Cgroup {
  std::vector<Program> in, out;
  std::vector<Program> setsockopt, getsockopt, release;
};

// Common is what all network namespaces of a host have together.
struct Common {
  Cgroup cgroup;
  std::vector<std::weak_ptr<Map>> storages;
  std::function<void(std::uint64_t cookie)> on_gone;
  std::uint64_t last_socket = 100;
  std::uint32_t last_program = 10;
  std::uint64_t clock_offset = 0;  // of the boot clock, in ns: it can jump ahead
  std::uint32_t next_program() { return ++last_program; }
};

class Kernel;

// Watcher hears what happens in a kernel: the observer, and who draws the map of what was reached.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // judged: psp_sock_in of pspd's has let a segment of a full socket in, or not.
  virtual void judged(Tcp& /*socket*/, const Skb& /*skb*/, bool /*passed*/) {}
  // left: a segment of a full socket went on from its netdev's programs.
  virtual void left(Tcp& /*socket*/) {}
  // crossed: a packet of another namespace is to be sealed.
  virtual void crossed(const Skb& /*skb*/) {}
  // taken: TCP takes a segment that carried the proof.
  virtual void taken(Tcp& /*socket*/, const Segment& /*segment*/, const Skb& /*skb*/) {}
  // path_shrank: an ICMP error has lowered the MTU of a route.
  virtual void path_shrank(const Kernel& /*kernel*/, const Skb& /*skb*/, std::size_t /*mtu*/) {}
};

struct KernelOptions {
  bool tcx = true;
  std::size_t mtu = 1500;
  std::size_t tap_queue = 500;
  Time pause = 500 * kMillisecond;  // net.ipv4.tcp_invalid_ratelimit
  bool draws = true;                // what TCP is free to choose: sizes, options
  bool gro = true;
  std::uint64_t netns = 0;
  unsigned place = 0;  // 0, 1: the hosts; 2, 3: their containers
  Address address4{}, address6{};
  // The peer's container; nobody: it has the host's addresses, on a link of its own.
  std::optional<Address> boxed4{}, boxed6{};
  bool boxed() const { return place >= 2; }
};

class Kernel final : public Network, public Surroundings {
 public:
  static constexpr std::uint32_t kNetdev = 2, kOther = 3;  // ifindexes; TAPs are above

  // Wire takes the packets of one skb.
  using Wire = std::function<void(Octets packet, const Skb& skb)>;
  Kernel(Schedule& schedule, Random random, const KernelOptions& options,
         std::shared_ptr<Common> shared, Wire wire);

  // --- sockets
  std::shared_ptr<Tcp> open();
  // connect with a port that is free; 0: with none.
  void connect(Tcp& socket, Tuple to);
  // listen returns the listener; release ends it.
  std::shared_ptr<Tcp> listen(std::uint16_t port, std::function<void(std::shared_ptr<Tcp>)> accept);
  // release: the application closes it. How is Tcp's; this runs psp_released first.
  void release(Tcp& socket);
  std::size_t full_sockets = 0;
  std::size_t sockets() const { return by_tuple_.size() + full_sockets; }
  std::vector<std::shared_ptr<Tcp>> listed() const;  // as sock_diag lists them
  // on_gone hears of full sockets that are no more.
  std::function<void(std::uint64_t cookie)>& on_gone;
  // on_ended hears of connections that have no full socket any more, by the id of that.
  std::function<void(std::uint64_t id)> on_ended;
  Watcher* watcher = nullptr;

  // setsockopt and getsockopt run the programs of the cgroup. 0 or a negative errno.
  int setsockopt(Tcp& socket, int level, int name, const void* value, std::size_t size);
  int getsockopt(Tcp& socket, int level, int name, void* value, std::uint32_t& size);

  // --- netdevs
  Netdev& netdev(std::uint32_t ifindex);
  Netdev* find_netdev(std::uint32_t ifindex);
  Netdev& add_tap();
  void remove_tap(std::uint32_t ifindex);
  std::uint32_t route = kNetdev;
  const std::shared_ptr<Common> common;
  Cgroup& cgroup;

  // --- containers
  Kernel *above = nullptr, *below = nullptr;  // the container's, the host's
  std::uint32_t carrier = 0;                  // the netdev that the container's lies on
  // renew: the namespace has ended, with all that was in it, and another one has its addresses.
  void renew(std::uint64_t netns);
  // send_raw is what root sends by a packet socket: to a TAP, to be sealed with a Tx key.
  struct Raw {
    std::uint32_t mark = 0;
    std::uint32_t handle = 0;  // 0: it does not ask for that
  };
  void send_raw(const Segment& segment, std::uint32_t ifindex, const Raw& raw);
  // mark is what root has put on the packets of its sockets.
  std::uint32_t mark = 0;

  // sign is what another network namespace has put in the tc_index of what comes.
  std::uint16_t sign = 0;
  // receive is a packet of the wire.
  void receive(Octets packet, std::uint32_t ifindex, bool forged);
  // The TAP as pspd has it: frames with a virtio-net header.
  std::deque<Octets> tap_queue;
  std::function<void()> on_tap_frame;
  bool write_tap(std::uint32_t ifindex, Octets frame);

  const KernelOptions& options() const { return options_; }

  std::uint64_t dropped_at_tap = 0;

 private:
  // Network, for its sockets.
  Schedule& schedule() override { return schedule_; }
  Random& random() override { return random_; }
  std::size_t mtu(const Tuple& tuple) const override;
  std::uint32_t timestamp_base() override;
  void send(const Segment& segment, std::shared_ptr<Sock> sk) override;
  void to_time_wait(Tcp& socket, unsigned substate) override;
  void unhash(Tcp& socket) override;
  void has_ended(Tcp& socket) override;
  void refuse(const Segment& segment) override { reset_reply(segment, nullptr); }
  Time pause() const override { return options_.pause; }
  bool draws() const override { return options_.draws; }

  // Surroundings, for the helpers of programs.
  Sock* find_socket(const Tuple& tuple) override;
  std::uint64_t boot_ns() const override { return schedule_.now() + common->clock_offset; }
  bool has_tcx() const override { return options_.tcx; }
  bool is_local(const Address& address) const override {
    return address == options_.address4 || address == options_.address6;
  }

  struct Listener;
  enum class Verdict : std::uint8_t { kPass, kDrop, kRedirect };
  struct Result {
    Verdict verdict = Verdict::kPass;
    Redirect redirect{};
  };

  // kernel_packets.cc
  int run(const Program& program, Skb& skb, std::uint32_t ifindex, std::size_t l3, Sock* sk);
  bool run_cgroup(const std::vector<Program>& programs, Skb& skb, std::uint32_t ifindex, Sock& sk);
  Result run_hook(const Netdev::Hook& hook, Skb& skb, std::uint32_t ifindex);
  void address(Skb& skb, const Address& to) const;
  void transmit(std::uint32_t ifindex, Skb skb);
  void redirect(const Redirect& to, Skb skb);
  void arrive(std::uint32_t ifindex, Skb skb);
  void to_tap(Netdev& tap, const Skb& skb);
  void poll();
  Skb take_arrived();
  void deliver(Skb skb);

  void unlisten(std::uint16_t port);
  bool is_free(const Tuple& tuple) const;

  // kernel_icmp.cc
  void take_icmp(const Skb& skb);
  static bool ends_request(const IcmpError& error);
  bool lower(const Tuple& tuple, std::uint32_t told);

  // kernel_tcp.cc
  void to_time_wait_socket(TimeWait& past, const Segment& segment);
  void to_request(const std::shared_ptr<Request>& request, const Segment& segment, const Skb& skb);
  void to_listener(Listener& listener, const Segment& segment);
  void answer_request(const std::shared_ptr<Request>& request);
  // Late is what an ACK has that no full socket sends.
  struct Late {
    std::uint32_t seq, ack, window, timestamp_base, recent;
  };
  void accept_request(const Request& request, const Segment& segment, const Skb& skb);
  void send_syn_ack(const std::shared_ptr<Request>& request);
  void to_orphan(TimeWait& past, const Segment& segment, bool old);
  void hear(TimeWait& past, const Segment& segment) const;
  void answer_late(TimeWait& past, const Segment& segment);
  void reset_reply(const Segment& segment, Sock* listener);
  void answer(const Segment& to, const Late& late, std::shared_ptr<Sock> sk);
  bool may_answer(std::uint64_t& last) const;
  static bool is_older(const Segment& segment, std::uint32_t recent);
  std::uint32_t clock_ms() const {
    return static_cast<std::uint32_t>(schedule_.now() / kMillisecond);
  }
  std::shared_ptr<Sock> find(const Tuple& tuple);

  Schedule& schedule_;
  Random random_;
  KernelOptions options_;
  Wire wire_;
  std::map<std::uint32_t, Netdev> netdevs_;
  std::map<Tuple, std::shared_ptr<Sock>> by_tuple_;
  // Path is what is known of the way to an address.
  struct Path {
    std::size_t mtu;
    Time expires;
  };
  std::map<Address, Path> paths_;
  std::map<std::uint64_t, std::weak_ptr<Tcp>> full_;  // by id
  struct Listener {
    std::shared_ptr<Tcp> socket;
    std::function<void(std::shared_ptr<Tcp>)> accept;
  };
  std::map<std::uint16_t, Listener> listeners_;
  std::shared_ptr<Sock> control_, tap_socket_, packet_socket_;
  struct Arrived {
    Octets packet;
    std::uint32_t ifindex;
    bool forged;
  };
  std::deque<Arrived> arrived_;  // before GRO
  bool polling_ = false;
  std::uint32_t last_netdev_ = 10;
  std::uint32_t timestamp_base_ = 0;  // 0: each connection has one of its own
  bool recycles_ = false;             // tcp_tw_reuse
  std::uint16_t last_port_ = 40000;
};

}  // namespace psp::sim
