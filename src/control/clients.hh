// SPDX-License-Identifier: Apache-2.0
//
// Clients: all who are connected to a control socket. It carries netlink messages between them and
// the server of the `psp` family, one datagram a request, the descriptor of `sock-fd` beside it,
// and notifications to those who want them. Requests of libpsp-genl.so come in an envelope and are
// answered on the program's netlink socket (Forwarder).
//
// A client can cost pspd a bounded amount of memory and nobody else anything: requests wait in its
// socket while its answers wait here, one that does not read loses notifications, as netlink has
// it, what closing its descriptors may cost is paid by a thread of its user's (Accounts, Closer),
// and users have their turns by what they took before (Turns), however many connections one has.
//
// Threading: the control thread only.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "base/loop.hh"
#include "base/unique_fd.hh"
#include "netlink/server.hh"

#include "accounts.hh"
#include "client_state.hh"
#include "forwarder.hh"
#include "turns.hh"

namespace psp::control {

class Clients {
 public:
  // From here on the notifications of `server` go to its clients. Both outlive this.
  Clients(Loop& loop, netlink::Server& server);
  ~Clients() { server_.set_multicast({}); }
  Clients(const Clients&) = delete;
  Clients& operator=(const Clients&) = delete;

  // error: without knowing where it is it could not tell root of this namespace from others, and is
  // no good (an errno); 0: it can.
  int error() const { return error_; }

  // welcome takes an accepted connection, or returns it if there is nothing to be done with it now.
  UniqueFd welcome(UniqueFd fd);

  Loop& loop() { return loop_; }
  Turns& turns() { return turns_; }

  static constexpr std::size_t kRequestMax = 64 * 1024;

 private:
  using Step = void (Clients::*)(ClientState&);
  uid_t account_of(uid_t uid, std::uint64_t netns) const;
  void take_turn(ClientState& client, Step step);
  bool listen_to(ClientState& client);
  void serve(ClientState& client);
  void work(ClientState& client);
  bool produce(ClientState& client);
  bool flush(ClientState& client);
  bool hold(ClientState& client);
  void wait(ClientState& client);
  void tick();
  bool judge(ClientState& client, std::span<const std::uint8_t> messages);
  void answer_portion(ClientState& client);
  bool notify(ClientState& client, const netlink::Datagram& message);
  void lose(ClientState& client);
  void multicast(std::uint32_t group_bit, std::uint64_t netns, const netlink::Datagram& message);
  void drop(ClientState& client, bool empty = false);
  void reap();

  Loop& loop_;
  netlink::Server& server_;
  std::uint64_t home_netns_ = 0;
  int error_ = 0;
  Turns turns_{loop_};
  Accounts accounts_;
  std::list<ClientState> clients_;
  std::list<ClientState> gone_;        // until the next one comes
  std::vector<ClientState*> waiting_;  // with answers
  Forwarder forwarder_;
  Loop::Source tick_;  // while answers wait
  std::unique_ptr<std::uint8_t[]> request_ = std::make_unique<std::uint8_t[]>(kRequestMax);
};

}  // namespace psp::control
