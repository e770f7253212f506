// SPDX-License-Identifier: Apache-2.0
//
// Who stands between the two ends of a key exchange, or plays one of them, is found out: by START,
// which proves keys and addresses, and by TLS, which lets nobody change or drop an offer. Real TLS
// over real TCP with a relay between that changes what passes, and a peer that says what the test
// wants; PSP is a model. The attack that must fail is carried out each time. Not here: weaknesses
// of TLS, and of segments that a real PSP device would judge (tests/drill).
#include <gmock/gmock.h>

#include "test_ends.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::drive;
using test::kBothDone;
using test::kBothFailed;
using test::kClientSpi;
using test::kServerSpi;
using test::ModelOps;
using test::Pair;
using test::run;
using test::ScriptedPeer;
using test::Side;
using ::testing::HasSubstr;

TEST(Exchange, AStartThatDoesNotFitIsAnAttack) {
  struct Row {
    const char* what;
    std::function<Bytes(ScriptedPeer&)> start;
  };
  const Row table[] = {
      {"other SPI", [](ScriptedPeer& p) { return p.start(kClientSpi, Spi{1}); }},
      {"SPIs the other way round", [](ScriptedPeer& p) { return p.start(kServerSpi, kClientSpi); }},
      {"our own, reflected", [](ScriptedPeer& p) { return p.start(kClientSpi, kServerSpi, 0); }},
      {"of another TLS session",
       [](ScriptedPeer&) { return ScriptedPeer().start(kClientSpi, kServerSpi); }},
      {"with its beginning cut off",
       [](ScriptedPeer& p) {
         Bytes octets = p.start(kClientSpi, kServerSpi);
         octets.erase(octets.begin());
         octets.push_back('x');
         return octets;
       }},
  };
  for (const Row& row : table) {
    ScriptedPeer peer;
    ModelOps ops;
    Exchange exchange(peer.client.ssl.get(), ops, {});
    peer.say(Offer{.versions = VersionSet::all()});
    peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
    peer.say_plain(row.start(peer));
    ASSERT_EQ(run(exchange, peer.client), Step::kFailed) << row.what;
    EXPECT_EQ(exchange.error().code, ErrorCode::kAuthentication) << row.what;
  }
}

Ends ends(std::uint8_t local, std::uint8_t local_port, std::uint8_t remote,
          std::uint8_t remote_port) {
  Ends out;
  out.local[15] = local;
  out.local[17] = local_port;
  out.remote[15] = remote;
  out.remote[17] = remote_port;
  return out;
}

TEST(Exchange, WhoseOwnPacketsComeBackHasNoPeer) {
  // A (1) connects from port 8 to port 9 of B (2). Somebody on the way exchanges the addresses of
  // A's packets and sends them back to A, which listens at port 9 and has the same secret for both.
  Pair pair;
  pair.client_ops.ends_seen = ends(1, 8, 2, 9);
  pair.server_ops.ends_seen = ends(1, 9, 2, 8);
  ASSERT_EQ(pair.exchange(), kBothFailed);
  for (const Exchange* exchange : {&*pair.a, &*pair.b}) {
    EXPECT_EQ(exchange->error().code, ErrorCode::kAuthentication);
    EXPECT_THAT(exchange->error().message, HasSubstr("a reflection"));
  }
}

TEST(Exchange, EveryOctetOfBothEndsIsProven) {
  const Ends client = ends(1, 8, 2, 9), server = ends(2, 9, 1, 8);
  for (std::size_t i = 0; i < 2 * sizeof(End); ++i) {
    Pair pair;
    pair.client_ops.ends_seen = client;
    pair.server_ops.ends_seen = server;
    End& end =
        i < sizeof(End) ? pair.server_ops.ends_seen->local : pair.server_ops.ends_seen->remote;
    end[i % sizeof(End)] ^= 0x80;
    EXPECT_EQ(pair.exchange(), kBothFailed) << i;
    EXPECT_EQ(pair.a->error().code, ErrorCode::kAuthentication) << i;
  }
}

TEST(Exchange, WhoseAddressesAreTranslatedOnTheWayIsToldSo) {
  // The relay ends one connection and begins another, as NAT does to those who look.
  Pair pair(true);
  pair.client_ops.ends_seen.reset();
  pair.server_ops.ends_seen.reset();
  ASSERT_EQ(pair.exchange(), kBothFailed);
  EXPECT_EQ(pair.a->error().code, ErrorCode::kAuthentication);
  EXPECT_THAT(pair.a->error().message, HasSubstr("NAT"));
}

TEST(Exchange, ASocketOfEitherFamilyProvesTheSameAddresses) {
  struct Row {
    int client, server;
    const char* address;
  };
  for (const Row& row :
       {Row{AF_INET, AF_INET, "127.0.0.1"}, Row{AF_INET, AF_INET6, "127.0.0.1"},
        Row{AF_INET6, AF_INET, "::ffff:127.0.0.1"}, Row{AF_INET6, AF_INET6, "::ffff:127.0.0.1"},
        Row{AF_INET6, AF_INET6, "::1"}}) {
    auto [near, far] = test::tcp_pair(row.client, row.server, row.address);
    Side client(test::first_use_context(false), std::move(near));
    Side server(test::first_use_context(true), std::move(far));
    const auto [ra, rb] = test::shake(client, server);
    ASSERT_TRUE(ra && rb);
    ModelOps client_ops, server_ops;
    Exchange a(client.ssl.get(), client_ops, {}), b(server.ssl.get(), server_ops, {});
    EXPECT_EQ(drive(a, client, b, server), kBothDone) << row.address << a.error().message;
  }
}

TEST(Exchange, ASocketWithoutAddressesStaysOnTlsOrFails) {
  for (const bool allow_tls : {true, false}) {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    Side client(test::first_use_context(false), test::Fd(fds[0]));
    Side server(test::first_use_context(true), test::Fd(fds[1]));
    const auto [ra, rb] = test::shake(client, server);
    ASSERT_TRUE(ra && rb);
    ModelOps client_ops, server_ops;
    const Policy policy{.allow_tls = allow_tls};
    Exchange a(client.ssl.get(), client_ops, policy), b(server.ssl.get(), server_ops, policy);
    EXPECT_EQ(drive(a, client, b, server), allow_tls ? kBothDone : kBothFailed);
    EXPECT_THAT(allow_tls ? a.outcome().why_tls : a.error().message, HasSubstr("IP socket"));
    EXPECT_EQ(client_ops.rx_calls + server_ops.rx_calls, 0u);
  }
}

TEST(Exchange, AResetInPlaceOfStartFails) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say(Offer{.versions = VersionSet::all()});
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
  peer.own.fd.reset_connection();
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kPeerClosed);
  EXPECT_EQ(exchange.error().sys_errno, ECONNRESET);
}

TEST(Exchange, AManInTheMiddleCannotChangeAnOffer) {
  for (const bool from_client : {true, false}) {
    Pair pair(true);
    bool changed = false;
    pair.relay->tamper = [&](bool client_sent, Bytes& piece) {
      if (client_sent != from_client || changed) return;
      piece[piece.size() / 2] ^= 1;
      changed = true;
    };
    EXPECT_EQ(pair.exchange({.allow_tls = true}, {.allow_tls = true}), kBothFailed);
    EXPECT_TRUE(changed);
    const Exchange& victim = from_client ? *pair.b : *pair.a;
    EXPECT_EQ(victim.error().code, ErrorCode::kAuthentication) << victim.error().message;
    EXPECT_EQ(pair.client_ops.tx_calls + pair.server_ops.tx_calls, 0u);
  }
}

TEST(Exchange, AManInTheMiddleCannotDropAnOffer) {
  Pair pair(true);
  bool dropped = false;
  pair.relay->tamper = [&](bool client_sent, Bytes& piece) {
    if (!client_sent || dropped) return;
    dropped = true;
    piece.clear();
  };
  pair.a.emplace(pair.client.ssl.get(), pair.client_ops, Policy{.allow_tls = true});
  pair.b.emplace(pair.server.ssl.get(), pair.server_ops, Policy{.allow_tls = true});
  const auto [client, server] = drive(*pair.a, pair.client, *pair.b, pair.server, &*pair.relay);
  EXPECT_TRUE(dropped);
  EXPECT_EQ(server, Step::kFailed);
  EXPECT_EQ(pair.b->error().code, ErrorCode::kAuthentication);
}

}  // namespace
}  // namespace psp::keyx
