// SPDX-License-Identifier: Apache-2.0
//
// Both relays on real TCP connections over lo, driven by one thread: what goes in comes out, each
// end goes across by itself, and a reset is a break on the right side.
//
// Threading: the test's thread.
#include <arpa/inet.h>
#include <cerrno>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <random>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <thread>

#include "socket.hh"
#include "splice_relay.hh"
#include "tls_relay.hh"

namespace psp::proxy {
namespace {

// Pair is a TCP connection within this host; both ends do not wait.
struct Pair {
  UniqueFd outside, inside;

  Pair() {
    const UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener.get(), any, size), 0);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(getsockname(listener.get(), any, &size), 0);
    outside.reset(socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_EQ(connect(outside.get(), any, size), 0);
    inside.reset(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK));
    prepare(inside.get());
  }
};

using Octets = std::vector<std::uint8_t>;

Octets random_octets(std::size_t size) {
  std::mt19937_64 random(size);
  Octets out(size);
  for (auto& octet : out) octet = static_cast<std::uint8_t>(random());
  return out;
}

bool ended(int fd) {
  char octet;
  return recv(fd, &octet, 1, MSG_DONTWAIT) == 0;
}

// Ends are the two programs with a relay between them.
class Ends {
 public:
  Ends() {
    clear_.fd = std::move(program_.inside);
    peer_.fd = std::move(remote_.inside);
  }
  int program() const { return program_.outside.get(); }
  int remote() const { return remote_.outside.get(); }
  Socket& clear() { return clear_; }
  Socket& peer() { return peer_; }

  // turn is one turn with everything claimed to be ready, as epoll would after each change.
  Relay::State turn(Relay& relay) {
    for (Socket* side : {&clear_, &peer_}) side->readable = side->writable = true;
    return relay.turn();
  }

  // until takes turns until something holds: lo delivers when the kernel has the time.
  bool until(Relay& relay, const std::function<bool()>& holds) {
    for (int i = 0; i < 5000; ++i) {
      turn(relay);
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool comes_to(Relay& relay, Relay::State wanted) {
    for (int i = 0; i < 5000; ++i) {
      if (turn(relay) == wanted) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  // carry writes `octets` to one program and reads them at the other, turn by turn.
  void carry(Relay& relay, int from, int to, const Octets& octets) {
    Octets got;
    std::size_t sent = 0;
    for (int idle = 0; got.size() < octets.size() && idle < 100'000; ++idle) {
      if (sent < octets.size()) {
        const ssize_t n = send(from, octets.data() + sent, octets.size() - sent, MSG_DONTWAIT);
        if (n > 0) sent += static_cast<std::size_t>(n);
      }
      const Relay::State state = turn(relay);
      ASSERT_TRUE(state == Relay::State::kWaiting || state == Relay::State::kMore);
      std::uint8_t buffer[65536];
      const ssize_t n = recv(to, buffer, sizeof buffer, MSG_DONTWAIT);
      if (n > 0) got.insert(got.end(), buffer, buffer + n);
    }
    EXPECT_TRUE(got == octets);
  }

 private:
  Pair program_, remote_;
  Socket clear_, peer_;
};

TEST(SpliceRelay, CarriesBothWaysAndEndsEachDirectionByItself) {
  Ends ends;
  PipePool pool;
  SpliceRelay relay(ends.clear(), ends.peer(), pool);
  const Octets there = random_octets(5'000'000), back = random_octets(3'000'000);
  ends.carry(relay, ends.program(), ends.remote(), there);
  EXPECT_TRUE(relay.empty());
  shutdown(ends.program(), SHUT_WR);
  EXPECT_TRUE(ends.until(relay, [&] { return ended(ends.remote()); }));
  ends.carry(relay, ends.remote(), ends.program(), back);
  shutdown(ends.remote(), SHUT_WR);
  EXPECT_TRUE(ends.comes_to(relay, Relay::State::kDone));
  EXPECT_TRUE(ends.until(relay, [&] { return ended(ends.program()); }));
  EXPECT_EQ(relay.to_peer(), there.size());
  EXPECT_EQ(relay.from_peer(), back.size());
}

TEST(SpliceRelay, EarlyOctetsComeFirst) {
  Ends ends;
  PipePool pool;
  SpliceRelay relay(ends.clear(), ends.peer(), pool);
  const Octets early = random_octets(SpliceRelay::kPrimeMax);
  ASSERT_TRUE(relay.prime(early));
  EXPECT_FALSE(relay.empty());
  ASSERT_EQ(send(ends.remote(), "!", 1, 0), 1);
  EXPECT_TRUE(ends.until(relay, [&] { return relay.from_peer() == early.size() + 1; }));
  Octets got(early.size() + 1);
  ASSERT_EQ(recv(ends.program(), got.data(), got.size(), MSG_WAITALL),
            static_cast<ssize_t>(got.size()));
  EXPECT_TRUE(std::equal(early.begin(), early.end(), got.begin()));
  EXPECT_EQ(got.back(), '!');
}

TEST(SpliceRelay, HoldsNoMoreThanAPipeWhileNobodyReads) {
  Ends ends;
  PipePool pool;
  SpliceRelay relay(ends.clear(), ends.peer(), pool);
  const Octets piece(65536);
  std::size_t sent = 0, idle = 0;
  while (idle < 50) {
    const ssize_t n = send(ends.program(), piece.data(), piece.size(), MSG_DONTWAIT);
    idle = n > 0 ? 0 : idle + 1;
    if (n > 0) sent += static_cast<std::size_t>(n);
    ASSERT_NE(ends.turn(relay), Relay::State::kBroken);
  }
  EXPECT_FALSE(relay.empty());
  EXPECT_LT(sent, 64U << 20) << "somewhere it must stop";
}

TEST(SpliceRelay, TellsWhoBrokeTheConnection) {
  for (const bool by_peer : {false, true}) {
    Ends ends;
    PipePool pool;
    SpliceRelay relay(ends.clear(), ends.peer(), pool);
    const linger now{.l_onoff = 1, .l_linger = 0};
    const int who = by_peer ? ends.remote() : ends.program();
    setsockopt(who, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    // As a close would reset it, but Ends still closes its own.
    const sockaddr unspecified{.sa_family = AF_UNSPEC, .sa_data = {}};
    ASSERT_EQ(connect(who, &unspecified, sizeof unspecified), 0);
    EXPECT_TRUE(ends.comes_to(relay, Relay::State::kBroken));
    EXPECT_EQ(relay.broken().by_peer, by_peer);
    EXPECT_EQ(relay.broken().error, ECONNRESET);
  }
}

// TlsEnds has TLS on the peer's side; the remote end speaks it too.
class TlsRelayTest : public testing::Test {
 protected:
  void SetUp() override {
    auto ours = make(false, ends_.peer().fd.get());
    far_ = make(true, ends_.remote());
    fcntl(ends_.remote(), F_SETFL, O_NONBLOCK);
    bool a = false, b = false;
    for (int i = 0; i < 10'000 && !(a && b); ++i) {
      a = a || SSL_do_handshake(ours.get()) == 1;
      b = b || SSL_do_handshake(far_.get()) == 1;
    }
    ASSERT_TRUE(a && b);
    relay_.emplace(ends_.clear(), ends_.peer(), std::move(ours), std::span<const std::uint8_t>());
  }
  keyx::SslPtr make(bool server, int fd) {
    auto& context = server ? server_ : client_;
    context = keyx::make_context({.server = server, .first_use = true});
    return std::move(*keyx::make_connection(*context, fd, ""));
  }

  Ends ends_;
  std::expected<keyx::TlsContext, keyx::Error> client_, server_;
  keyx::SslPtr far_;
  std::optional<TlsRelay> relay_;
};

TEST_F(TlsRelayTest, CarriesBothWaysAndEndsEachDirectionByItself) {
  const Octets octets = random_octets(1'000'000);
  Octets got;
  std::size_t sent = 0;
  std::uint8_t buffer[65536];
  while (got.size() < octets.size()) {
    const ssize_t n =
        send(ends_.program(), octets.data() + sent, octets.size() - sent, MSG_DONTWAIT);
    if (n > 0) sent += static_cast<std::size_t>(n);
    ASSERT_NE(ends_.turn(*relay_), Relay::State::kBroken);
    const int m = SSL_read(far_.get(), buffer, sizeof buffer);
    if (m > 0) got.insert(got.end(), buffer, buffer + m);
  }
  EXPECT_TRUE(got == octets);
  shutdown(ends_.program(), SHUT_WR);
  EXPECT_TRUE(ends_.until(*relay_, [&] {
    EXPECT_LE(SSL_read(far_.get(), buffer, sizeof buffer), 0);
    return SSL_get_shutdown(far_.get()) == SSL_RECEIVED_SHUTDOWN;
  }));
  ASSERT_EQ(SSL_write(far_.get(), "later", 5), 5);
  SSL_shutdown(far_.get());
  EXPECT_TRUE(ends_.comes_to(*relay_, Relay::State::kDone));
  ASSERT_EQ(recv(ends_.program(), buffer, 5, MSG_WAITALL), 5);
  EXPECT_TRUE(ends_.until(*relay_, [&] { return ended(ends_.program()); }));
  EXPECT_EQ(relay_->from_peer(), 5u);
}

TEST_F(TlsRelayTest, APeerThatSendsKeyUpdatesWithoutEndHasItsTurnAndNoMore) {
  const int on = 1;
  setsockopt(ends_.remote(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  for (unsigned i = 0; i < 1000; ++i) {
    ASSERT_EQ(SSL_key_update(far_.get(), SSL_KEY_UPDATE_NOT_REQUESTED), 1);
    ASSERT_EQ(SSL_do_handshake(far_.get()), 1);
  }
  ASSERT_EQ(SSL_write(far_.get(), "data", 4), 4);
  int left = 0;
  // kMore: epoll, edge-triggered, says nothing again of what is in the socket already.
  ASSERT_EQ(ends_.turn(*relay_), Relay::State::kMore);
  ASSERT_EQ(ioctl(ends_.peer().fd.get(), FIONREAD, &left), 0);
  EXPECT_GT(left, 0);
  for (unsigned i = 0; i < 1000 && relay_->turn() == Relay::State::kMore; ++i) {
  }
  char data[4];
  EXPECT_EQ(recv(ends_.program(), data, sizeof data, MSG_WAITALL), 4);
}

TEST_F(TlsRelayTest, AnEndOfTcpWithoutTheEndOfTlsIsABreak) {
  shutdown(ends_.remote(), SHUT_WR);
  EXPECT_TRUE(ends_.comes_to(*relay_, Relay::State::kBroken));
  EXPECT_TRUE(relay_->broken().by_peer);
  EXPECT_EQ(relay_->broken().error, 0);
}

}  // namespace
}  // namespace psp::proxy
