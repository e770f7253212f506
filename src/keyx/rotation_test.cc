// SPDX-License-Identifier: Apache-2.0
//
// When a connection must be renewed, and that no message is lost when it is.
#include <deque>
#include <gmock/gmock.h>

#include <psp/keyx/rotation.hh>

#include "test_peer.hh"

namespace psp::keyx {
namespace {

using test::ModelOps;
using test::Side;
using test::tcp_pair;

// List is a source that says what the test puts in.
struct List {
  std::deque<Notification> notifications;
  bool ended = false;

  class Source final : public NotificationSource {
   public:
    explicit Source(List& list) : list_(list) {}
    int fd() const override { return 42; }
    ClientResult<std::optional<Notification>> next() override {
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

TEST_F(Rotation, TicketsThatAreGoneAreForgotten) {
  for (int i = 0; i < 100; ++i) watch_.begin();
  auto last = watch_.begin();
  list_.rotate(1);
  EXPECT_EQ(watch_.process(), 1u);
}

// Service is a listener whose connections upgrade, and send back what they get, until its other
// side ends. A process for each is enough here.
class Service {
 public:
  void accept(test::Fd fd) { connections_.push_back(std::make_unique<Connection>(std::move(fd))); }

 private:
  struct Connection {
    explicit Connection(test::Fd fd) {
      fcntl(fd.get(), F_SETFL, 0);
      child = fork();
      if (child != 0) return;
      Side side(test::first_use_context(true), std::move(fd));
      ModelOps ops;
      if (SSL_do_handshake(side.ssl.get()) != 1) _exit(1);
      const auto upgrade = make_upgrade(side.ssl.get(), ops, {});
      if (upgrade->step() != Step::kDone) _exit(2);
      char data[256];
      for (ssize_t n = 0; (n = recv(side.fd.get(), data, sizeof data, 0)) > 0;)
        if (send(side.fd.get(), data, static_cast<std::size_t>(n), MSG_NOSIGNAL) != n) _exit(3);
      _exit(0);
    }
    ~Connection() {
      int status = -1;
      waitpid(child, &status, 0);
      EXPECT_EQ(status, 0);
    }
    pid_t child = -1;
  };
  std::vector<std::unique_ptr<Connection>> connections_;
};

// dial_to connects to the service step by step: first the TCP connection, then TLS.
Succession::Dial dial_to(Service& service) {
  return [&service](Succession::Fresh& fresh) -> std::expected<Step, Error> {
    const TlsContext& context = test::first_use_context(false);
    if (!fresh.fd) {
      auto [near, far] = tcp_pair();
      service.accept(std::move(far));
      fresh.fd = UniqueFd(dup(near.get()));
      auto ssl = make_connection(context, fresh.fd.get(), "localhost");
      if (!ssl) return std::unexpected(ssl.error());
      fresh.ssl = std::move(*ssl);
    }
    return handshake(context, fresh.ssl.get());
  };
}

Step finish(Succession& succession) {
  for (;;) {
    const Step step = succession.step();
    if (step == Step::kDone || step == Step::kFailed) return step;
    pollfd p{succession.poll_fd(), static_cast<short>(step == Step::kWantWrite ? POLLOUT : POLLIN),
             0};
    poll(&p, 1, 1000);
  }
}

TEST(Succession, NoMessageIsLostOverManyOfThem) {
  Service service;
  ModelOps ops;
  Succession first(dial_to(service), ops, {});
  ASSERT_EQ(finish(first), Step::kDone) << first.error().message;
  auto [none, unused] = tcp_pair();
  UniqueFd now = first.switch_over(none.get()).fd, old;
  std::string sent, received;
  const auto receive = [&](const UniqueFd& fd, bool to_the_end) {
    char data[256];
    for (;;) {
      const ssize_t n = recv(fd.get(), data, sizeof data, 0);
      if (n > 0) received.append(data, static_cast<std::size_t>(n));
      if (n == 0) return;
      if (n < 0 && (!to_the_end || !test::wait_readable(fd.get()))) return;
    }
  };
  for (int round = 0; round < 10; ++round) {
    Succession next(dial_to(service), ops, {});
    for (int i = 0; i < 20; ++i) {
      const std::string message = "message " + std::to_string(round * 20 + i) + "\n";
      ASSERT_EQ(send(now.get(), message.data(), message.size(), 0),
                static_cast<ssize_t>(message.size()));
      sent += message;
      if (i == 10) {
        ASSERT_EQ(finish(next), Step::kDone) << next.error().message;
        old = std::exchange(now, next.switch_over(now.get()).fd);
        receive(old, true);
        old.reset();
      }
      receive(now, false);
    }
  }
  shutdown(now.get(), SHUT_WR);
  receive(now, true);
  EXPECT_EQ(received, sent);
}

TEST(Succession, AFailureLeavesTheOldConnectionAlone) {
  auto [near, far] = tcp_pair();
  ModelOps ops;
  Succession refused(
      [](Succession::Fresh&) -> std::expected<Step, Error> {
        return std::unexpected(Error{ErrorCode::kIo, ECONNREFUSED, "refused"});
      },
      ops, {});
  EXPECT_EQ(refused.step(), Step::kFailed);
  EXPECT_EQ(refused.step(), Step::kFailed);
  EXPECT_EQ(refused.error().sys_errno, ECONNREFUSED);
  EXPECT_EQ(send(near.get(), "x", 1, 0), 1);
  EXPECT_TRUE(test::wait_readable(far.get()));
}

}  // namespace
}  // namespace psp::keyx
