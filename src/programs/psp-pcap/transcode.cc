// SPDX-License-Identifier: Apache-2.0
//
// encrypt and decrypt: packets through the Sealer or the Opener, directly from the input buffer
// into the output buffer.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "commands.hh"
#include "pipeline.hh"
#include "report.hh"

namespace psp::pcap_tool {
namespace {

class Transcoder {
 public:
  Transcoder(const Job& job, std::optional<Sealer> sealer)
      : options_(job.options),
        sealer_(std::move(sealer)),
        opener_(job.keys, reference() || !options_.merge_ecn ? crypto::EcnAtExit::kIgnore
                                                             : crypto::EcnAtExit::kMerge),
        rewriter_({.growth = sealer_ ? std::uint32_t{Sealer::kMost} : 0, .reference = reference()}),
        problems_(options_.quiet),
        progress_(options_.progress, job.reader.size()) {}

  void work(Piece& piece) {
    for (const pcap::Record& record : piece.in.records) {
      octets_ += record.size;
      take(piece, record);
    }
    progress_.tick(octets_, done_ + skipped_ + problems_.count());
  }

  int finish(const pcap::Reader& reader, std::expected<void, std::string> ran);

 private:
  bool reference() const { return !options_.configuration.empty(); }

  void take(Piece& piece, const pcap::Record& record) {
    if (record.kind == pcap::Record::Kind::kBroken)
      return problems_.add(record.number, "", record.problem);
    if (record.kind != pcap::Record::Kind::kPacket)
      return rewriter_.copy(piece.in.octets.span(), record, piece.out);
    const Frame frame = look(record, piece.in.octets.span());
    if (sealer_)
      seal(piece, record, frame);
    else
      open(piece, record, frame);
  }

  void seal(Piece& piece, const pcap::Record& record, const Frame& frame) {
    const std::size_t most = frame.octets.size() + Sealer::kMost;
    std::uint8_t* out = rewriter_.begin(record, most, piece.out);
    const auto sealed = sealer_->seal(frame, {out + frame.link.ip_at, most - frame.link.ip_at});
    if (sealed.skipped) return skip(piece, record);
    if (sealed.drop)
      return problems_.add(record.number, name(*sealed.drop),
                           sealed.note.empty() ? text(*sealed.drop) : sealed.note);
    write(piece, record, frame, out, sealed.size, sealed.family);
  }

  void open(Piece& piece, const pcap::Record& record, const Frame& frame) {
    if (frame.what == Frame::What::kNotIp || frame.what == Frame::What::kOther)
      return skip(piece, record);
    if (frame.what == Frame::What::kBroken)
      return problems_.add(record.number, name(*frame.drop), frame.why());
    std::uint8_t* out = rewriter_.begin(record, frame.octets.size(), piece.out);
    const auto opened = opener_.open(frame, {out + frame.link.ip_at, frame.packet.size()});
    if (opened.drop)
      return problems_.add(record.number, name(*opened.drop),
                           opened.note.empty() ? text(*opened.drop) : opened.note);
    write(piece, record, frame, out, opened.size,
          static_cast<std::uint8_t>(out[frame.link.ip_at] >> 4));
  }

  // write puts the link header in front of the IP packet that is already there.
  void write(Piece& piece, const pcap::Record& record, const Frame& frame, std::uint8_t* out,
             std::size_t size, std::uint8_t family) {
    if (frame.link.ip_at != 0) std::memcpy(out, frame.octets.data(), frame.link.ip_at);
    if (!pcap::set_family(out, record.link_type, frame.link, family))
      return problems_.add(record.number, "", "its link type cannot carry the other IP family");
    rewriter_.end(piece.in.octets.span(), record, frame.link.ip_at + size, piece.out);
    ++done_;
  }

  void skip(Piece& piece, const pcap::Record& record) {
    ++skipped_;
    if (!pcap::understands(record.link_type)) unknown_link_ = true;
    if (options_.keep) rewriter_.copy(piece.in.octets.span(), record, piece.out);
  }

  const Options& options_;
  std::optional<Sealer> sealer_;
  Opener opener_;
  pcap::Rewriter rewriter_;
  Problems problems_;
  Progress progress_;
  std::uint64_t octets_ = 0, done_ = 0, skipped_ = 0;
  bool unknown_link_ = false;
};

int Transcoder::finish(const pcap::Reader& reader, std::expected<void, std::string> ran) {
  problems_.flush();
  int status = problems_.count() != 0 ? kExitPackets : kExitOk;
  std::string error;
  if (!ran)
    error = ran.error();
  else if (!reader.damaged().empty())
    error = fmt::format("{}: {}", reader.path(), reader.damaged());
  if (!error.empty()) status = kExitFile;
  const char* verb = sealer_ ? "encrypted" : "decrypted";
  if (options_.json) {
    nlohmann::ordered_json summary{{verb, done_},
                                   {"passed-over", skipped_},
                                   {"broken", problems_.count()},
                                   {"exit-status", status}};
    if (!error.empty()) summary["error"] = error;
    using Json = nlohmann::ordered_json;
    std::fputs((summary.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(),
               stderr);
    return status;
  }
  if (unknown_link_ && !options_.quiet) say("warning: a link type is not known here");
  if (!error.empty()) say("error: " + error);
  if (!options_.quiet)
    say(fmt::format("{} {} packets, passed over {}, broken {}", verb, done_, skipped_,
                    problems_.count()));
  return status;
}

}  // namespace

int run_transcode(Job& job) {
  const Options& options = job.options;
  std::optional<Sealer> sealer;
  if (options.command == Command::kEncrypt) {
    auto made = Sealer::make(options, job.sealing, job.keys);
    if (!made) {
      say("error: " + made.error());
      return kExitKeys;
    }
    sealer = std::move(*made);
  } else if (job.keys.empty()) {
    say("error: no keys: give --cfg, --device-keys, --sa-key or --key-log");
    return kExitKeys;
  }
  auto writer = pcap::Writer::open(options.out, job.reader.fd());
  if (!writer) {
    say("error: " + writer.error());
    return kExitFile;
  }
  Transcoder transcoder(job, std::move(sealer));
  auto ran = run_pipeline(job.reader, &*writer, [&](Piece& piece) { transcoder.work(piece); });
  if (ran) ran = writer->close();
  return transcoder.finish(job.reader, ran);
}

}  // namespace psp::pcap_tool
