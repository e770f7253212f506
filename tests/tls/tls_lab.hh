// SPDX-License-Identifier: Apache-2.0
//
// What these tests add to the lab: TLS on its connections, PSP's operations inside the right
// namespace, and two upgrades that are driven by one thread.
//
// Threading: the test's thread.
#pragma once

#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "device/state_table.h"
#include "keyx/client_ops.hh"
#include "keyx/rotation.hh"
#include "keyx/tls.hh"
#include "keyx/upgrade.hh"

#include "lab.hh"

namespace psp::lab {

using keyx::Step;
using keyx::Upgrade;

// LabOps is ClientOps of one host: routes are looked up in its namespace.
class LabOps final : public keyx::PspOps {
 public:
  LabOps(Lab& lab, From side, std::chrono::milliseconds remember = 0ms)
      : netns_(lab.ns(side)), client_(lab.client(side)), ops_(client_, remember) {}
  keyx::Availability available(int fd) override {
    const InNetns inside(netns_);
    return ops_.available(fd);
  }
  ClientResult<RxAssocInfo> rx_assoc(int fd, Version version) override {
    const InNetns inside(netns_);
    return ops_.rx_assoc(fd, version);
  }
  ClientResult<void> tx_assoc(int fd, Version version, const KeyInfo& tx) override {
    return ops_.tx_assoc(fd, version, tx);
  }

 private:
  Netns& netns_;
  Client client_;
  keyx::ClientOps ops_;
};

inline const keyx::TlsContext& first_use(bool server) {
  static const auto client_context = keyx::make_context({.server = false, .first_use = true});
  static const auto server_context = keyx::make_context({.server = true, .first_use = true});
  return server ? *server_context : *client_context;
}

// Tls is a connection of the lab with TLS on it; A is the client.
struct Tls {
  Tls(Lab& lab, Kind kind) : connection(lab.connect(kind)) {
    for (const UniqueFd* fd : {&connection.a, &connection.b}) fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    a = std::move(*keyx::make_connection(first_use(false), connection.a.get(), ""));
    b = std::move(*keyx::make_connection(first_use(true), connection.b.get(), ""));
    bool a_done = false, b_done = false;
    EXPECT_TRUE(eventually([&] {
      a_done = a_done || SSL_do_handshake(a.get()) == 1;
      b_done = b_done || SSL_do_handshake(b.get()) == 1;
      return a_done && b_done;
    }));
  }
  int fd(From side) const { return (side == From::kA ? connection.a : connection.b).get(); }
  SSL* ssl(From side) const { return (side == From::kA ? a : b).get(); }

  Connection connection;
  keyx::SslPtr a, b;
};

inline bool over(Step step) { return step == Step::kDone || step == Step::kFailed; }

// drive steps both until each has ended or time is up.
inline std::pair<Step, Step> drive(Upgrade& a, Upgrade& b,
                                   std::chrono::milliseconds patience = 10s) {
  Step ra = Step::kWantRead, rb = Step::kWantRead;
  eventually(
      [&] {
        if (!over(ra)) ra = a.step();
        if (!over(rb)) rb = b.step();
        return over(ra) && over(rb);
      },
      patience);
  return {ra, rb};
}

}  // namespace psp::lab
