// SPDX-License-Identifier: Apache-2.0
//
// What the application has sent before and during an upgrade is not lost: it waits in the upgrade,
// as much of it as the application has allowed, and nothing in it is taken for a message. Data has
// all lengths around a mark, a read and a record, and stands at every place between messages; what
// comes out is compared octet by octet. Real TLS over loopback, PSP is a model. Data behind the
// upgrade, under PSP: tests/tls.
#include <gmock/gmock.h>

#include "test_ends.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::kBothDone;
using test::kClientSpi;
using test::kServerSpi;
using test::ModelOps;
using test::refused;
using test::run;
using test::ScriptedPeer;
using test::server_key;
using test::Side;
using test::take;
using test::text;
using test::Two;

TEST(Upgrade, DataOfTheApplicationInFrontOfTheOfferIsKept) {
  // Whatever the sizes of records and reads: one octet, whole records, several of them.
  for (const std::size_t size : {1, 15, 16, 17, 527, 528, 529, 16384, 40000})
    for (const std::size_t at_once : {1, 4096}) {
      Two two;
      ASSERT_TRUE(two.shake());
      Bytes data(size);
      for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::uint8_t>(i * 7 + i / 256);
      std::size_t written = 0;
      for (std::size_t n = 0; written < size; written += n)
        ASSERT_EQ(SSL_write_ex(two.client.ssl.get(), data.data() + written, size - written, &n), 1);
      ASSERT_EQ(two.upgrade(), kBothDone) << size;
      EXPECT_EQ(two.b->pending(), size);
      EXPECT_EQ(take(*two.b, at_once), data);
      EXPECT_EQ(two.b->pending(), 0u);
      EXPECT_EQ(two.a->pending(), 0u);
    }
}

TEST(Upgrade, DataThatTheSslHoldsAlreadyIsKept) {
  Two two;
  ASSERT_TRUE(two.shake());
  ASSERT_EQ(SSL_write(two.server.ssl.get(), "0123456789", 10), 10);
  ASSERT_TRUE(test::wait_readable(two.client.fd.get()));
  char some[4];
  ASSERT_EQ(SSL_read(two.client.ssl.get(), some, 4), 4);  // the rest waits in the SSL
  ASSERT_EQ(two.upgrade(), kBothDone);
  EXPECT_EQ(take(*two.a), text("456789"));
}

TEST(Upgrade, DataBetweenOfferAndKeyIsKept) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say_raw(text("one "));
  peer.say(Offer{.versions = VersionSet::all()});
  peer.say_raw(text("two "));
  const auto key = serialize(server_key());
  // In one record with the key, and with beginnings of a mark that are none. An octet that does not
  // fit ends the second: else a mark whose first and last octets are the same would begin there.
  const Bytes mark = peer.marked({});
  Bytes data(mark.begin(), mark.begin() + kMarkSize / 2);
  data.insert(data.end(), mark.begin(), mark.end() - 1);
  data.push_back(static_cast<std::uint8_t>(~mark.back()));
  Bytes record = data;
  const Bytes message = peer.marked(key.span());
  record.insert(record.end(), message.begin(), message.end());
  peer.say_raw(record);
  peer.say_plain(peer.start(kClientSpi, kServerSpi));
  ASSERT_EQ(run(exchange, peer.client), Step::kDone) << exchange.error().message;
  Bytes want = text("one two ");
  want.insert(want.end(), data.begin(), data.end());
  EXPECT_EQ(take(exchange), want);
}

TEST(Upgrade, DataThatLooksLikeAMessageIsStillData) {
  // Whoever controls what the peer's application sends cannot forge a message: no mark.
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {.allow_tls = true});
  const auto forged = serialize(Offer{.versions = {}, .tls_allowed = true});
  peer.say_raw(forged.span());
  EXPECT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_STREQ(exchange.waiting_for(), "the peer's offer");
  shutdown(peer.own.fd.get(), SHUT_WR);  // its last octet may be that with which a mark begins
  EXPECT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(take(exchange), Bytes(forged.span().begin(), forged.span().end()));
}

TEST(Upgrade, DataBehindTheOfferIsKeptWhereBothStayOnTls) {
  Two two;
  ASSERT_TRUE(two.shake());
  two.server_ops.availability = {.versions = {}, .absence = Absence::kNoDevice, .reason = "none"};
  const Policy policy{.allow_tls = true};
  two.a = make_upgrade(two.client.ssl.get(), two.client_ops, policy);
  two.b = make_upgrade(two.server.ssl.get(), two.server_ops, policy);
  two.a->step();
  while (two.b->step() != Step::kDone) usleep(100);
  // The server is done and goes on at once; the client still waits for the offer.
  ASSERT_EQ(SSL_write(two.server.ssl.get(), "early", 5), 5);
  usleep(2000);
  ASSERT_EQ(run(*two.a, two.client), Step::kDone);
  ASSERT_EQ(SSL_write(two.server.ssl.get(), "late", 4), 4);
  Bytes all = take(*two.a);
  ASSERT_TRUE(test::wait_readable(two.client.fd.get()));
  Bytes more(16);
  for (int n = 0; (n = SSL_read(two.client.ssl.get(), more.data(), 16)) > 0;)
    all.insert(all.end(), more.begin(), more.begin() + n);
  EXPECT_EQ(all, text("earlylate"));
}

TEST(Upgrade, MarksAndMessagesMayBeCutAnywhere) {
  // Octet by octet; and in one record, at each place where a read of ours can end in a mark.
  for (std::size_t early = 0; early <= 530; early = early == 0 ? 490 : early + 1) {
    ScriptedPeer peer;
    ModelOps ops;
    Exchange exchange(peer.client.ssl.get(), ops, {});
    const Bytes data(early, 'x');
    Bytes record = data;
    const Bytes offer = peer.marked(serialize(Offer{.versions = VersionSet::all()}).span());
    record.insert(record.end(), offer.begin(), offer.end());
    if (early == 0)
      for (const std::uint8_t octet : record) peer.say_raw(Bytes{octet});
    else
      peer.say_raw(record);
    ASSERT_EQ(run(exchange, peer.client), Step::kWantRead) << early;
    EXPECT_STREQ(exchange.waiting_for(), "the peer's key") << early;
    EXPECT_EQ(take(exchange), data);
  }
}

TEST(Upgrade, DataInTheRecordOfTheOfferIsKeptWhereBothStayOnTls) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {.allow_tls = true});
  Bytes record = peer.marked(serialize(Offer{.versions = {}, .tls_allowed = true}).span());
  record.insert(record.end(), {'m', 'o', 'r', 'e'});
  peer.say_raw(record);
  ASSERT_EQ(run(exchange, peer.client), Step::kDone);
  EXPECT_EQ(exchange.outcome().kind, Outcome::Kind::kTls);
  EXPECT_EQ(take(exchange), text("more"));
}

// drain steps to the end or to a want, takes what is pending whenever it is asked to, and gives it.
// Each time exactly `early_max` octets must be there: neither more nor fewer.
Bytes drain(Exchange& exchange, const Side& side, std::size_t early_max, Step end) {
  Bytes all;
  Step step = Step::kWantDrain;
  while ((step = run(exchange, side)) == Step::kWantDrain) {
    EXPECT_EQ(exchange.pending(), early_max);
    EXPECT_FALSE(exchange.done());
    const Bytes some = take(exchange);
    if (some.empty()) break;
    all.insert(all.end(), some.begin(), some.end());
  }
  EXPECT_EQ(step, end);
  EXPECT_LE(exchange.pending(), early_max);
  const Bytes rest = take(exchange);
  all.insert(all.end(), rest.begin(), rest.end());
  return all;
}

TEST(Upgrade, TheApplicationIsAskedToDrainWhenMuchComesBeforeTheOffer) {
  // Whatever the bound, also less than a mark or a read of ours, it is kept to the octet.
  for (const std::size_t early_max : {1, 15, 16, 17, 527, 528, 529, 1000, 4999}) {
    ScriptedPeer peer;
    ModelOps ops;
    Exchange exchange(peer.client.ssl.get(), ops, {.early_max = early_max});
    const Bytes data(5000, 'x');
    peer.say_raw(data);
    peer.say(Offer{.versions = VersionSet::all()});
    EXPECT_EQ(drain(exchange, peer.client, early_max, Step::kWantRead), data) << early_max;
    EXPECT_STREQ(exchange.waiting_for(), "the peer's key");
  }
}

TEST(Upgrade, AsMuchAsEarlyMaxNeedsNoDraining) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {.early_max = 5000});
  const Bytes data(5000, 'x');
  peer.say_raw(data);
  peer.say(Offer{.versions = VersionSet::all()});
  ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_STREQ(exchange.waiting_for(), "the peer's key");
  EXPECT_EQ(take(exchange), data);
}

TEST(Upgrade, EarlyMaxHoldsForTheRecordOfTheOfferWhereBothStayOnTls) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {.allow_tls = true, .early_max = 100});
  Bytes record = peer.marked(serialize(Offer{.versions = {}, .tls_allowed = true}).span());
  const Bytes data(350, 'x');
  record.insert(record.end(), data.begin(), data.end());
  peer.say_raw(record);
  EXPECT_EQ(drain(exchange, peer.client, 100, Step::kDone), data);
  EXPECT_TRUE(exchange.done());
  EXPECT_EQ(exchange.outcome().kind, Outcome::Kind::kTls);
}

TEST(Upgrade, WhatWasKeptCanBeReadAfterAFailure) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  Bytes words = text("last words");
  words.push_back(peer.marked({})[0]);  // not the beginning of a mark, as the end tells
  peer.say_raw(words);
  shutdown(peer.own.fd.get(), SHUT_WR);
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kPeerClosed);
  EXPECT_EQ(take(exchange), words);
}

TEST(Upgrade, WhatCameWithTheOfferCanBeReadAfterAFailureUpToEarlyMax) {
  ScriptedPeer peer;
  ModelOps ops;
  ops.rx_fault = refused(ENOSPC, "no SPI");
  Exchange exchange(peer.client.ssl.get(), ops, {.early_max = 100});
  Bytes record = peer.marked(serialize(Offer{.versions = VersionSet::all()}).span());
  const Bytes data(350, 'x');
  record.insert(record.end(), data.begin(), data.end());
  peer.say_raw(record);
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kRxAssoc);
  EXPECT_EQ(take(exchange), Bytes(100, 'x'));
}

}  // namespace
}  // namespace psp::keyx
