// SPDX-License-Identifier: Apache-2.0
//
// What comes between and behind the messages of a key exchange: data, tickets, KeyUpdates without
// end, close_notify, records that are none. It is kept, drained or refused, and ends no step late.
// Real TLS over loopback; the peer is played by the test with OpenSSL's own calls, PSP is a model
// that is busy while the socket holds clear octets. That a step ends in time is shown by what it
// leaves unread, not by a clock.
#include <gmock/gmock.h>

#include "test_ends.hh"

namespace psp::keyx {
namespace {

using test::Bytes;
using test::drive;
using test::kBothDone;
using test::kClientSpi;
using test::kServerSpi;
using test::ModelOps;
using test::run;
using test::ScriptedPeer;
using test::Side;
using test::unread;
using ::testing::HasSubstr;

TEST(Exchange, MoreInTheRecordOfTheKeyIsRefused) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say(Offer{.versions = VersionSet::all()});
  const auto key =
      serialize(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  Bytes octets(key.span().begin(), key.span().end());
  octets.push_back('x');
  peer.say_message(octets);
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_EQ(exchange.error().code, ErrorCode::kClearData);
  EXPECT_EQ(ops.tx_calls, 0u);
}

// Behind is what a peer's TLS says behind its key, while it still can be read.
struct Behind {
  const char* what;
  std::function<void(ScriptedPeer&)> say;
  bool harmless;
};

TEST(Exchange, WhatComesBehindTheKeyIsDrainedIfItIsNotData) {
  const Behind table[] = {
      {"nothing", [](ScriptedPeer&) {}, true},
      {"a close_notify", [](ScriptedPeer& p) { SSL_shutdown(p.own.ssl.get()); }, true},
      {"a ticket",
       [](ScriptedPeer& p) {
         SSL_new_session_ticket(p.own.ssl.get());
         SSL_do_handshake(p.own.ssl.get());
       },
       true},
      {"a KeyUpdate that asks for ours",
       [](ScriptedPeer& p) {
         SSL_key_update(p.own.ssl.get(), SSL_KEY_UPDATE_REQUESTED);
         SSL_do_handshake(p.own.ssl.get());
       },
       true},
      {"application data", [](ScriptedPeer& p) { p.say_raw(Bytes{'x'}); }, false},
      {"data behind a close_notify",
       [](ScriptedPeer& p) {
         SSL_shutdown(p.own.ssl.get());
         p.say_plain(Bytes{23, 3, 3, 0, 1, 'x'});
       },
       false},
      {"half a record",
       [](ScriptedPeer& p) {
         p.say_plain(Bytes{23, 3, 3, 0, 99, 'x'});
       },
       false},
      {"a record that does not authenticate",
       [](ScriptedPeer& p) {
         Bytes record(5 + 30, 'x');
         record[0] = 21, record[1] = record[2] = 3, record[3] = 0, record[4] = 30;
         p.say_plain(record);
       },
       false},
      {"something else", [](ScriptedPeer& p) { p.say_plain(Bytes(40, 'x')); }, false},
  };
  for (const Behind& row : table) {
    ScriptedPeer peer;
    SSL_clear_options(peer.own.ssl.get(), SSL_OP_NO_TICKET);
    ModelOps ops;
    ops.busy_while_unread = true;
    Exchange exchange(peer.client.ssl.get(), ops, {});
    peer.say(Offer{.versions = VersionSet::all()});
    ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
    peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
    row.say(peer);
    const Step step = run(exchange, peer.client);
    ASSERT_TRUE(peer.hear());  // offer
    ASSERT_TRUE(peer.hear());  // key
    if (row.harmless) {
      ASSERT_EQ(step, Step::kWantRead) << row.what << ": " << exchange.error().message;
      EXPECT_EQ(ops.tx_spi, kServerSpi) << row.what;
      peer.say_plain(peer.start(kClientSpi, kServerSpi));
      EXPECT_EQ(run(exchange, peer.client), Step::kDone) << row.what;
      EXPECT_EQ(unread(peer.own.fd.get()), static_cast<int>(kStartSize))
          << row.what << ": an answer went out in clear";
    } else {
      EXPECT_EQ(step, Step::kFailed) << row.what;
      EXPECT_FALSE(ops.tx_spi) << row.what;
      EXPECT_NE(exchange.error().code, ErrorCode::kIo) << row.what;
      EXPECT_EQ(unread(peer.own.fd.get()), 0) << row.what;
    }
  }
}

TEST(Exchange, ADrainedRecordIsFollowedByAnotherTryAtOnce) {
  ScriptedPeer peer;
  ModelOps ops;
  ops.busy_while_unread = true;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say(Offer{.versions = VersionSet::all()});
  ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  SSL_shutdown(peer.own.ssl.get());
  ASSERT_TRUE(test::wait_readable(peer.client.fd.get()));
  usleep(2000);
  EXPECT_EQ(exchange.step(), Step::kWantRead);
  EXPECT_EQ(ops.tx_calls, 2u);
}

TEST(Exchange, KeyUpdatesDuringTheExchangeDoNoHarm) {
  for (const int kind : {SSL_KEY_UPDATE_REQUESTED, SSL_KEY_UPDATE_NOT_REQUESTED})
    for (const bool before_offer : {true, false}) {
      ScriptedPeer peer;
      ModelOps ops;
      Exchange exchange(peer.client.ssl.get(), ops, {});
      if (before_offer) SSL_key_update(peer.own.ssl.get(), kind);
      peer.say(Offer{.versions = VersionSet::all()});
      ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
      if (!before_offer) SSL_key_update(peer.own.ssl.get(), kind);
      peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
      ASSERT_EQ(run(exchange, peer.client), Step::kWantRead) << exchange.error().message;
      peer.say_plain(peer.start(kClientSpi, kServerSpi));
      ASSERT_EQ(run(exchange, peer.client), Step::kDone);
      ASSERT_TRUE(peer.hear());
      ASSERT_TRUE(peer.hear());
      EXPECT_EQ(unread(peer.own.fd.get()), static_cast<int>(kStartSize));
    }
}

TEST(Exchange, KeyUpdatesWithoutEndEndNoStepLate) {
  // OpenSSL by itself would go round in SSL_read for as long as they come.
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  ASSERT_TRUE(test::key_updates(peer.own.ssl.get(), 1000));
  ASSERT_TRUE(test::wait_readable(peer.client.fd.get()));
  ASSERT_EQ(exchange.step(), Step::kWantRetry);
  EXPECT_STREQ(exchange.waiting_for(), "the peer's offer");
  const int left = unread(peer.client.fd.get());
  EXPECT_GT(left, 0);
  exchange.step();
  EXPECT_LT(unread(peer.client.fd.get()), left);
  // If they do end, nothing is lost.
  peer.say(Offer{.versions = VersionSet::all()});
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  peer.say_plain(peer.start(kClientSpi, kServerSpi));
  EXPECT_EQ(run(exchange, peer.client), Step::kDone) << exchange.error().message;
}

TEST(Exchange, OnABlockingSocketAStepGoesOnThroughThem) {
  ScriptedPeer peer;
  ModelOps ops;
  ASSERT_TRUE(test::key_updates(peer.own.ssl.get(), 1000));
  peer.say(Offer{.versions = VersionSet::all()});
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  peer.say_plain(peer.start(kClientSpi, kServerSpi));
  fcntl(peer.client.fd.get(), F_SETFL, 0);
  Exchange exchange(peer.client.ssl.get(), ops, {});
  EXPECT_EQ(exchange.step(), Step::kDone) << exchange.error().message;
}

TEST(Exchange, ManySmallRecordsOfTheApplicationEndNoStepLate) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  for (unsigned i = 0; i < 1000; ++i) peer.say_raw(Bytes{'x'});
  ASSERT_TRUE(test::wait_readable(peer.client.fd.get()));
  ASSERT_EQ(exchange.step(), Step::kWantRetry);
  EXPECT_GT(unread(peer.client.fd.get()), 0);
  peer.say(Offer{.versions = VersionSet::all()});
  ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_STREQ(exchange.waiting_for(), "the peer's key");
  EXPECT_EQ(exchange.pending(), 1000u);
}

TEST(Exchange, AnswersToKeyUpdatesBehindOurKeyAreKeptNowhere) {
  ScriptedPeer peer;
  ModelOps ops;
  Exchange exchange(peer.client.ssl.get(), ops, {.allow_tls = true});
  peer.say(Offer{.versions = VersionSet::all(), .tls_allowed = true});
  ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
  ASSERT_TRUE(test::key_updates(peer.own.ssl.get(), 1000, SSL_KEY_UPDATE_REQUESTED));
  ASSERT_EQ(run(exchange, peer.client), Step::kWantRead);
  EXPECT_EQ(unread(peer.client.fd.get()), 0);
  EXPECT_EQ(BIO_pending(SSL_get_wbio(peer.client.ssl.get())), 0);
  // That something was to be said is known: this SSL cannot go on.
  peer.say(ErrorMessage{Refusal::kRxAssoc, "no SPI"});
  ASSERT_EQ(run(exchange, peer.client), Step::kFailed);
  EXPECT_THAT(exchange.error().message, HasSubstr("KeyUpdate"));
}

TEST(Exchange, KeyUpdatesBehindThePeersKeyEndNoStepLate) {
  ScriptedPeer peer;
  ModelOps ops;
  ops.busy_while_unread = true;
  Exchange exchange(peer.client.ssl.get(), ops, {});
  peer.say(Offer{.versions = VersionSet::all()});
  peer.say(KeyMessage{Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))});
  ASSERT_TRUE(test::key_updates(peer.own.ssl.get(), 1000));
  ASSERT_TRUE(test::wait_readable(peer.client.fd.get()));
  ASSERT_EQ(exchange.step(), Step::kWantRetry);
  EXPECT_GT(unread(peer.client.fd.get()), 0);
  EXPECT_STREQ(exchange.waiting_for(), "clear data to leave the receive queue");
  EXPECT_LT(ops.tx_calls, 16u);
}

TEST(Exchange, ACallbackOfTheApplicationOnItsBioIsCalledAndStays) {
  unsigned calls = 0;  // outlives the peer, whose BIO counts
  ScriptedPeer peer;
  ModelOps ops;
  const BIO_callback_fn_ex count = [](BIO* bio, int, const char*, std::size_t, int, long,
                                      int result, std::size_t*) -> long {
    ++*reinterpret_cast<unsigned*>(BIO_get_callback_arg(bio));
    return result;
  };
  BIO* const bio = SSL_get_rbio(peer.client.ssl.get());
  BIO_set_callback_ex(bio, count);
  BIO_set_callback_arg(bio, reinterpret_cast<char*>(&calls));
  const auto modes = SSL_get_mode(peer.client.ssl.get());
  {
    Exchange exchange(peer.client.ssl.get(), ops, {});
    ASSERT_EQ(exchange.step(), Step::kWantRead);
    EXPECT_GT(calls, 0u);
    EXPECT_EQ(BIO_get_callback_ex(bio), count);
    EXPECT_EQ(BIO_get_callback_arg(bio), reinterpret_cast<char*>(&calls));
  }
  EXPECT_EQ(SSL_get_mode(peer.client.ssl.get()), modes);
}

TEST(Exchange, SessionTicketsInFrontOfTheOfferDoNoHarm) {
  auto [a, b] = test::tcp_pair();
  Side client(test::first_use_context(false), std::move(a));
  Side server(test::first_use_context(true), std::move(b));
  SSL_clear_options(server.ssl.get(), SSL_OP_NO_TICKET);
  SSL_set_num_tickets(server.ssl.get(), 2);
  auto [ra, rb] = test::shake(client, server);
  ASSERT_TRUE(ra && rb);
  ModelOps client_ops, server_ops;
  Exchange x(client.ssl.get(), client_ops, {}), y(server.ssl.get(), server_ops, {});
  EXPECT_EQ(drive(x, client, y, server), kBothDone);
}

}  // namespace
}  // namespace psp::keyx
