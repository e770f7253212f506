// SPDX-License-Identifier: Apache-2.0
//
// explain. The order of the checks is that of the device (src/datapath, src/device/engine.cc), the
// decisions of a socket those of the BPF programs (src/device/socket_state.h).
//
// The latter are the same source, compiled here, so they cannot say anything else. The former are
// written out again, for a device says no more than a reason: whoever changes the order there
// changes it here. conformance/corpus_test.cc compares the two on every packet of the corpus.
//
// Threading: one lane at a time, in the order of the file.
#include "explain.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "device/socket_state.h"
#include "wire/tcp.hh"

#include "commands.hh"
#include "pipeline.hh"
#include "problems.hh"

namespace psp::pcap_tool {
namespace {

using Json = nlohmann::ordered_json;
using Verdict = Explanation::Verdict;

Explanation drop(Drop reason, std::string_view why = {}) {
  Explanation explanation{.verdict = Verdict::kDrop, .reason = reason};
  explanation.why = why.empty() ? text(reason) : why;
  return explanation;
}

Explanation pass(std::string why) { return {.why = std::move(why)}; }

// event_of is the column of the state table for a clear TCP packet.
psp_rx_event event_of(std::span<const std::uint8_t> packet, const wire::IpHeader& ip) {
  const auto l4 = packet.subspan(ip.header_length, ip.total_length - ip.header_length);
  if (ip.fragment || !wire::is_tcp_segment(l4)) return PSP_RX_CLEAR_DATA;
  const std::uint8_t flags = l4[kTcpFlagsAt];
  psp_segment segment{};
  segment.payload = static_cast<std::uint32_t>(l4.size() - wire::tcp_header_length(l4.data()));
  segment.syn = (flags & kTcpSyn) != 0;
  segment.fin = (flags & kTcpFin) != 0;
  segment.urg = (flags & kTcpUrg) != 0;
  return static_cast<psp_rx_event>(psp_classify(&segment, false));
}

constexpr std::string_view event_text(psp_rx_event event) {
  switch (event) {
    case PSP_RX_CLEAR_DATA:
      return "clear data";
    case PSP_RX_CLEAR_CONTROL:
      return "clear control (no sequence space)";
    case PSP_RX_CLEAR_FIN:
      return "clear FIN";
    case PSP_RX_PSP_MATCH:
      return "PSP";
    default:
      return "PSP of another association";
  }
}

void ask_sockets(Explanation& explanation, psp_rx_event event) {
  for (unsigned state = 0; state < PSP_STATES; ++state) {
    auto& at = explanation.sockets[state];
    at.applies = true;
    const auto verdict = psp_rx_table[state][event];
    at.accepts = verdict != PSP_RX_DROP;
    if (verdict == PSP_RX_ACCEPT_AT_LATCH)
      at.note = "only where the stream ended at tx-assoc, else POLICY_CLEAR";
    if (verdict == PSP_RX_ACCEPT_PEER && state == PSP_STATE_TX) at.note = "becomes full";
    if (event == PSP_RX_PSP_MATCH && at.accepts && at.note.empty())
      at.note = "if SPI, version and generation are the socket's, else POLICY_MISMATCH";
    if (at.accepts) continue;
    at.reason = name(event == PSP_RX_PSP_MATCH ? Drop::POLICY_NO_ASSOC : Drop::POLICY_CLEAR);
  }
}

Explanation explain_clear(const Frame& frame) {
  if (frame.ip.protocol != wire::kProtocolTcp) return pass("not TCP and not PSP");
  Explanation explanation = pass("");
  const auto event = event_of(frame.packet, frame.ip);
  explanation.why = fmt::format("TCP without PSP: {}", event_text(event));
  ask_sockets(explanation, event);
  return explanation;
}

// version_bits is the version as the classifier reads it, before any length is looked at.
unsigned version_bits(const Frame& frame) {
  const std::size_t at = frame.ip.header_length + kUdpHeader + 3;
  return at < frame.packet.size() ? frame.packet[at] >> 2 & 15u : 0;
}

}  // namespace

Explanation Explainer::explain_other(const Frame& frame) const {
  switch (frame.what) {
    case Frame::What::kNotIp:
      return pass(std::string(frame.note));
    case Frame::What::kUnknown:
      return pass(fmt::format("NOT UNDERSTOOD: {}", frame.note));
    case Frame::What::kBroken:
      return pass(fmt::format("no good IP packet ({}): left to the stack", frame.why()));
    case Frame::What::kOther:
      return explain_clear(frame);
    case Frame::What::kPsp:
      break;
  }
  return pass("");
}

Explanation Explainer::explain_psp(const Frame& frame, const Opener::Opened& opened) const {
  if (frame.ip.fragment) return pass("a fragment is not PSP to the device: left to the stack");
  if (!frame.link.shim.empty())
    return pass(fmt::format("{}: the device looks at untagged packets only", frame.link.shim));
  const unsigned version = version_bits(frame);
  const bool wanted =
      version < kVersions ? enabled_.has(static_cast<Version>(version)) : enabled_ != VersionSet{};
  if (!wanted)
    return pass(fmt::format("version {} is not enabled: plain UDP, as with a NIC", version));
  if (opened.no_key) return drop(Drop::UNKNOWN_KEY, "no key for this SPI was given here");
  const bool tcp = !frame.drop && frame.psp.header.next_header == wire::kProtocolTcp;
  if (opened.drop && (tcp || !opened.authentic)) return drop(*opened.drop);
  if (frame.psp.header.drop_after_sampling) return drop(Drop::SAMPLED);
  if (!tcp)
    return drop(Drop::BAD_INNER, "authentic, but softpsp devices carry TCP in transport mode only");
  const auto l4 = clear().subspan(frame.ip.header_length);
  if (!wire::is_tcp_segment(l4)) return drop(Drop::BAD_INNER);
  Explanation explanation{.verdict = Verdict::kDeliver, .why = "ICV matches"};
  ask_sockets(explanation, PSP_RX_PSP_MATCH);
  return explanation;
}

namespace {

constexpr std::string_view verdict_text(Verdict verdict) {
  return verdict == Verdict::kPass ? "pass" : verdict == Verdict::kDrop ? "drop" : "deliver";
}

Json header_json(const wire::PspHeader& header) {
  Json json{{"next-header", header.next_header},
            {"ext-length", header.ext_length},
            {"crypt-offset", header.crypt_offset.units},
            {"version", header.version_number},
            {"sample", header.sample},
            {"drop-after-sampling", header.drop_after_sampling},
            {"spi", fmt::format("{:08x}", header.spi.value)},
            {"phase", header.spi.phase()},
            {"iv", header.iv}};
  if (header.cookie) json["cookie-on-wire"] = fmt::format("{:016x}", *header.cookie);
  return json;
}

Json to_json(std::uint64_t number, const Frame& frame, const Explanation& explanation) {
  Json json{{"packet", number}, {"length", frame.octets.size()}};
  if (frame.parts > 1) json["datagram"] = frame.part + 1, json["datagrams"] = frame.parts;
  if (!frame.link.tunnel.empty()) json["inside"] = frame.link.tunnel;
  if (frame.what == Frame::What::kUnknown) json["understood"] = false;
  json["verdict"] = verdict_text(explanation.verdict);
  if (explanation.reason) {
    json["reason"] = name(*explanation.reason);
    json["counter"] = counter_name(*explanation.reason);
  } else if (explanation.verdict == Verdict::kDeliver) {
    json["counter"] = "rx-packets";
  }
  json["why"] = explanation.why;
  if (frame.what == Frame::What::kPsp && !frame.drop) json["psp"] = header_json(frame.psp.header);
  if (!explanation.sockets[0].applies) return json;
  Json& states = json["states"] = Json::object();
  for (unsigned state = 0; state < PSP_STATES; ++state) {
    const auto& at = explanation.sockets[state];
    Json one{{"verdict", at.accepts ? "accept" : "drop"}};
    if (!at.reason.empty()) one["reason"] = at.reason;
    if (!at.note.empty()) one["note"] = at.note;
    states[psp_state_name(state)] = std::move(one);
  }
  return json;
}

std::string to_text(std::uint64_t number, const Frame& frame, const Explanation& explanation) {
  std::string lines = fmt::format("{}: {}", number, verdict_text(explanation.verdict));
  if (explanation.reason) {
    const auto counter = counter_name(*explanation.reason);
    lines += fmt::format(" {}{}", name(*explanation.reason),
                         counter.empty() ? "" : fmt::format(" ({})", counter));
  } else if (explanation.verdict == Verdict::kDeliver) {
    lines += " (rx-packets)";
  }
  lines += ": " + explanation.why;
  if (!frame.link.tunnel.empty()) lines += fmt::format(" (inside {})", frame.link.tunnel);
  if (frame.parts > 1) lines += fmt::format(" (datagram {} of {})", frame.part + 1, frame.parts);
  lines += "\n";
  if (frame.what == Frame::What::kPsp && !frame.drop) {
    const auto& h = frame.psp.header;
    lines += fmt::format(
        "    PSP version {} SPI {:08x} IV {} next header {} crypt offset {} length {}{}{}{}\n",
        h.version_number, h.spi.value, h.iv, h.next_header, h.crypt_offset.units, h.size(),
        h.cookie ? " VC" : "", h.sample ? " S" : "", h.drop_after_sampling ? " D" : "");
  }
  if (!explanation.sockets[0].applies) return lines;
  for (unsigned state = 0; state < PSP_STATES; ++state) {
    const auto& at = explanation.sockets[state];
    lines += fmt::format("    socket {:<5} {}{}{}{}\n", psp_state_name(state),
                         at.accepts ? "accept" : "drop ", at.reason.empty() ? "" : " ", at.reason,
                         at.note.empty() ? "" : fmt::format(": {}", at.note));
  }
  return lines;
}

}  // namespace

int run_explain(Job& job) {
  const Options& options = job.options;
  Opener opener(job.keys, crypto::EcnAtExit::kMerge);
  Explainer explainer(opener, options.enabled);
  Problems problems(options.quiet);
  Unread unread;
  auto writer = pcap::Writer::open("-", -1);
  if (!writer) {
    say("error: " + writer.error());
    return kExitFile;
  }
  const auto work = [&](Piece& piece) {
    for (const pcap::Record& record : piece.in.records) {
      if (record.kind == pcap::Record::Kind::kBroken)
        problems.add(record.number, "", record.problem);
      if (record.kind != pcap::Record::Kind::kPacket) continue;
      const Frame frame = look(record, piece.in.octets.span(), pcap::Reach::kTunnels);
      if (frame.what == Frame::What::kUnknown) unread.add(record.number, frame.note);
      explainer.explain(frame, [&](const Frame& one, const Explanation& explanation) {
        const std::string out = options.json
                                    ? to_json(record.number, one, explanation).dump() + "\n"
                                    : to_text(record.number, one, explanation);
        piece.out.append({reinterpret_cast<const std::uint8_t*>(out.data()), out.size()});
      });
    }
  };
  const auto ran = run_pipeline(job.reader, &*writer, {.begin = work});
  problems.flush();
  if (!options.quiet) unread.tell();
  if (const auto failure = failure_of(job.reader, ran); !failure.empty()) {
    say("error: " + failure);
    return kExitFile;
  }
  return problems.count() != 0 ? kExitPackets : unread.count() != 0 ? kExitUnread : kExitOk;
}

}  // namespace psp::pcap_tool
