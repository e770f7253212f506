// SPDX-License-Identifier: Apache-2.0
//
// What an upgrade leaves to the application: its settings, its SSL; what it refuses; what the two
// ends announce to each other; and what it costs in round trips. Settings of SSL and socket are
// read before and behind; an SSL that is not fit must be refused before a word is said or a key is
// asked for. Round trips are counted by a relay that lets one side speak at a time. Real TLS over
// loopback, PSP is a model; kernel TLS is only pretended.
#include <gmock/gmock.h>

#include "test_ends.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::kBothDone;
using test::ModelOps;
using test::refused;
using test::Relay;
using test::Side;
using test::take;
using test::text;
using test::Two;
using test::unread;
using ::testing::HasSubstr;

TEST(Upgrade, TheSslIsOverUnderPspAndSaysNothingMore) {
  Two two;
  ASSERT_TRUE(two.shake());
  ASSERT_EQ(two.upgrade(), kBothDone);
  EXPECT_LE(SSL_write(two.client.ssl.get(), "oops", 4), 0);
  char octet = 0;
  EXPECT_LE(SSL_read(two.client.ssl.get(), &octet, 1), 0);
  SSL_key_update(two.client.ssl.get(), SSL_KEY_UPDATE_REQUESTED);
  SSL_shutdown(two.client.ssl.get());
  two.a.reset();
  SSL_shutdown(two.client.ssl.get());
  two.client.ssl.reset();
  usleep(2000);
  EXPECT_EQ(unread(two.server.fd.get()), 0);
  EXPECT_EQ(send(two.client.fd.get(), "psp", 3, 0), 3);
  ASSERT_TRUE(test::wait_readable(two.server.fd.get()));
  char data[4];
  EXPECT_EQ(recv(two.server.fd.get(), data, 4, 0), 3);
}

TEST(Upgrade, StayingOnTlsLeavesTheSslAsItWas) {
  Two two;
  ASSERT_TRUE(two.shake());
  SSL* const ssl = two.client.ssl.get();
  const int off = 0;
  ASSERT_EQ(setsockopt(two.client.fd.get(), IPPROTO_TCP, TCP_NODELAY, &off, sizeof off), 0);
  SSL_clear_mode(ssl, SSL_get_mode(ssl));
  SSL_set_mode(ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_set_read_ahead(ssl, 1);
  const long mode = SSL_get_mode(ssl);
  SSL_clear_options(ssl, SSL_OP_CLEANSE_PLAINTEXT);
  const auto options = SSL_get_options(ssl);
  // The server refuses when the client's KEY is out already, the hard case.
  two.server_ops.rx_fault = refused(ENOSPC, "no SPI");
  ASSERT_EQ(two.upgrade({.allow_tls = true}, {.allow_tls = true}), kBothDone);
  EXPECT_EQ(two.a->outcome().kind, Outcome::Kind::kTls);
  two.a.reset();
  EXPECT_EQ(SSL_get_mode(ssl), mode);
  EXPECT_EQ(SSL_get_options(ssl), options);
  EXPECT_EQ(SSL_get_read_ahead(ssl), 1);
  EXPECT_EQ(SSL_get_quiet_shutdown(ssl), 0);
  EXPECT_EQ(SSL_get_wfd(ssl), two.client.fd.get());
  int nodelay = -1;
  socklen_t size = sizeof nodelay;
  getsockopt(two.client.fd.get(), IPPROTO_TCP, TCP_NODELAY, &nodelay, &size);
  EXPECT_EQ(nodelay, 0);
  ASSERT_EQ(SSL_write(ssl, "hi", 2), 2);
  ASSERT_TRUE(test::wait_readable(two.server.fd.get()));
  char data[4];
  EXPECT_EQ(SSL_read(two.server.ssl.get(), data, sizeof data), 2);
}

TEST(Upgrade, AnUrgentPointerTakesNoOctetOutOfThePspStream) {
  // A clear segment from the way can move it; it stands when our KEY goes out, and stays.
  Two two;
  ASSERT_TRUE(two.shake());
  std::vector<int> when_keys_are_made;
  for (ModelOps* ops : {&two.client_ops, &two.server_ops})
    ops->on_rx_assoc = [&](int fd) { when_keys_are_made.push_back(test::urgent_inline(fd)); };
  ASSERT_EQ(two.upgrade(), kBothDone);
  EXPECT_EQ(when_keys_are_made, (std::vector<int>{1, 1}));
  two.a.reset();
  two.b.reset();
  ASSERT_EQ(send(two.client.fd.get(), "12345678", 8, MSG_OOB), 8);
  EXPECT_EQ(test::read_all(two.server.fd.get(), 8), "12345678");
}

TEST(Upgrade, WhereItStaysOnTlsUrgentDataIsAsBefore) {
  for (const int before : {0, 1}) {
    Two two;
    ASSERT_TRUE(two.shake());
    for (const Side* side : {&two.client, &two.server})
      setsockopt(side->fd.get(), SOL_SOCKET, SO_OOBINLINE, &before, sizeof before);
    two.server_ops.rx_fault = refused(ENOSPC, "no SPI");
    ASSERT_EQ(two.upgrade({.allow_tls = true}, {.allow_tls = true}), kBothDone);
    ASSERT_EQ(two.a->outcome().kind, Outcome::Kind::kTls);
    EXPECT_EQ(test::urgent_inline(two.client.fd.get()), before);
    EXPECT_EQ(test::urgent_inline(two.server.fd.get()), before);
  }
}

TEST(Upgrade, ReadAheadOfTheApplicationDoesNoHarm) {
  Two two;
  SSL_set_read_ahead(two.client.ssl.get(), 1);
  SSL_set_read_ahead(two.server.ssl.get(), 1);
  ASSERT_TRUE(two.shake());
  ASSERT_EQ(SSL_write(two.server.ssl.get(), "data", 4), 4);
  ASSERT_EQ(two.upgrade(), kBothDone) << two.a->error().message << two.b->error().message;
  EXPECT_EQ(take(*two.a), text("data"));
}

TEST(Upgrade, ASocketWithNagleIsUpgradedWithoutWaitingForAcknowledgements) {
  Two two;
  ASSERT_TRUE(two.shake());
  const int off = 0;
  setsockopt(two.client.fd.get(), IPPROTO_TCP, TCP_NODELAY, &off, sizeof off);
  two.a = make_upgrade(two.client.ssl.get(), two.client_ops, {});
  int nodelay = 0;
  socklen_t size = sizeof nodelay;
  getsockopt(two.client.fd.get(), IPPROTO_TCP, TCP_NODELAY, &nodelay, &size);
  EXPECT_NE(nodelay, 0);
  two.a.reset();
  getsockopt(two.client.fd.get(), IPPROTO_TCP, TCP_NODELAY, &nodelay, &size);
  EXPECT_EQ(nodelay, 0);
}

// expect_usage: an upgrade of this SSL is refused before a word is said or a key is asked for.
void expect_usage(SSL* ssl, int peer_fd, const char* words) {
  for (const Protocol protocol : {Protocol::kSoftpsp, Protocol::kFizzV0}) {
    ModelOps ops;
    const auto upgrade = make_upgrade(ssl, ops, {.versions = {1}, .protocol = protocol});
    ASSERT_EQ(upgrade->step(), Step::kFailed) << words;
    EXPECT_EQ(upgrade->error().code, ErrorCode::kUsage);
    EXPECT_THAT(upgrade->error().message, HasSubstr(words));
    EXPECT_EQ(ops.rx_calls, 0u);
    EXPECT_EQ(unread(peer_fd), 0);
  }
}

TEST(Upgrade, AnSslThroughAnotherKindOfBioIsRefused) {
  Two two;
  ASSERT_TRUE(two.shake());
  BIO* const filter = BIO_new(BIO_f_buffer());
  BIO* const socket = SSL_get_wbio(two.client.ssl.get());
  BIO_up_ref(socket);
  SSL_set0_wbio(two.client.ssl.get(), BIO_push(filter, socket));
  expect_usage(two.client.ssl.get(), two.server.fd.get(), "another kind of BIO");

  Two other;
  ASSERT_TRUE(other.shake());
  SSL_set_bio(other.client.ssl.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  expect_usage(other.client.ssl.get(), other.server.fd.get(), "another kind of BIO");
}

TEST(Upgrade, AnSslOnTwoSocketsIsRefused) {
  Two two;
  ASSERT_TRUE(two.shake());
  const test::Fd copy(dup(two.client.fd.get()));
  SSL_set_wfd(two.client.ssl.get(), copy.get());
  expect_usage(two.client.ssl.get(), two.server.fd.get(), "one socket");
}

TEST(Upgrade, AnUnfinishedHandshakeIsRefused) {
  Two two;
  expect_usage(two.client.ssl.get(), two.server.fd.get(), "not finished");
}

TEST(Upgrade, AnOlderTlsIsRefused) {
  Two two;
  for (SSL* ssl : {two.client.ssl.get(), two.server.ssl.get()}) {
    SSL_set_min_proto_version(ssl, TLS1_2_VERSION);
    SSL_set_max_proto_version(ssl, TLS1_2_VERSION);
  }
  ASSERT_TRUE(two.shake());
  expect_usage(two.client.ssl.get(), two.server.fd.get(), "TLS 1.3");
}

TEST(Upgrade, AnUnfinishedWriteIsRefused) {
  for (const bool read_between : {false, true}) {
    Two two;
    ASSERT_TRUE(two.shake());
    const Bytes much(16384, 'x');
    std::size_t n = 0;
    while (SSL_write_ex(two.client.ssl.get(), much.data(), much.size(), &n) == 1) {
    }
    ASSERT_EQ(SSL_get_error(two.client.ssl.get(), 0), SSL_ERROR_WANT_WRITE);
    char octet = 0;
    // A read in between hides it from SSL_want.
    if (read_between) SSL_read(two.client.ssl.get(), &octet, 1);
    ModelOps ops;
    Exchange exchange(two.client.ssl.get(), ops, {});
    ASSERT_EQ(exchange.step(), Step::kFailed);
    EXPECT_EQ(exchange.error().code, ErrorCode::kUsage) << exchange.error().message;
    EXPECT_THAT(exchange.error().message, HasSubstr("SSL_write is unfinished"));
    EXPECT_EQ(ops.rx_calls, 0u);
  }
}

TEST(Upgrade, AnSslThatWasShutDownIsRefused) {
  Two two;
  ASSERT_TRUE(two.shake());
  SSL_shutdown(two.client.ssl.get());
  ASSERT_TRUE(test::wait_readable(two.server.fd.get()));
  const int before = unread(two.server.fd.get());
  ModelOps ops;
  Exchange exchange(two.client.ssl.get(), ops, {});
  ASSERT_EQ(exchange.step(), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kUsage);
  EXPECT_EQ(unread(two.server.fd.get()), before);
}

// What OpenSSL notes when the kernel has taken over; most kernels that run this have no TLS to try.
TEST(Upgrade, KernelTlsIsRefused) {
  constexpr int kBioFlagKtlsTx = 0x4000, kBioFlagKtlsRx = 0x2000;
  for (const int flag : {kBioFlagKtlsTx, kBioFlagKtlsRx}) {
    Two two;
    ASSERT_TRUE(two.shake());
    SSL* ssl = two.client.ssl.get();
    BIO_set_flags(flag == kBioFlagKtlsTx ? SSL_get_wbio(ssl) : SSL_get_rbio(ssl), flag);
    expect_usage(ssl, two.server.fd.get(), "kTLS");
  }
}

TEST(Upgrade, AnnouncedOnBothEndsItGoesOn) {
  Two two(true, true);
  ASSERT_TRUE(two.shake());
  EXPECT_EQ(announced(two.client.ssl.get()), Announced::kYes);
  EXPECT_EQ(announced(two.server.ssl.get()), Announced::kYes);
  EXPECT_EQ(two.upgrade(), kBothDone);
  EXPECT_EQ(two.a->outcome().kind, Outcome::Kind::kPsp);
}

TEST(Upgrade, AnAnnouncementIsOfOneHandshake) {
  // One SSL for two connections: the first peer announces, the second does not.
  for (const bool reused_is_server : {true, false}) {
    Two first(true, true);
    ASSERT_TRUE(first.shake());
    Side& reused = reused_is_server ? first.server : first.client;
    ASSERT_EQ(announced(reused.ssl.get()), Announced::kYes);
    SSL_set_shutdown(reused.ssl.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    ASSERT_EQ(SSL_clear(reused.ssl.get()), 1);
    EXPECT_EQ(announced(reused.ssl.get()), Announced::kNo);
    auto [near, far] = test::tcp_pair();
    SSL_set_fd(reused.ssl.get(), near.get());
    reused.fd = std::move(near);
    Side plain(test::first_use_context(!reused_is_server), std::move(far));
    const auto [ra, rb] = test::shake(reused, plain);
    ASSERT_TRUE(ra && rb);
    EXPECT_EQ(announced(reused.ssl.get()), Announced::kNo);
  }
}

// to_other is a server-name callback: the context to go on with is its argument.
int to_other(SSL* ssl, int*, void* context) {
  return SSL_set_SSL_CTX(ssl, static_cast<SSL_CTX*>(context)) != nullptr ? SSL_TLSEXT_ERR_OK
                                                                         : SSL_TLSEXT_ERR_NOACK;
}

TEST(Upgrade, WhicheverContextAServerGoesOnWithBothEndsAgreeOnTheAnnouncement) {
  for (const bool by_first : {true, false})
    for (const bool by_second : {true, false})
      for (const bool by_client : {true, false}) {
        Two two(by_client, by_first);
        auto second = make_context({.server = true, .first_use = true});
        ASSERT_TRUE(!by_second || announce(second->ctx.get()));
        SSL_CTX* const first = two.server_context.ctx.get();
        SSL_CTX_set_tlsext_servername_callback(first, to_other);
        SSL_CTX_set_tlsext_servername_arg(first, second->ctx.get());
        ASSERT_TRUE(two.shake());
        ASSERT_EQ(SSL_get_SSL_CTX(two.server.ssl.get()), second->ctx.get());
        const Announced client = announced(two.client.ssl.get());
        const Announced server = announced(two.server.ssl.get());
        const bool all = by_first && by_second && by_client;
        EXPECT_EQ(client, !by_client ? Announced::kNotAsked
                          : all      ? Announced::kYes
                                     : Announced::kNo);
        EXPECT_EQ(server, !by_first && !by_second ? Announced::kNotAsked
                          : all                   ? Announced::kYes
                                                  : Announced::kNo)
            << by_first << by_second << by_client;
      }
}

TEST(Upgrade, WithoutThePeersAnnouncementItEndsAtOnceAndSaysNothing) {
  for (const bool by_server : {false, true})
    for (const bool allow_tls : {false, true}) {
      Two two(!by_server, by_server);
      ASSERT_TRUE(two.shake());
      Side& side = by_server ? two.server : two.client;
      Side& other = by_server ? two.client : two.server;
      EXPECT_EQ(announced(side.ssl.get()), Announced::kNo);
      EXPECT_EQ(announced(other.ssl.get()), Announced::kNotAsked);
      ModelOps ops;
      const auto upgrade = make_upgrade(side.ssl.get(), ops, {.allow_tls = allow_tls});
      EXPECT_EQ(upgrade->step(), allow_tls ? Step::kDone : Step::kFailed);
      if (allow_tls) {
        EXPECT_EQ(upgrade->outcome().kind, Outcome::Kind::kTls);
        EXPECT_THAT(upgrade->outcome().why_tls, HasSubstr("did not announce"));
      } else {
        EXPECT_EQ(upgrade->error().code, ErrorCode::kNoPsp);
      }
      // The first octet of TLS behind the handshake is the application's.
      ASSERT_EQ(SSL_write(side.ssl.get(), "x", 1), 1);
      ASSERT_TRUE(test::wait_readable(other.fd.get()));
      char data[64];
      EXPECT_EQ(SSL_read(other.ssl.get(), data, sizeof data), 1);
    }
}

TEST(Upgrade, AManInTheMiddleCannotTakeTheAnnouncementOut) {
  auto client_context = make_context({.server = false, .first_use = true});
  auto server_context = make_context({.server = true, .first_use = true});
  ASSERT_TRUE(announce(client_context->ctx.get()));
  ASSERT_TRUE(announce(server_context->ctx.get()));
  auto [near, far] = test::tcp_pair();
  auto [near2, far2] = test::tcp_pair();
  Relay relay(std::move(far), std::move(near2));
  bool changed = false;
  relay.tamper = [&](bool from_client, Bytes& piece) {
    const Bytes extension{0xff, 0x50, 0, 1};
    const auto at = std::search(piece.begin(), piece.end(), extension.begin(), extension.end());
    if (!from_client || changed || at == piece.end()) return;
    *(at + 1) = 0x51;  // now it is an extension that nobody knows
    changed = true;
  };
  Side client(*client_context, std::move(near)), server(*server_context, std::move(far2));
  const auto [a, b] = test::shake(client, server, &relay);
  EXPECT_TRUE(changed);
  EXPECT_FALSE(a && b);
  EXPECT_FALSE(a);
}

// Lockstep carries octets in flights: all that one side has said, then all of the other's.
TEST(Upgrade, TwoRoundTripsAreEnough) {
  for (const bool allow_tls : {false, true}) {
    Two two;
    ASSERT_TRUE(two.shake());
    // Between the ends now lies a wire that the test carries octets across.
    auto [a_wire, a_far] = test::tcp_pair();
    auto [b_far, b_wire] = test::tcp_pair();
    SSL_set_fd(two.client.ssl.get(), a_wire.get());
    SSL_set_fd(two.server.ssl.get(), b_wire.get());
    test::see_a_wire(two.client_ops, two.server_ops);
    const Policy policy{.allow_tls = allow_tls};
    const auto a = make_upgrade(two.client.ssl.get(), two.client_ops, policy);
    const auto b = make_upgrade(two.server.ssl.get(), two.server_ops, policy);
    const auto carry = [](const test::Fd& from, const test::Fd& to) {
      usleep(3000);  // what was sent is there by now
      Bytes octets(65536);
      const ssize_t n = recv(from.get(), octets.data(), octets.size(), 0);
      if (n > 0) send(to.get(), octets.data(), static_cast<std::size_t>(n), 0);
      usleep(3000);
    };
    unsigned flights = 0;
    Step ra = a->step(), rb = Step::kWantRead;
    while (flights < 20 && (ra != Step::kDone || rb != Step::kDone)) {
      ++flights;
      if (flights % 2 == 1) {
        carry(a_far, b_far);
        if (rb != Step::kDone) rb = b->step();
      } else {
        carry(b_far, a_far);
        if (ra != Step::kDone) ra = a->step();
      }
    }
    EXPECT_EQ(std::pair(ra, rb), kBothDone) << a->error().message << b->error().message;
    EXPECT_LE(flights, 4u);
  }
}

}  // namespace
}  // namespace psp::keyx
