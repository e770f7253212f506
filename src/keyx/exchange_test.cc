// SPDX-License-Identifier: Apache-2.0
//
// The key exchange over real TCP and TLS: the good way, and every exit of the state machine. PSP is
// a model (test_peer.hh) with faults to order, so octets behind tx-assoc travel in clear and can be
// counted. Shown is what each end says, to its user and to the other end, and that no failure
// leaves a key installed or a word behind KEY. Attacks: exchange_attack_test.cc; records between:
// exchange_records_test.cc; pspd: tests/tls.
#include <gmock/gmock.h>

#include "keyx/client_ops.hh"

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
using test::refused;
using test::run;
using test::ScriptedPeer;
using test::Side;
using test::unread;
using ::testing::HasSubstr;

TEST(Exchange, BothEndsInstallEachOthersKeyUnderTheSameVersion) {
  Pair pair;
  ASSERT_EQ(pair.exchange(), kBothDone);
  for (const Exchange* end : {&*pair.a, &*pair.b}) {
    EXPECT_EQ(end->outcome().kind, Outcome::Kind::kPsp);
    EXPECT_EQ(end->outcome().version, Version::kAesGcm256);
  }
  EXPECT_EQ(pair.client_ops.tx_spi, kServerSpi);
  EXPECT_EQ(pair.server_ops.tx_spi, kClientSpi);
  EXPECT_EQ(pair.client_ops.tx_key, pair.server_ops.rx_key_given);
  EXPECT_EQ(pair.server_ops.tx_key, pair.client_ops.rx_key_given);
  EXPECT_EQ(pair.a->outcome().rx_spi, kClientSpi);
  EXPECT_EQ(pair.a->outcome().dev_id, ModelOps::kDevId);
  EXPECT_TRUE(pair.a->outcome().proven && pair.b->outcome().proven);
  EXPECT_EQ(pair.a->outcome().tx_spi, kServerSpi);
}

TEST(Exchange, NoOctetBehindStartIsTakenAndNoneIsSentWhenTlsIsFreed) {
  ScriptedPeer peer;
  ModelOps ops;
  std::optional<Exchange> exchange(std::in_place, peer.client.ssl.get(), ops, Policy{});
  peer.say(Offer{.versions = VersionSet::all()});
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  Bytes octets = peer.start(kClientSpi, kServerSpi);
  octets.insert(octets.end(), {'d', 'a', 't', 'a'});
  peer.say_plain(octets);
  ASSERT_EQ(run(*exchange, peer.client), Step::kDone);
  char data[16];
  EXPECT_EQ(recv(peer.client.fd.get(), data, sizeof data, 0), 4);

  ASSERT_TRUE(peer.hear());  // offer
  ASSERT_TRUE(peer.hear());  // key
  ASSERT_TRUE(test::wait_readable(peer.own.fd.get()));
  exchange.reset();
  SSL_shutdown(peer.client.ssl.get());
  peer.client.ssl.reset();
  EXPECT_EQ(unread(peer.own.fd.get()), 40) << "START and nothing else may follow KEY";
}

struct Choice {
  std::uint32_t a, b;
  std::optional<Version> want;
};

TEST(Exchange, TheBestCommonVersionIsChosenWhoeverComputesIt) {
  const Choice table[] = {
      {0xf, 0xf, Version::kAesGcm256},  {0xf, 0xd, Version::kAesGcm128},
      {0xc, 0xf, Version::kAesGmac256}, {0x4, 0xf, Version::kAesGmac128},
      {0x3, 0x1, Version::kAesGcm128},  {0x3, 0xc, std::nullopt},
      {0x0, 0xf, std::nullopt},         {0x9, 0x9, Version::kAesGcm128},
  };
  for (const Choice& row : table) {
    EXPECT_EQ(choose_version({row.a}, {row.b}), row.want) << row.a << " " << row.b;
    EXPECT_EQ(choose_version({row.b}, {row.a}), row.want) << row.b << " " << row.a;
  }
}

TEST(Exchange, APolicyOfOneEndRestrictsBoth) {
  for (unsigned i = 0; i < kVersions; ++i) {
    Pair pair;
    ASSERT_EQ(pair.exchange({.versions = {1u << i}}, {.versions = VersionSet::all()}), kBothDone)
        << i;
    EXPECT_EQ(pair.a->outcome().version, static_cast<Version>(i));
    EXPECT_EQ(pair.b->outcome().version, static_cast<Version>(i));
    EXPECT_EQ(pair.server_ops.version, static_cast<Version>(i));
  }
}

TEST(Exchange, WithoutACommonVersionBothFailAndNameBothReasons) {
  for (const bool client_tls : {false, true})
    for (const bool server_tls : {false, true}) {
      if (client_tls && server_tls) continue;
      Pair pair;
      pair.server_ops.availability = {.versions = {},
                                      .absence = Absence::kDisabled,
                                      .reason = "the PSP device of eth0 has receive disabled"};
      ASSERT_EQ(pair.exchange({.allow_tls = client_tls}, {.allow_tls = server_tls}), kBothFailed);
      for (const Exchange* end : {&*pair.a, &*pair.b}) {
        EXPECT_EQ(end->error().code, ErrorCode::kNoPsp);
        EXPECT_THAT(end->error().message, HasSubstr("eth0 has receive disabled"));
      }
      EXPECT_EQ(pair.client_ops.rx_calls + pair.server_ops.rx_calls, 0u);
    }
}

TEST(Exchange, WithoutACommonVersionBothStayOnTlsIfBothAllowIt) {
  Pair pair;
  pair.client_ops.availability.versions = {0x1};
  pair.server_ops.availability.versions = {0x2};
  ASSERT_EQ(pair.exchange({.allow_tls = true}, {.allow_tls = true}), kBothDone);
  EXPECT_EQ(pair.a->outcome().kind, Outcome::Kind::kTls);
  EXPECT_EQ(pair.b->outcome().kind, Outcome::Kind::kTls);
  EXPECT_THAT(pair.a->outcome().why_tls, HasSubstr("hdr0-aes-gcm-256"));
  EXPECT_EQ(SSL_write(pair.client.ssl.get(), "hi", 2), 2);
  ASSERT_TRUE(test::wait_readable(pair.server.fd.get()));
  char data[4];
  EXPECT_EQ(SSL_read(pair.server.ssl.get(), data, sizeof data), 2);
}

TEST(Exchange, PspIsTakenWhereItCanBeHadEvenIfTlsIsAllowed) {
  Pair pair;
  ASSERT_EQ(pair.exchange({.allow_tls = true}, {.allow_tls = true}), kBothDone);
  EXPECT_EQ(pair.a->outcome().kind, Outcome::Kind::kPsp);
}

TEST(Exchange, APolicyThatTheDeviceCannotMeetIsSaid) {
  Pair pair;
  pair.client_ops.availability.versions = {0x1};
  ASSERT_EQ(pair.exchange({.versions = {0x2}}, {}), kBothFailed);
  EXPECT_THAT(pair.b->error().message, HasSubstr("only hdr0-aes-gcm-256 is allowed"));
}

TEST(Exchange, RxAssocFailsAndThePeerLearnsWhy) {
  // One end's permission to stay on TLS is not enough, whichever end it is.
  for (const auto& [client_tls, server_tls] :
       {std::pair(false, false), std::pair(true, false), std::pair(false, true)}) {
    Pair pair;
    pair.server_ops.rx_fault = refused(ENOSPC, "rx-assoc: SPI space exhausted");
    ASSERT_EQ(pair.exchange({.allow_tls = client_tls}, {.allow_tls = server_tls}), kBothFailed);
    EXPECT_EQ(pair.b->error().code, ErrorCode::kRxAssoc);
    EXPECT_EQ(pair.b->error().sys_errno, ENOSPC);
    EXPECT_EQ(pair.a->error().code, ErrorCode::kPeerRefused);
    EXPECT_THAT(pair.a->error().message, HasSubstr("SPI space exhausted"));
    EXPECT_EQ(pair.client_ops.tx_calls, 0u);
  }
}

TEST(Exchange, RxAssocFailsAndBothStayOnTlsIfBothAllowIt) {
  for (const bool on_both : {false, true}) {
    Pair pair;
    pair.server_ops.rx_fault = refused(ENOSPC, "SPI space exhausted");
    if (on_both) pair.client_ops.rx_fault = pair.server_ops.rx_fault;
    ASSERT_EQ(pair.exchange({.allow_tls = true}, {.allow_tls = true}), kBothDone);
    for (const Exchange* end : {&*pair.a, &*pair.b}) {
      EXPECT_EQ(end->outcome().kind, Outcome::Kind::kTls);
      EXPECT_THAT(end->outcome().why_tls, HasSubstr("SPI space exhausted"));
    }
    char data[4];
    EXPECT_EQ(SSL_write(pair.client.ssl.get(), "hi", 2), 2);
    EXPECT_EQ(SSL_write(pair.server.ssl.get(), "ho!", 3), 3);
    ASSERT_TRUE(test::wait_readable(pair.server.fd.get()));
    ASSERT_TRUE(test::wait_readable(pair.client.fd.get()));
    EXPECT_EQ(SSL_read(pair.server.ssl.get(), data, sizeof data), 2);
    EXPECT_EQ(SSL_read(pair.client.ssl.get(), data, sizeof data), 3);
  }
}

TEST(Exchange, AnUnusableKeyFromTheDeviceIsNeverSent) {
  Pair pair;
  pair.client_ops.rx_key = KeyInfo{Spi{1}, crypto::SaKey(Bytes(16, 1))};  // version 1 needs 32
  ASSERT_EQ(pair.exchange(), kBothFailed);
  EXPECT_EQ(pair.a->error().code, ErrorCode::kRxAssoc);
  EXPECT_EQ(pair.b->error().code, ErrorCode::kPeerRefused);
}

TEST(Exchange, WritingFailsWhenThePeerHasReset) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.own.fd.reset_connection();
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kPeerClosed);
}

TEST(Exchange, ASilentPeerIsNamedByWhatIsMissing) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  EXPECT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_STREQ(exchange.waiting_for(), "the peer's offer");
  peer.say(Offer{.versions = VersionSet::all()});
  EXPECT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_STREQ(exchange.waiting_for(), "the peer's key");
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  EXPECT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_THAT(exchange.waiting_for(), HasSubstr("start of PSP"));
  EXPECT_EQ(ops.tx_calls, 1u);
}

// Script says, in front of an end of file, so many octets of the peer's part.
void say_then_hang_up(ScriptedPeer& peer, std::size_t offer, std::size_t key, std::size_t start) {
  const auto part = [](std::span<const std::uint8_t> all, std::size_t n) {
    return all.first(std::min(n, all.size()));
  };
  const auto offer_octets = serialize(Offer{.versions = VersionSet::all()});
  const auto key_octets =
      serialize(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  if (offer > 0) peer.say_raw(part(peer.marked(offer_octets.span()), offer));
  if (key > 0) peer.say_raw(part(peer.marked(key_octets.span()), key));
  if (start > 0) peer.say_plain(part(peer.start(kClientSpi, kServerSpi), start));
  // Take what the exchange has said already, else closing sends an RST.
  shutdown(peer.own.fd.get(), SHUT_WR);
}

TEST(Exchange, EndOfFileInEachStepFails) {
  constexpr std::size_t kAll = 1000;
  const std::size_t table[][3] = {{0, 0, 0},       {3, 0, 0},       {9, 0, 0},
                                  {kAll, 0, 0},    {kAll, 5, 0},    {kAll, 20, 0},
                                  {kAll, kAll, 0}, {kAll, kAll, 1}, {kAll, kAll, 39}};
  for (const auto& row : table) {
    ScriptedPeer peer;
    ModelOps ops;
    Exchange exchange(peer.client.ssl.get(), ops, {});
    say_then_hang_up(peer, row[0], row[1], row[2]);
    ASSERT_EQ(run(exchange, peer.client), Step::kFailed) << row[0] << row[1] << row[2];
    EXPECT_EQ(exchange.error().code, ErrorCode::kPeerClosed) << exchange.error().message;
    EXPECT_EQ(ops.tx_calls, row[1] == kAll ? 1u : 0u);
  }
}

TEST(Exchange, CancelledInEachStepItLeavesTheSocketOpen) {
  constexpr std::size_t kAll = 1000;
  const std::size_t table[][3] = {
      {0, 0, 0}, {5, 0, 0}, {kAll, 0, 0}, {kAll, 20, 0}, {kAll, kAll, 9}};
  for (const auto& row : table) {
    ScriptedPeer peer;
    ModelOps ops;
    {
      Exchange exchange(peer.client.ssl.get(), ops, {});
      if (row[0] > 0) say_then_hang_up(peer, row[0], row[1], row[2]);
      exchange.step();
    }
    EXPECT_NE(fcntl(peer.client.fd.get(), F_GETFD), -1);
  }
}

TEST(Exchange, CloseNotifyInsteadOfAnOfferIsTheEndToo) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  SSL_shutdown(peer.own.ssl.get());
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kPeerClosed);
}

struct BadOffer {
  const char* what;
  Bytes octets;
  std::optional<Refusal> told;  // what the peer hears
};

TEST(Exchange, AMalformedOfferFailsAndThePeerHearsIt) {
  const BadOffer table[] = {
      {"another message", {'G', 'E', 'T', ' ', '/', ' ', 'H', 'T'}, std::nullopt},
      {"a later version", {'P', 'S', 'P', 'X', 9, 1, 0, 0}, Refusal::kOtherVersion},
      {"the version before", {'P', 'S', 'P', 'X', 1, 1, 0, 0}, Refusal::kOtherVersion},
      {"too long", {'P', 'S', 'P', 'X', 2, 1, 0xff, 0xff}, Refusal::kMalformed},
      {"empty", {'P', 'S', 'P', 'X', 2, 1, 0, 0}, Refusal::kMalformed},
      {"a field past the end", {'P', 'S', 'P', 'X', 2, 1, 0, 2, 0x81, 4}, Refusal::kMalformed},
      {"an unknown type", {'P', 'S', 'P', 'X', 2, 99, 0, 0}, Refusal::kMalformed},
  };
  for (const BadOffer& row : table) {
    ScriptedPeer peer;
    ModelOps ops;
    Exchange exchange(peer.client.ssl.get(), ops, {});
    peer.say_message(row.octets);
    ASSERT_EQ(run(exchange, peer.client), Step::kFailed) << row.what;
    EXPECT_EQ(exchange.error().code, ErrorCode::kProtocol) << row.what;
    EXPECT_EQ(ops.rx_calls, 0u);
    peer.client.fd.reset();
    ASSERT_TRUE(peer.hear());  // the offer
    const auto told = peer.hear();
    ASSERT_EQ(told.has_value(), row.told.has_value()) << row.what;
    if (told) {
      EXPECT_EQ(std::get<ErrorMessage>(*told).code, *row.told) << row.what;
    }
  }
}

TEST(Exchange, AKeyInPlaceOfAnOfferFails) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kProtocol);
}

TEST(Exchange, AnErrorInPlaceOfAnOfferIsPassedOn) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say(ErrorMessage{Refusal::kOtherVersion, "too\nnew"});
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kPeerRefused);
  EXPECT_THAT(exchange.error().message, HasSubstr("too?new"));
}

TEST(Exchange, ABadKeyIsNeverInstalledAndNothingFollowsOurOwn) {
  const auto key = [](Version version, std::uint32_t spi, std::size_t length) {
    const auto octets = serialize(KeyMessage{version, Spi{spi}, crypto::SaKey(Bytes(length, 7))});
    return Bytes(octets.span().begin(), octets.span().end());
  };
  const auto offer = serialize(Offer{.versions = VersionSet::all()});
  const Bytes table[] = {
      key(Version::kAesGcm256, 0, 32),            // SPI 0
      key(Version::kAesGcm256, 0x8000'0000, 32),  // SPI 0 in the other phase
      key(Version::kAesGcm256, 1, 16),            // key too short
      key(Version::kAesGcm128, 1, 16),            // not the version agreed upon
      {'P', 'S', 'P', 'X', 1, 2, 0xff, 0xff},     // too long
      Bytes(offer.span().begin(), offer.span().end()),
  };
  for (const Bytes& octets : table) {
    ScriptedPeer peer;
    ModelOps ops;
    Exchange exchange(peer.client.ssl.get(), ops, {});
    peer.say(Offer{.versions = VersionSet::all()});
    peer.say_message(octets);
    ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
    EXPECT_EQ(exchange.error().code, ErrorCode::kProtocol) << exchange.error().message;
    EXPECT_EQ(ops.tx_calls, 0u);
    ASSERT_TRUE(peer.hear());  // offer
    ASSERT_TRUE(peer.hear());  // key
    EXPECT_EQ(unread(peer.own.fd.get()), 0);
  }
}

TEST(Exchange, TxAssocIsTriedAgainWhileClearDataDrains) {
  Pair pair;
  pair.client_ops.tx_faults = {refused(EBUSY, "busy"), refused(EBUSY, "busy")};
  ASSERT_EQ(pair.exchange(), kBothDone);
  EXPECT_EQ(pair.client_ops.tx_calls, 3u);
}

TEST(Exchange, TxAssocThatStaysBusyMeansClearDataAfterTheKey) {
  Pair pair;
  pair.client_ops.tx_faults.assign(100, refused(EBUSY, "incompatible segments"));
  ASSERT_EQ(pair.exchange(), kBothFailed);
  EXPECT_EQ(pair.a->error().code, ErrorCode::kClearData);
  EXPECT_THAT(pair.a->error().message, HasSubstr("sent clear data after its key"));
  EXPECT_EQ(pair.client_ops.tx_calls, kTxAssocTries);
  EXPECT_EQ(pair.b->error().code, ErrorCode::kPeerClosed);
}

TEST(Exchange, TxAssocFailsForAnotherReason) {
  Pair pair;
  pair.client_ops.tx_faults = {refused(ENODEV, "tx-assoc: the device has gone")};
  ASSERT_EQ(pair.exchange(), kBothFailed);
  EXPECT_EQ(pair.a->error().code, ErrorCode::kTxAssoc);
  EXPECT_EQ(pair.a->error().sys_errno, ENODEV);
  EXPECT_EQ(pair.client_ops.tx_calls, 1u);
  EXPECT_THAT(pair.b->error().message, HasSubstr("before its start of PSP"));
}

TEST(Exchange, ADeviceThatVanishesFailsInEachStep) {
  const ClientError gone = refused(ENODEV, "the device has gone");
  {
    Pair pair;
    pair.client_ops.availability = {
        .versions = {}, .absence = Absence::kNoDevice, .reason = "eth0 has no PSP device"};
    ASSERT_EQ(pair.exchange(), kBothFailed);
    EXPECT_EQ(pair.a->error().code, ErrorCode::kNoPsp);
    EXPECT_EQ(pair.b->error().code, ErrorCode::kNoPsp);
  }
  {
    Pair pair;
    pair.client_ops.rx_fault = gone;
    ASSERT_EQ(pair.exchange(), kBothFailed);
    EXPECT_EQ(pair.a->error().code, ErrorCode::kRxAssoc);
    EXPECT_EQ(pair.a->error().sys_errno, ENODEV);
    EXPECT_EQ(pair.b->error().code, ErrorCode::kPeerRefused);
  }
  for (const bool of_server : {false, true}) {
    Pair pair;
    (of_server ? pair.server_ops : pair.client_ops).tx_faults = {gone};
    ASSERT_EQ(pair.exchange(), kBothFailed);
    EXPECT_EQ((of_server ? *pair.b : *pair.a).error().code, ErrorCode::kTxAssoc);
    EXPECT_EQ((of_server ? *pair.a : *pair.b).error().code, ErrorCode::kPeerClosed);
  }
}

TEST(Exchange, IfThePeersKeysDieInTheMiddleNobodyIsDone) {
  // Two rotations of the server's device between its KEY and our START: what we seal is dropped.
  Pair pair(true);
  pair.relay->tamper = [](bool from_client, Bytes& piece) {
    const Bytes start{'P', 'S', 'P', 'S'};
    const auto at = std::search(piece.begin(), piece.end(), start.begin(), start.end());
    if (from_client) piece.erase(at, piece.end());
  };
  pair.a.emplace(pair.client.ssl.get(), pair.client_ops, Policy{.allow_tls = true});
  pair.b.emplace(pair.server.ssl.get(), pair.server_ops, Policy{.allow_tls = true});
  Step server = Step::kWantRead;
  for (int i = 0; i < 300; ++i) {
    pair.a->step();
    server = pair.b->step();
    pair.relay->pump();
    usleep(50);
  }
  EXPECT_EQ(server, Step::kWantRead);
  EXPECT_THAT(pair.b->waiting_for(), HasSubstr("start of PSP"));
  EXPECT_EQ(pair.server_ops.tx_calls, 1u);
}

TEST(Exchange, OneOctetAtATimeIsEnough) {
  Pair pair(true);
  pair.relay->chunk = 1;
  EXPECT_EQ(pair.exchange(), kBothDone);
  EXPECT_EQ(pair.client_ops.tx_spi, kServerSpi);
}

TEST(Exchange, BlockingSocketsNeedNoWaiting) {
  Pair pair;
  for (const Side* side : {&pair.client, &pair.server}) fcntl(side->fd.get(), F_SETFL, 0);
  const pid_t child = fork();
  if (child == 0) {
    Exchange server(pair.server.ssl.get(), pair.server_ops, {});
    _exit(server.step() == Step::kDone ? 0 : 1);
  }
  Exchange client(pair.client.ssl.get(), pair.client_ops, {});
  EXPECT_EQ(client.step(), Step::kDone);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Exchange, BeforeTheHandshakeItIsRefused) {
  auto [a, b] = test::tcp_pair();
  Side client(test::first_use_context(false), std::move(a));
  ModelOps ops;
  Exchange exchange(client.ssl.get(), ops, {});
  ASSERT_EQ(exchange.step(), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kUsage);
}

TEST(Exchange, WithoutPspOnTheHostTheReasonTravels) {
  Pair pair;
  AbsentOps none(Absence::kNoProvider, "no pspd answers at @softpsp");
  Exchange a(pair.client.ssl.get(), none, {});
  Exchange b(pair.server.ssl.get(), pair.server_ops, {});
  EXPECT_EQ(drive(a, pair.client, b, pair.server), kBothFailed);
  EXPECT_THAT(b.error().message,
              HasSubstr("the other end cannot receive PSP: no pspd answers at @softpsp"));
  EXPECT_THAT(a.error().message, HasSubstr("this end cannot receive PSP"));
}

}  // namespace
}  // namespace psp::keyx
