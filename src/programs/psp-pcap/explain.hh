// SPDX-License-Identifier: Apache-2.0
//
// What a host with softpsp would do with a packet that arrives, and why: the device's verdict, then
// the socket's in each of its states. All states are told, since a capture does not show in which
// one the socket was.
//
// An Explainer is used by one thread. What it explains lies in its own buffers: clear() is good
// until the next call of explain.
#pragma once

#include <array>
#include <string>

#include "device/state_table.h"

#include "frames.hh"

namespace psp::pcap_tool {

// Explanation of one packet.
struct Explanation {
  enum class Verdict : std::uint8_t {
    kPass,     // nothing of PSP happens: it goes up the stack as it is
    kDrop,     // the device drops it
    kDeliver,  // opened, goes to its socket
  };
  // What a socket in one state does.
  struct AtSocket {
    bool applies = false;
    bool accepts = false;
    std::string_view reason = {};  // drop reason, or empty
    std::string_view note = {};
  };
  Verdict verdict = Verdict::kPass;
  std::optional<Drop> reason = {};
  std::string why = {};
  std::array<AtSocket, PSP_STATES> sockets = {};  // by psp_state
};

// Explainer follows a device with those versions enabled and the keys of the opener.
class Explainer {
 public:
  Explainer(Opener& opener, VersionSet enabled) : opener_(opener), enabled_(enabled) {}
  // explain judges a frame, or each of the datagrams that are joined in it: take(frame,
  // explanation).
  // clear() is then the opened packet, if there is one.
  template <typename Take>
  void explain(const Frame& frame, Take take) {
    clear_size_ = 0;
    if (frame.what != Frame::What::kPsp) return take(frame, explain_other(frame));
    clear_.resize(frame.packet.size());
    const auto room = [&]() -> std::span<std::uint8_t> { return {clear_.data(), clear_.size()}; };
    opener_.open_each(frame, room, [&](const Frame& one, const Opener::Opened& opened) {
      clear_size_ = opened.size;
      take(one, explain_psp(one, opened));
    });
  }
  std::span<const std::uint8_t> clear() const { return clear_.span().first(clear_size_); }

 private:
  Explanation explain_other(const Frame& frame) const;
  Explanation explain_psp(const Frame& frame, const Opener::Opened& opened) const;
  Opener& opener_;
  VersionSet enabled_;
  pcap::Buffer clear_;
  std::size_t clear_size_ = 0;
};

}  // namespace psp::pcap_tool
