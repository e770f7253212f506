// SPDX-License-Identifier: Apache-2.0
//
// When a connection must be renewed. Notifications come from a list of the test's own, in any
// order, lost and out of memory too; the answer of each ticket is compared at each step. The case
// that counts is the rotation in the middle of an upgrade. That no message is lost when a
// connection is renewed, with a real pspd: tests/tls.
#include "keyx/rotation.hh"

#include <cerrno>
#include <deque>
#include <gtest/gtest.h>
#include <new>
#include <utility>

namespace psp::keyx {
namespace {

// List is a source that says what the test puts in.
struct List {
  std::deque<Notification> notifications;
  bool ended = false, out_of_memory = false;
  bool lost = false;  // some, before those that are listed

  class Source final : public NotificationSource {
   public:
    explicit Source(List& list) : list_(list) {}
    int fd() const override { return 42; }
    ClientResult<std::optional<Notification>> next() override {
      if (list_.out_of_memory) throw std::bad_alloc();
      if (std::exchange(list_.lost, false))
        return std::unexpected(ClientError{ENOBUFS, "", "", "", "lost"});
      if (!list_.notifications.empty()) {
        const Notification next = list_.notifications.front();
        list_.notifications.pop_front();
        return std::optional(next);
      }
      if (list_.ended) return std::unexpected(ClientError{ECONNRESET, "", "", "", "ended"});
      return std::optional<Notification>();
    }

   private:
    List& list_;
  };
  void say(Notification::Kind kind, std::uint32_t id) {
    Notification notification{.kind = kind, .device = {}};
    notification.device.id = id;
    notifications.push_back(notification);
  }
  void rotate(std::uint32_t id) { say(Notification::Kind::kKeyRotate, id); }
};

class Rotation : public ::testing::Test {
 protected:
  List list_;
  RotationWatch watch_{std::make_unique<List::Source>(list_)};
};

TEST_F(Rotation, TheFirstAsksForANewConnectionTheSecondIsTheEnd) {
  auto ticket = watch_.begin();
  ticket.bind(1);
  EXPECT_EQ(watch_.process(), 0u);
  EXPECT_EQ(ticket.state(), Freshness::kFresh);
  list_.rotate(1);
  EXPECT_EQ(watch_.process(), 1u);
  EXPECT_EQ(ticket.state(), Freshness::kRenew);
  auto later = watch_.begin();
  later.bind(1);
  EXPECT_EQ(later.state(), Freshness::kFresh);
  list_.rotate(1);
  EXPECT_EQ(watch_.process(), 2u);
  EXPECT_EQ(ticket.state(), Freshness::kStale);
  EXPECT_EQ(later.state(), Freshness::kRenew);
}

TEST_F(Rotation, WhatANewTicketMakesKnownOfTheOthersIsToldByTheNextCall) {
  auto ticket = watch_.begin();
  ticket.bind(1);
  list_.rotate(1);
  auto later = watch_.begin();  // reads it, since it is not its own
  EXPECT_EQ(watch_.process(), 1u);
  EXPECT_EQ(ticket.state(), Freshness::kRenew);
  EXPECT_EQ(watch_.process(), 0u);
}

TEST_F(Rotation, OtherDevicesDoNotMatterOnceBound) {
  auto ticket = watch_.begin();
  list_.rotate(2);
  list_.rotate(2);
  watch_.process();
  EXPECT_EQ(ticket.state(), Freshness::kStale);  // it might have been this one
  ticket.bind(1);
  EXPECT_EQ(ticket.state(), Freshness::kFresh);
  list_.rotate(2);
  list_.say(Notification::Kind::kDevDel, 2);
  list_.say(Notification::Kind::kDevChange, 1);
  EXPECT_EQ(watch_.process(), 0u);
  EXPECT_EQ(ticket.state(), Freshness::kFresh);
}

TEST_F(Rotation, OneInTheMiddleOfTheUpgradeIsNotMissed) {
  auto ticket = watch_.begin();
  list_.rotate(1);
  watch_.process();
  ticket.bind(1);
  EXPECT_EQ(ticket.state(), Freshness::kRenew);
}

TEST_F(Rotation, WhatHappenedBeforeDoesNotCount) {
  list_.rotate(1);
  list_.rotate(1);
  auto ticket = watch_.begin();
  ticket.bind(1);
  EXPECT_EQ(watch_.process(), 0u);
  EXPECT_EQ(ticket.state(), Freshness::kFresh);
}

TEST_F(Rotation, ADeviceThatGoesTakesItsConnectionsAlong) {
  auto ticket = watch_.begin();
  ticket.bind(1);
  list_.say(Notification::Kind::kDevDel, 1);
  EXPECT_EQ(watch_.process(), 1u);
  EXPECT_EQ(ticket.state(), Freshness::kStale);
}

TEST_F(Rotation, LostNotificationsAreNoGoodNews) {
  auto ticket = watch_.begin(), other = watch_.begin();
  ticket.bind(1);
  other.bind(1);
  list_.ended = true;
  EXPECT_EQ(watch_.process(), 2u);
  EXPECT_EQ(ticket.state(), Freshness::kUnknown);
  EXPECT_EQ(watch_.fd(), -1);
  EXPECT_EQ(watch_.begin().state(), Freshness::kUnknown);
  EXPECT_EQ(watch_.process(), 0u);
}

TEST_F(Rotation, ATicketThatOutlivesItsWatchIsUnknown) {
  std::optional<RotationWatch> watch(std::make_unique<List::Source>(list_));
  auto ticket = watch->begin();
  ticket.bind(1);
  EXPECT_EQ(ticket.state(), Freshness::kFresh);
  watch.reset();
  EXPECT_EQ(ticket.state(), Freshness::kUnknown);
}

TEST_F(Rotation, ALossIsUnknownToThoseOfBeforeAndTheWatchGoesOn) {
  auto ticket = watch_.begin();
  ticket.bind(1);
  list_.lost = true;
  list_.rotate(1);
  EXPECT_EQ(watch_.process(), 2u);
  EXPECT_NE(ticket.state(), Freshness::kFresh);
  EXPECT_EQ(watch_.fd(), 42);
  auto later = watch_.begin();
  later.bind(1);
  EXPECT_EQ(later.state(), Freshness::kFresh);
  list_.lost = true;
  EXPECT_EQ(watch_.process(), 1u) << "the first knew already";
  EXPECT_EQ(later.state(), Freshness::kUnknown);
  list_.rotate(1);
  list_.rotate(1);
  watch_.process();
  EXPECT_EQ(later.state(), Freshness::kStale) << "two that were heard are enough";
}

TEST_F(Rotation, ANotificationThatFindsNoMemoryIsLostAndThrowsNothing) {
  auto ticket = watch_.begin();
  ticket.bind(1);
  list_.out_of_memory = true;
  unsigned changed = 0;
  EXPECT_NO_THROW(changed = watch_.process());
  EXPECT_EQ(changed, 1u);
  EXPECT_EQ(ticket.state(), Freshness::kUnknown);
  EXPECT_EQ(watch_.fd(), -1);
}

TEST_F(Rotation, TicketsThatAreGoneAreForgotten) {
  for (int i = 0; i < 100; ++i) watch_.begin();
  auto last = watch_.begin();
  list_.rotate(1);
  EXPECT_EQ(watch_.process(), 1u);
}

}  // namespace
}  // namespace psp::keyx
