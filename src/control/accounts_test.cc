// SPDX-License-Identifier: Apache-2.0
//
// What one user, and all together, may cost: connections and octets. Accounts are numbers, so users
// come and go by calls, without sockets or processes; limits are those of the header.
//
// What closing descriptors may cost is tested with real sockets (control_socket_test.cc,
// hostile_client_test.cc).
#include "accounts.hh"

#include <gtest/gtest.h>

namespace psp::control {
namespace {

constexpr uid_t kRoot = 0, kOne = 1000, kTwo = 1001;

void enter(Accounts& accounts, uid_t uid, std::size_t count) {
  for (std::size_t i = 0; i < count; i++) accounts.enter(uid);
}

TEST(Accounts, AUserHasAQuarterOfTheConnections) {
  Accounts accounts;
  enter(accounts, kOne, Accounts::kClientsMax / 4 - 1);
  EXPECT_EQ(accounts.admission(kOne), Accounts::Admission::kWelcome);
  accounts.enter(kOne);
  EXPECT_EQ(accounts.admission(kOne), Accounts::Admission::kFull);
  EXPECT_EQ(accounts.admission(kTwo), Accounts::Admission::kWelcome);
  accounts.leave(kOne);
  EXPECT_EQ(accounts.admission(kOne), Accounts::Admission::kWelcome);
}

TEST(Accounts, SomeConnectionsStayFreeForRoot) {
  Accounts accounts;
  for (uid_t uid = 1; uid <= 4; uid++) enter(accounts, uid, Accounts::kClientsMax / 4 - 64);
  EXPECT_EQ(accounts.admission(kTwo), Accounts::Admission::kFull);
  EXPECT_EQ(accounts.admission(kRoot), Accounts::Admission::kWelcome);
  enter(accounts, kRoot, Accounts::kClientsOfRoot);
  EXPECT_EQ(accounts.admission(kRoot), Accounts::Admission::kFull);
}

TEST(Accounts, AUserHoldsAQuarterOfTheOctetsAndRootAsManyAsThereAre) {
  Accounts accounts;
  EXPECT_TRUE(accounts.hold(kOne, 0, Accounts::kOctetsMax / 4));
  EXPECT_FALSE(accounts.hold(kOne, Accounts::kOctetsMax / 4, Accounts::kOctetsMax / 4 + 1));
  EXPECT_TRUE(accounts.hold(kOne, Accounts::kOctetsMax / 4 + 1, 0));
  EXPECT_TRUE(accounts.hold(kRoot, 0, Accounts::kOctetsMax));
  EXPECT_FALSE(accounts.hold(kTwo, 0, 1));
}

TEST(Accounts, ASweepKeepsWhoIsHere) {
  Accounts accounts;
  accounts.enter(kOne);
  enter(accounts, kTwo, Accounts::kClientsMax / 4);
  (void)accounts.admission(kRoot);
  accounts.sweep();
  EXPECT_EQ(accounts.admission(kTwo), Accounts::Admission::kFull);
  accounts.leave(kOne);
}

}  // namespace
}  // namespace psp::control
