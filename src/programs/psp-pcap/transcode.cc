// SPDX-License-Identifier: Apache-2.0
//
// encrypt and decrypt: packets through the Sealer or the Opener, directly from the input buffer
// into the output buffer. Decrypting needs no order; encrypting does as far as it counts IVs.
//
// A packet that cannot be sealed takes no IV and leaves nothing in the output; what is passed over
// is left out, or copied with --keep. Problems are told in the order of the file, whichever lane
// met them.
//
// Threading: a Lane belongs to one thread. What is everybody's is changed in begin and end, which
// one lane at a time is in (pipeline.hh).
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/counted.hh"

#include "commands.hh"
#include "pipeline.hh"
#include "problems.hh"

namespace psp::pcap_tool {
namespace {

// Note is a packet that is passed over, and why.
struct Note {
  std::uint64_t number = 0;
  std::string_view label, text;
};

// Rest is a packet that is laid out in the output and still needs the key.
struct Rest {
  std::size_t out_at = 0;  // its IP header in the output
  std::span<const std::uint8_t> packet;
  Sealer::Remains remains;
};

// Lane is what one lane works with, and what it has to tell of the batch that it has.
struct Lane {
  CaptureKeys keys;
  Opener opener;
  std::unique_ptr<crypto::Aead> aead = {};  // encrypt
  std::vector<Rest> rest = {};
  std::vector<Note> notes = {};
  std::vector<Note> unread = {};
  std::uint64_t octets = 0, done = 0, skipped = 0, psp = 0;

  Lane(const CaptureKeys& shared, crypto::EcnAtExit ecn)
      : keys(shared.share()), opener(keys, ecn) {}
};

class Transcoder {
 public:
  Transcoder(const Job& job, std::optional<Sealer> sealer)
      : options_(job.options),
        sealer_(std::move(sealer)),
        rewriter_({.growth = sealer_ ? std::uint32_t{Sealer::kMost} : 0, .reference = reference()}),
        problems_(options_.quiet),
        progress_(options_.progress, job.reader.size()) {
    const auto ecn =
        reference() || !options_.merge_ecn ? crypto::EcnAtExit::kIgnore : crypto::EcnAtExit::kMerge;
    for (std::size_t i = 0; i < lanes(); ++i) {
      lanes_.push_back(std::make_unique<Lane>(job.keys, ecn));
      if (sealer_) lanes_.back()->aead = sealer_->make_aead(lanes_.back()->keys);
    }
  }

  Stages stages() {
    const auto take_all = [this](Piece& piece) {
      Lane& lane = *lanes_[piece.lane];
      for (const pcap::Record& record : piece.in.records) take(lane, piece, record);
    };
    const auto tell = [this](Piece& piece) { this->tell(*lanes_[piece.lane]); };
    if (!sealer_) return {.begin = [](Piece&) {}, .middle = take_all, .end = tell};
    return {.begin = take_all,
            .middle = [this](Piece& piece) { encrypt(*lanes_[piece.lane], piece); },
            .end = tell};
  }

  int finish(const pcap::Reader& reader, std::expected<void, std::string> ran);

 private:
  bool reference() const { return !options_.configuration.empty(); }

  void take(Lane& lane, Piece& piece, const pcap::Record& record) {
    lane.octets += record.size;
    if (record.kind == pcap::Record::Kind::kBroken)
      return lane.notes.push_back({record.number, "", record.problem});
    if (record.kind != pcap::Record::Kind::kPacket)
      return rewriter_.copy(piece.in.octets.span(), record, piece.out);
    const Frame frame =
        look(record, piece.in.octets.span(), sealer_ ? pcap::Reach::kLink : pcap::Reach::kTunnels);
    if (frame.what == Frame::What::kUnknown) lane.unread.push_back({record.number, "", frame.note});
    if (sealer_)
      lay_out(lane, piece, record, frame);
    else
      open(lane, piece, record, frame);
  }
  static void refuse(Lane& lane, std::uint64_t number, Drop drop, std::string_view note) {
    lane.notes.push_back({number, name(drop), note.empty() ? text(drop) : note});
  }

  // lay_out is called by one lane at a time: the sealer counts IVs.
  void lay_out(Lane& lane, Piece& piece, const pcap::Record& record, const Frame& frame) {
    const std::size_t head = frame.link.head_size;
    const std::size_t most = frame.octets.size() + Sealer::kMost;
    std::uint8_t* out = rewriter_.begin(record, most, piece.out);
    const auto sealed = sealer_->lay_out(frame, {out + head, most - head});
    if (sealed.skipped) return skip(lane, piece, record);
    if (sealed.drop) return refuse(lane, record.number, *sealed.drop, sealed.note);
    const auto out_at = static_cast<std::size_t>(out - piece.out.data()) + head;
    if (write(lane, piece, record, frame, out, sealed.size, sealed.family))
      lane.rest.push_back({out_at, frame.packet, sealed.remains});
  }

  void encrypt(Lane& lane, Piece& piece) const {
    for (const Rest& rest : lane.rest)
      sealer_->complete(*lane.aead, rest.remains, rest.packet, piece.out.data() + rest.out_at);
    lane.rest.clear();
  }

  void open(Lane& lane, Piece& piece, const pcap::Record& record, const Frame& frame) const {
    if (frame.what == Frame::What::kBroken)
      return refuse(lane, record.number, *frame.drop, frame.why());
    if (frame.what != Frame::What::kPsp) return skip(lane, piece, record);
    const std::size_t head = frame.link.head_size;
    std::uint8_t* out = nullptr;
    const auto room = [&]() -> std::span<std::uint8_t> {
      out = rewriter_.begin(record, head + frame.packet.size(), piece.out);
      return {out + head, frame.packet.size()};
    };
    lane.opener.open_each(frame, room, [&](const Frame& one, const Opener::Opened& opened) {
      ++lane.psp;
      if (opened.drop) return refuse(lane, record.number, *opened.drop, opened.note);
      write(lane, piece, record, one, out, opened.size, static_cast<std::uint8_t>(out[head] >> 4));
    });
  }

  // write puts the link header in front of the IP packet that is already there.
  bool write(Lane& lane, Piece& piece, const pcap::Record& record, const Frame& frame,
             std::uint8_t* out, std::size_t size, std::uint8_t family) const {
    if (!pcap::write_head(out, record.link_type, frame.octets, frame.link, family)) {
      lane.notes.push_back({record.number, "", "its link type cannot carry the other IP family"});
      return false;
    }
    rewriter_.end(piece.in.octets.span(), record, frame.link.head_size + size, piece.out);
    ++lane.done;
    return true;
  }

  void skip(Lane& lane, Piece& piece, const pcap::Record& record) const {
    ++lane.skipped;
    if (options_.keep) rewriter_.copy(piece.in.octets.span(), record, piece.out);
  }

  // tell makes what a lane has noted of its batch everybody's.
  void tell(Lane& lane) {
    octets_ += std::exchange(lane.octets, 0);
    done_ += std::exchange(lane.done, 0);
    skipped_ += std::exchange(lane.skipped, 0);
    psp_ += std::exchange(lane.psp, 0);
    for (const Note& note : lane.notes) problems_.add(note.number, note.label, note.text);
    lane.notes.clear();
    for (const Note& note : lane.unread) unread_.add(note.number, note.text);
    lane.unread.clear();
    progress_.tick(octets_, done_ + skipped_ + problems_.count());
  }

  const Options& options_;
  std::optional<Sealer> sealer_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  const pcap::Rewriter rewriter_;
  Problems problems_;
  Progress progress_;
  Unread unread_;
  std::uint64_t octets_ = 0, done_ = 0, skipped_ = 0, psp_ = 0;
};

int Transcoder::finish(const pcap::Reader& reader, std::expected<void, std::string> ran) {
  problems_.flush();
  const bool nothing = !sealer_ && psp_ == 0 && problems_.count() == 0;
  int status = problems_.count() != 0            ? kExitPackets
               : unread_.count() != 0 || nothing ? kExitUnread
                                                 : kExitOk;
  const std::string error = failure_of(reader, ran);
  if (!error.empty()) status = kExitFile;
  const char* verb = sealer_ ? "encrypted" : "decrypted";
  if (options_.json) {
    nlohmann::ordered_json summary{{verb, done_},
                                   {"passed-over", skipped_},
                                   {"not-understood", unread_.count()},
                                   {"broken", problems_.count()},
                                   {"exit-status", status}};
    if (!error.empty()) summary["error"] = error;
    using Json = nlohmann::ordered_json;
    std::fputs((summary.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(),
               stderr);
    return status;
  }
  if (!options_.quiet) unread_.tell();
  if (nothing && !options_.quiet) say("warning: there was no PSP packet to decrypt");
  if (!error.empty()) say("error: " + error);
  if (!options_.quiet)
    say(fmt::format(
        "{} {}, passed over {}{}, broken {}", verb, counted(done_, "packet"), skipped_,
        unread_.count() != 0 ? fmt::format(" ({} not understood)", unread_.count()) : "",
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
  auto ran = run_pipeline(job.reader, &*writer, transcoder.stages());
  if (ran) ran = writer->close();
  return transcoder.finish(job.reader, ran);
}

}  // namespace psp::pcap_tool
