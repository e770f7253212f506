// SPDX-License-Identifier: Apache-2.0
//
// The relay of connections that stay on TLS, where the policy is "preferred": through OpenSSL and
// two buffers.
//
// Threading: one thread.
#pragma once

#include <array>
#include <vector>

#include "keyx/tls.hh"

#include "relay.hh"

namespace psp::proxy {

class TlsRelay final : public Relay {
 public:
  static constexpr std::size_t kRoom = 16384;  // of what is on its way, each way

  // `early` is what the peer has sent before all that `ssl` still gives; at most kRoom octets.
  TlsRelay(Socket& clear, Socket& peer, keyx::SslPtr ssl, std::span<const std::uint8_t> early);
  ~TlsRelay() override;

  State turn() override;
  bool empty() const override { return outward_.empty() && inward_.empty(); }
  std::uint64_t to_peer() const override { return to_peer_; }
  std::uint64_t from_peer() const override { return from_peer_; }

 private:
  struct Buffer {
    std::array<std::uint8_t, kRoom> octets;
    std::size_t begin = 0, end = 0;
    bool empty() const { return begin == end; }
    void filled(std::size_t n) {
      begin = 0;
      end = n;
    }
  };
  // Io is what became of one call.
  enum class Io { kMoved, kEnded, kBlocked, kBroken };

  Io read_clear();
  Io write_clear();
  Io read_peer();
  Io write_peer();
  Io end_peer();
  Io tls_result(int result);
  Io broke(bool by_peer, int error);
  Io step_outward();
  Io step_inward();

  Socket& clear_;
  Socket& peer_;
  keyx::SslPtr ssl_;
  Buffer outward_, inward_;
  bool clear_ended_ = false, peer_ended_ = false, outward_done_ = false, inward_done_ = false;
  std::uint64_t to_peer_ = 0, from_peer_ = 0;
};

}  // namespace psp::proxy
