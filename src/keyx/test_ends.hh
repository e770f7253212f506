// SPDX-License-Identifier: Apache-2.0
//
// Two ends of a connection that have shaken hands, each with a model of PSP, as the tests of the
// exchange need them: Pair for Exchange itself, Two for what make_upgrade() gives, with TLS
// contexts that a test may change; and what both say and come to.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "test_peer.hh"

namespace psp::keyx::test {

constexpr Spi kClientSpi{0x8000'0101};  // ModelOps' first
constexpr Spi kServerSpi{0x0000'0202};
constexpr std::pair<Step, Step> kBothDone{Step::kDone, Step::kDone};
constexpr std::pair<Step, Step> kBothFailed{Step::kFailed, Step::kFailed};

inline Bytes text(std::string_view from) { return {from.begin(), from.end()}; }

inline Bytes take(Upgrade& upgrade, std::size_t at_once = 4096) {
  Bytes out, piece(at_once);
  while (const std::size_t n = upgrade.read(piece))
    out.insert(out.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(n));
  return out;
}

inline KeyMessage server_key() {
  return {Version::kAesGcm256, kServerSpi, crypto::SaKey(Bytes(32, 7))};
}

// Pair is two ends that have shaken hands, with a model of PSP each.
struct Pair {
  explicit Pair(bool with_relay = false) {
    auto [near, far] = tcp_pair();
    if (with_relay) {
      auto [near2, far2] = tcp_pair();
      relay.emplace(std::move(far), std::move(near2));
      far = std::move(far2);
      see_a_wire(client_ops, server_ops);
    }
    client = Side(first_use_context(false), std::move(near));
    server = Side(first_use_context(true), std::move(far));
    auto [ra, rb] = test::shake(client, server, relay ? &*relay : nullptr);
    EXPECT_TRUE(ra && rb);
    server_ops.next_spi = kServerSpi;
  }
  std::pair<Step, Step> exchange(Policy client_policy = {}, Policy server_policy = {}) {
    a.emplace(client.ssl.get(), client_ops, client_policy);
    b.emplace(server.ssl.get(), server_ops, server_policy);
    return drive(*a, client, *b, server, relay ? &*relay : nullptr);
  }
  std::optional<Relay> relay;
  Side client, server;
  ModelOps client_ops, server_ops;
  std::optional<Exchange> a, b;
};

// Two is two ends after the handshake, with contexts of the test's own.
struct Two {
  explicit Two(bool client_announces = false, bool server_announces = false) {
    auto client_made = make_context({.server = false, .first_use = true});
    auto server_made = make_context({.server = true, .first_use = true});
    client_context = std::move(*client_made);
    server_context = std::move(*server_made);
    EXPECT_TRUE(!client_announces || announce(client_context.ctx.get()));
    EXPECT_TRUE(!server_announces || announce(server_context.ctx.get()));
    auto [near, far] = tcp_pair();
    client = Side(client_context, std::move(near));
    server = Side(server_context, std::move(far));
    server_ops.next_spi = kServerSpi;
  }
  bool shake() {
    const auto [ra, rb] = test::shake(client, server);
    return ra && rb;
  }
  std::pair<Step, Step> upgrade(const Policy& client_policy = {},
                                const Policy& server_policy = {}) {
    a = make_upgrade(client.ssl.get(), client_ops, client_policy);
    b = make_upgrade(server.ssl.get(), server_ops, server_policy);
    return drive(*a, client, *b, server);
  }
  TlsContext client_context, server_context;
  Side client, server;
  ModelOps client_ops, server_ops;
  std::unique_ptr<Upgrade> a, b;
};

}  // namespace psp::keyx::test
