// SPDX-License-Identifier: Apache-2.0
//
// The rotation watch of libpsp-tls at a control socket that drops notifications: what it has not
// heard of it does not claim to know.
//
// The loss is a real one: a client that does not read while hundreds of changes are told, at the
// real server over models (ModelDaemon). A ticket that stayed fresh would let a connection live on
// under a key that is gone; so "unknown" is the only right word. Needs CAP_NET_ADMIN to make the
// changes.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "control/model_daemon.hh"
#include "keyx/rotation.hh"
#include "netlink/client.hh"

namespace psp {
namespace {

TEST(RotationWatch, ATicketIsNotFreshAfterALoss) {
  const std::string address = fmt::format("@softpsp-test-{}-ticket", ::getpid());
  const control::ModelDaemon daemon(address);
  ASSERT_EQ(daemon.error(), "");
  auto admin = Client::connect_daemon(address);
  auto watch = keyx::RotationWatch::connect(address);
  ASSERT_TRUE(admin && watch);
  auto ticket = watch->begin();
  ticket.bind(1);
  for (int i = 0; i < 300; i++)
    if (const auto set = admin->set_versions(1, VersionSet::all()); !set)
      GTEST_SKIP() << "needs CAP_NET_ADMIN: " << set.error().message;
  for (int i = 0; i < 3; i++) ASSERT_TRUE(admin->key_rotate(1));
  EXPECT_EQ(watch->process(), 1u);
  EXPECT_EQ(ticket.state(), keyx::Freshness::kUnknown);
  EXPECT_EQ(watch->begin().state(), keyx::Freshness::kFresh);
}

}  // namespace
}  // namespace psp
