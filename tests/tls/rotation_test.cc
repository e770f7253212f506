// SPDX-License-Identifier: Apache-2.0
//
// Messages go on while the device keys of both hosts rotate: each rotation brings a new connection
// by psp::tls::Succession, and every message arrives once and in order.
//
// Threading: the test's thread plays both ends.
#include <psp/tls.hh>

#include "tls_lab.hh"

namespace psp::lab {
namespace {

using tls::Fd;
using tls::Link;
using tls::Rotation;
using tls::Succession;

class TlsRotation : public testing::Test {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    std::signal(SIGPIPE, SIG_IGN);
    lab_.emplace();
    for (const From side : {From::kA, From::kB}) lab_->start(side);
    b_ops_.emplace(*lab_, From::kB);
    const InNetns inside(lab_->ns(From::kA));
    std::string why;
    watch_ = Rotation::watch(&why);
    ASSERT_TRUE(watch_) << why;
  }

  // Served is B's end of a connection: it upgrades, then echoes until A ends its side.
  struct Served {
    UniqueFd fd;
    keyx::SslPtr ssl;
    std::unique_ptr<Upgrade> upgrade;
    Octets back;
    bool ended = false;
  };
  void serve() {
    for (Served& served : served_) {
      if (served.upgrade) {
        if (SSL_is_init_finished(served.ssl.get()) == 0 && SSL_do_handshake(served.ssl.get()) != 1)
          continue;
        const Step step = served.upgrade->step();
        ASSERT_NE(step, Step::kFailed) << served.upgrade->error().message;
        if (step != Step::kDone) continue;
        served.upgrade.reset();
        served.ssl.reset();
      }
      Octets octets(4096);
      const ssize_t n = served.ended ? -1 : recv(served.fd.get(), octets.data(), 4096, 0);
      if (n > 0) served.back.insert(served.back.end(), octets.begin(), octets.begin() + n);
      if (!served.back.empty()) {
        const ssize_t sent =
            send(served.fd.get(), served.back.data(), served.back.size(), MSG_NOSIGNAL);
        if (sent > 0) served.back.erase(served.back.begin(), served.back.begin() + sent);
      }
      served.ended |= n == 0;
      if (served.ended && served.back.empty()) served.fd.reset();
    }
    std::erase_if(served_, [](const Served& served) { return !served.fd; });
  }
  Succession::Dial dial() {
    return [this](Link& link) {
      if (!link.ssl) {
        Connection connection = lab_->connect(Kind::kIpv4);
        for (const UniqueFd* fd : {&connection.a, &connection.b})
          fcntl(fd->get(), F_SETFL, O_NONBLOCK);
        link.fd.reset(connection.a.release());
        link.ssl.reset(keyx::make_connection(first_use(false), link.fd.get(), "")->release());
        Served served{.fd = std::move(connection.b), .ssl = {}, .upgrade = {}, .back = {}};
        served.ssl = std::move(*keyx::make_connection(first_use(true), served.fd.get(), ""));
        served.upgrade = keyx::make_upgrade(served.ssl.get(), *b_ops_, {});
        served_.push_back(std::move(served));
      }
      const auto done = keyx::handshake(first_use(false), link.ssl.get());
      if (!done) return static_cast<int>(PSP_UPGRADE_FAILED);
      return static_cast<int>(*done == Step::kDone ? PSP_UPGRADE_TLS : PSP_UPGRADE_WANT_READ);
    };
  }
  int step(Succession& next) {
    const InNetns inside(lab_->ns(From::kA));
    return next.step();
  }
  // read takes what has come; true at the end of the stream.
  bool read(const Fd& fd) {
    Octets octets(4096);
    for (;;) {
      const ssize_t n = recv(fd.get(), octets.data(), octets.size(), 0);
      if (n <= 0) return n == 0;
      received_.insert(received_.end(), octets.begin(), octets.begin() + n);
    }
  }

  std::optional<Lab> lab_;
  std::optional<LabOps> b_ops_;
  std::optional<Rotation> watch_;
  std::vector<Served> served_;
  std::string received_;
};

TEST_F(TlsRotation, NoMessageIsLostOverManyRotations) {
  constexpr unsigned kRotations = 20, kMessages = 50;
  Link now;
  Fd old;
  std::optional<Succession> next;
  unsigned successions = 0;
  Client a = lab_->client(From::kA), b = lab_->client(From::kB);
  const std::uint32_t a_dev = a.devices()->front().id, b_dev = b.devices()->front().id;
  const auto move_on = [&] {
    serve();
    watch_->process();
    if (old && read(old)) old.reset();
    if (!old && now.fd) read(now.fd);
    if (!next && !old && (!now.fd || now.ticket.state() != PSP_FRESH))
      next.emplace(*watch_, dial());
    if (!next) return;
    const int status = step(*next);
    ASSERT_NE(status, PSP_UPGRADE_FAILED) << next->message();
    if (status != PSP_UPGRADE_PSP) return;
    Link link = next->switch_over(now.fd.get());  // between two messages: here always
    next.reset();
    old = std::exchange(now, std::move(link)).fd;
    ++successions;
  };
  ASSERT_TRUE(eventually([&] {
    move_on();
    return static_cast<bool>(now.fd);
  }));
  std::string sent;
  for (unsigned round = 0; round < kRotations && !HasFatalFailure(); ++round) {
    ASSERT_TRUE(a.key_rotate(a_dev));
    ASSERT_TRUE(b.key_rotate(b_dev));
    for (unsigned i = 0; i < kMessages; ++i) {
      const std::string message = std::to_string(round * kMessages + i) + "\n";
      ASSERT_EQ(send(now.fd.get(), message.data(), message.size(), 0),
                static_cast<ssize_t>(message.size()));
      sent += message;
      move_on();
    }
    ASSERT_TRUE(eventually([&] {
      move_on();
      return received_ == sent && successions == round + 2 && !old;
    })) << received_.size()
        << " of " << sent.size() << " octets, " << successions;
  }
  EXPECT_EQ(lab_->stats(From::kA).key_rotations, kRotations);
}

TEST_F(TlsRotation, ASuccessionThatFailsLeavesTheOldConnectionAlone) {
  Link now;
  Succession first(*watch_, dial());
  ASSERT_TRUE(eventually([&] {
    serve();
    return step(first) == PSP_UPGRADE_PSP;
  })) << first.message();
  now = first.switch_over();
  Succession refused(*watch_, [](Link&) { return static_cast<int>(PSP_UPGRADE_FAILED); });
  EXPECT_EQ(step(refused), PSP_UPGRADE_FAILED);
  EXPECT_EQ(refused.message(), "the dial did not succeed");
  ASSERT_EQ(send(now.fd.get(), "x", 1, 0), 1);
  EXPECT_TRUE(eventually([&] {
    serve();
    EXPECT_FALSE(read(now.fd));
    return received_ == "x";
  }));
}

}  // namespace
}  // namespace psp::lab
