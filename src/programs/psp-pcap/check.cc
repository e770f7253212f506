// SPDX-License-Identifier: Apache-2.0
//
// check: every PSP packet of a capture against the protocol, summed up by flow. A flow is what goes
// from one address to another under one version and SPI.
//
// A capture can come from anybody, and hold more flows than memory: above a bound they are counted
// in one, and IVs are remembered within a budget; what was not judged is said, never passed over.
// The threat that matters most is an IV used twice under a key with other content: GCM then gives
// both texts away. The same packet twice is a duplicate of the network. Without keys the ICVs are
// not checked, and the last line says so.
//
// Threading: one lane at a time, in the order of the file (run_pipeline's `begin`).
#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <nlohmann/json.hpp>

#include "base/counted.hh"
#include "wire/bytes.hh"

#include "checksums.hh"
#include "commands.hh"
#include "iv_tracker.hh"
#include "pipeline.hh"
#include "problems.hh"

namespace psp::pcap_tool {
namespace {

using Json = nlohmann::ordered_json;

// kMaxFlows: more than that are summed up in one.
constexpr std::size_t kMaxFlows = 65536;

struct FlowKey {
  std::uint8_t family = 0;
  wire::IpAddress source = {}, destination = {};
  std::uint8_t version = 0;
  std::uint32_t spi = 0;
  friend auto operator<=>(const FlowKey&, const FlowKey&) = default;
};

struct Flow {
  std::uint64_t packets = 0, octets = 0;
  std::uint64_t icv_good = 0, icv_wrong = 0, icv_unchecked = 0;
  std::uint64_t reserved_bits = 0, sample = 0, drop_after = 0, cookies = 0, tunnel = 0;
  std::uint64_t udp_sum_zero = 0, udp_sum_incomplete = 0, udp_sum_wrong = 0, inner_sum_wrong = 0;
  std::uint64_t iv_first = 0, iv_last = 0;
  std::uint64_t iv_late = 0, duplicates = 0, iv_reused = 0, iv_unknown = 0;
  std::map<Drop, std::uint64_t> drops;
  std::map<std::uint32_t, IvTracker> ivs;  // by key
};

class Checker {
 public:
  explicit Checker(const Job& job)
      : options_(job.options),
        have_keys_(!job.keys.empty()),
        opener_(job.keys, crypto::EcnAtExit::kMerge),
        problems_(options_.quiet),
        progress_(options_.progress, job.reader.size()) {}

  void work(Piece& piece) {
    for (const pcap::Record& record : piece.in.records) {
      octets_ += record.size;
      if (record.kind == pcap::Record::Kind::kBroken) {
        ++packets_;
        problems_.add(record.number, "", record.problem);
      }
      if (record.kind == pcap::Record::Kind::kPacket) take(record, piece.in.octets.span());
    }
    progress_.tick(octets_, packets_);
  }
  int finish(const pcap::Reader& reader, std::expected<void, std::string> ran);

 private:
  void take(const pcap::Record& record, std::span<const std::uint8_t> octets);
  void take_datagram(std::uint64_t number, const Frame& frame, const Opener::Opened& opened);
  Flow& flow_of(const Frame& frame);
  void check_outside(std::uint64_t number, const Frame& frame, Flow& flow);
  void check_icv(std::uint64_t number, const Frame& frame, const Opener::Opened& opened,
                 Flow& flow);
  void check_iv(std::uint64_t number, const Frame& frame, std::uint32_t key, Flow& flow);
  void check_inside(std::uint64_t number, Flow& flow, std::size_t size);
  bool nothing() const { return psp_ == 0 && problems_.count() == 0; }
  std::string to_text() const;
  Json to_json() const;

  const Options& options_;
  bool have_keys_;
  Opener opener_;
  Problems problems_;
  Progress progress_;
  pcap::Buffer clear_;
  std::map<FlowKey, Flow> flows_;
  Flow others_;
  IvTracker::Budget budget_;
  Unread unread_;
  std::uint64_t octets_ = 0, packets_ = 0, not_psp_ = 0, psp_ = 0, without_flow_ = 0, joined_ = 0;
};

Flow& Checker::flow_of(const Frame& frame) {
  FlowKey key{.family = frame.ip.family,
              .destination = destination_of(frame).octets,
              .version = frame.psp.header.version_number,
              .spi = frame.psp.header.spi.value};
  const std::size_t size = frame.ip.family == 4 ? 4 : 16;
  std::copy_n(frame.packet.data() + (frame.ip.family == 4 ? 12 : 8), size, key.source.begin());
  const auto found = flows_.find(key);
  if (found != flows_.end()) return found->second;
  return flows_.size() < kMaxFlows ? flows_[key] : others_;
}

void Checker::take(const pcap::Record& record, std::span<const std::uint8_t> octets) {
  ++packets_;
  const Frame frame = look(record, octets, pcap::Reach::kTunnels);
  if (frame.what == Frame::What::kUnknown) return unread_.add(record.number, frame.note);
  if (frame.what == Frame::What::kNotIp || frame.what == Frame::What::kOther) {
    ++not_psp_;
    return;
  }
  if (frame.what == Frame::What::kBroken) return take_datagram(record.number, frame, {});
  clear_.resize(frame.packet.size());
  const auto room = [&]() -> std::span<std::uint8_t> { return {clear_.data(), clear_.size()}; };
  opener_.open_each(frame, room, [&](const Frame& one, const Opener::Opened& opened) {
    joined_ += one.part == 0 && one.parts > 1;
    take_datagram(record.number, one, opened);
  });
}

void Checker::take_datagram(std::uint64_t number, const Frame& frame,
                            const Opener::Opened& opened) {
  if (frame.drop) {
    ++without_flow_;
    return problems_.add(number, name(*frame.drop), frame.why());
  }
  ++psp_;
  Flow& flow = flow_of(frame);
  ++flow.packets;
  flow.octets += frame.ip.total_length;
  check_outside(number, frame, flow);
  check_icv(number, frame, opened, flow);
}

void Checker::check_outside(std::uint64_t number, const Frame& frame, Flow& flow) {
  const auto& header = frame.psp.header;
  const std::uint8_t reserved = frame.packet[frame.psp.psp_offset + 2] & 0xc0;
  flow.sample += header.sample;
  flow.drop_after += header.drop_after_sampling;
  flow.cookies += header.cookie.has_value();
  flow.tunnel += wire::is_tunnel(header.next_header);
  if (reserved != 0) {
    ++flow.reserved_bits;
    problems_.add(number, "", "reserved bits are set");
  }
  const Sum sum = l4_checksum(frame.packet, frame.ip);
  // The one checksum of a joined packet is not that of any datagram in it.
  switch (sum != Sum::kNone && frame.parts > 1 ? Sum::kIncomplete : sum) {
    case Sum::kNone:
      ++flow.udp_sum_zero;
      break;
    case Sum::kIncomplete:
      ++flow.udp_sum_incomplete;
      break;
    case Sum::kWrong:
      ++flow.udp_sum_wrong;
      problems_.add(number, "", "UDP checksum is wrong");
      break;
    case Sum::kGood:
      break;
  }
}

void Checker::check_icv(std::uint64_t number, const Frame& frame, const Opener::Opened& opened,
                        Flow& flow) {
  if (opened.no_key) {
    ++flow.icv_unchecked;
    if (have_keys_) problems_.add(number, "", opened.note);
    // Without a key nobody knows which packets are real; their IVs are looked at all the same.
    return check_iv(number, frame, 0, flow);
  }
  if (opened.authentic) {
    ++flow.icv_good;
    check_iv(number, frame, opened.entry, flow);
  }
  if (opened.drop) {
    ++flow.drops[*opened.drop];
    flow.icv_wrong += opened.drop == Drop::AUTH_FAIL;
    return problems_.add(number, name(*opened.drop), text(*opened.drop));
  }
  check_inside(number, flow, opened.size);
}

void Checker::check_iv(std::uint64_t number, const Frame& frame, std::uint32_t key, Flow& flow) {
  const std::uint64_t iv = frame.psp.header.iv;
  if (flow.packets == 1) flow.iv_first = iv;
  flow.iv_last = iv;
  if (&flow == &others_) {
    ++flow.iv_unknown;
    return;
  }
  const auto tag = wire::load_be<std::uint64_t>(frame.packet.data() + frame.psp.icv_offset);
  switch (flow.ivs[key].add(iv, tag, budget_)) {
    case IvTracker::Verdict::kIncreasing:
      break;
    case IvTracker::Verdict::kLate:
      ++flow.iv_late;
      break;
    case IvTracker::Verdict::kDuplicate:
      ++flow.duplicates;
      break;
    case IvTracker::Verdict::kReused:
      ++flow.iv_reused;
      problems_.add(number, "", "IV used before under the same key, with other content");
      break;
    case IvTracker::Verdict::kUnknown:
      ++flow.iv_unknown;
      break;
  }
}

void Checker::check_inside(std::uint64_t number, Flow& flow, std::size_t size) {
  const std::span<const std::uint8_t> clear(clear_.data(), size);
  const auto ip = wire::parse_ip(clear);
  if (!ip) return problems_.add(number, name(ip.error()), "what is inside is no IP packet");
  // What was sealed incomplete nobody completes any more.
  const Sum sum = l4_checksum(clear, *ip);
  if (ip_checksum(clear, *ip) != Sum::kWrong && (sum == Sum::kGood || sum == Sum::kNone)) return;
  ++flow.inner_sum_wrong;
  problems_.add(number, "", "a checksum inside is wrong");
}

Json flow_json(const Flow& flow) {
  Json drops = Json::object();
  for (const auto& [reason, count] : flow.drops) drops[std::string(name(reason))] = count;
  return {{"packets", flow.packets},
          {"octets", flow.octets},
          {"icv-good", flow.icv_good},
          {"icv-wrong", flow.icv_wrong},
          {"icv-unchecked", flow.icv_unchecked},
          {"drops", drops},
          {"iv-first", flow.iv_first},
          {"iv-last", flow.iv_last},
          {"iv-late", flow.iv_late},
          {"iv-duplicates", flow.duplicates},
          {"iv-reused", flow.iv_reused},
          {"iv-unjudged", flow.iv_unknown},
          {"reserved-bits", flow.reserved_bits},
          {"sample-bits", flow.sample},
          {"drop-bits", flow.drop_after},
          {"cookies", flow.cookies},
          {"tunnel", flow.tunnel},
          {"udp-checksum-zero", flow.udp_sum_zero},
          {"udp-checksum-incomplete", flow.udp_sum_incomplete},
          {"udp-checksum-wrong", flow.udp_sum_wrong},
          {"inner-checksum-wrong", flow.inner_sum_wrong}};
}

std::string version_text(std::uint8_t number) {
  const auto version = to_version(number);
  return version ? std::string(name(*version)) : fmt::format("version {}", number);
}

Json Checker::to_json() const {
  Json flows = Json::array();
  for (const auto& [key, flow] : flows_) {
    Json one{{"source", pcap::to_text(pcap::IpHost{key.family, key.source})},
             {"destination", pcap::to_text(pcap::IpHost{key.family, key.destination})},
             {"psp-version", version_text(key.version)},
             {"spi", fmt::format("{:08x}", key.spi)}};
    one.update(flow_json(flow));
    flows.push_back(std::move(one));
  }
  return {
      {"packets", packets_},           {"psp", psp_},        {"not-psp", not_psp_},
      {"no-good-psp", without_flow_},  {"joined", joined_},  {"not-understood", unread_.count()},
      {"problems", problems_.count()}, {"keys", have_keys_}, {"flows", std::move(flows)}};
}

std::string flow_text(const Flow& flow) {
  std::string text = fmt::format("    ICV     {} good, {} wrong, {} without key\n", flow.icv_good,
                                 flow.icv_wrong, flow.icv_unchecked);
  text += fmt::format("    IV      {} to {}; late {}, duplicates {}, REUSED {}{}\n", flow.iv_first,
                      flow.iv_last, flow.iv_late, flow.duplicates, flow.iv_reused,
                      flow.iv_unknown != 0 ? fmt::format(", not judged {}", flow.iv_unknown) : "");
  text += fmt::format("    header  reserved bits {}, S {}, D {}, cookies {}, tunnel {}\n",
                      flow.reserved_bits, flow.sample, flow.drop_after, flow.cookies, flow.tunnel);
  text += fmt::format("    sums    UDP zero {}, UDP incomplete {}, UDP wrong {}, inside wrong {}\n",
                      flow.udp_sum_zero, flow.udp_sum_incomplete, flow.udp_sum_wrong,
                      flow.inner_sum_wrong);
  for (const auto& [reason, count] : flow.drops)
    text += fmt::format("    {:<22}  {}: {}\n", name(reason), count, psp::text(reason));
  return text;
}

std::string Checker::to_text() const {
  std::string text;
  for (const auto& [key, flow] : flows_) {
    text += fmt::format(
        "{} > {}  SPI {:08x}  {}: {}, {}\n", pcap::to_text(pcap::IpHost{key.family, key.source}),
        pcap::to_text(pcap::IpHost{key.family, key.destination}), key.spi,
        version_text(key.version), counted(flow.packets, "packet"), counted(flow.octets, "octet"));
    text += flow_text(flow);
  }
  if (others_.packets != 0)
    text += fmt::format("more flows than {}: {}\n{}", kMaxFlows, counted(others_.packets, "packet"),
                        flow_text(others_));
  if (joined_ != 0) text += counted(joined_, "packet") + " held several datagrams: taken apart\n";
  text += fmt::format("{}: {} PSP in {}, {}, {} other, {} not understood; ",
                      counted(packets_, "packet"), psp_, counted(flows_.size(), "flow"),
                      counted(without_flow_, "no good PSP packet"), not_psp_, unread_.count());
  text += nothing() ? "NOTHING was checked: no PSP packet was found"
                    : counted(problems_.count(), "problem");
  return text + (have_keys_ ? "\n" : "; no keys given: ICVs were NOT checked\n");
}

int Checker::finish(const pcap::Reader& reader, std::expected<void, std::string> ran) {
  problems_.flush();
  if (!options_.quiet) unread_.tell();
  const auto printed = print(options_.json ? to_json().dump() + "\n" : to_text());
  const auto failure = printed ? failure_of(reader, ran) : printed.error();
  if (!failure.empty()) {
    say("error: " + failure);
    return kExitFile;
  }
  if (problems_.count() != 0) return kExitPackets;
  return unread_.count() != 0 || nothing() ? kExitUnread : kExitOk;
}

}  // namespace

int run_check(Job& job) {
  Checker checker(job);
  const auto ran =
      run_pipeline(job.reader, nullptr, {.begin = [&](Piece& piece) { checker.work(piece); }});
  return checker.finish(job.reader, ran);
}

}  // namespace psp::pcap_tool
