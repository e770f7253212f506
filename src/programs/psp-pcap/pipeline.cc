// SPDX-License-Identifier: Apache-2.0
//
// A batch gets its number when it is read, and has its turn by that number. A lane that ends, at
// the end of the file or for an error, has no number, so that nobody waits for it.
//
// After a write that has failed nothing more is read and nothing more written, but lanes that have
// a batch take it through all their turns: else those behind would wait for ever. The calling
// thread is lane 0; there are at least two, since one can wait for a disk while the other computes.
#include "pipeline.hh"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace psp::pcap_tool {
namespace {

constexpr std::size_t kLanesMax = 8;

// Turn lets batches through one at a time, by number.
class Turn {
 public:
  template <typename Work>
  void take(std::uint64_t number, Work work) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return next_ == number; });
    work();
    ++next_;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t next_ = 0;
};

class Pipeline {
 public:
  Pipeline(pcap::Reader& reader, pcap::Writer* writer, const Stages& stages)
      : reader_(reader), writer_(writer), stages_(stages) {}

  void run(std::size_t lane) {
    Piece piece;
    piece.lane = lane;
    while (const auto number = read(piece)) {
      begin_.take(*number, [&] { stages_.begin(piece); });
      if (stages_.middle) stages_.middle(piece);
      end_.take(*number, [&] { finish(piece); });
      piece.out.clear();
    }
  }
  std::expected<void, std::string> outcome() const { return outcome_; }

 private:
  // read returns the number of the batch, or nothing if there is none.
  std::optional<std::uint64_t> read(Piece& piece) {
    const std::lock_guard lock(reading_);
    if (ended_) return std::nullopt;
    const auto more = reader_.next(piece.in);
    if (!more) fail(more.error());
    ended_ = !more || !*more;
    if (ended_) return std::nullopt;
    return number_++;
  }

  void finish(Piece& piece) {
    if (stages_.end) stages_.end(piece);
    if (writer_ == nullptr || !writing_) return;
    if (const auto written = writer_->write(piece.out.span()); !written) {
      writing_ = false;
      const std::lock_guard lock(reading_);
      fail(written.error());
      ended_ = true;
    }
  }

  // fail keeps the first error. Called with reading_ held.
  void fail(const std::string& error) {
    if (outcome_) outcome_ = std::unexpected(error);
  }

  pcap::Reader& reader_;
  pcap::Writer* writer_;
  const Stages& stages_;
  std::mutex reading_;
  bool ended_ = false;
  std::uint64_t number_ = 0;
  std::expected<void, std::string> outcome_;
  Turn begin_, end_;
  bool writing_ = true;  // in end_'s turn
};

}  // namespace

std::size_t lanes() {
  return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 2, kLanesMax);
}

std::expected<void, std::string> run_pipeline(pcap::Reader& reader, pcap::Writer* writer,
                                              const Stages& stages) {
  Pipeline pipeline(reader, writer, stages);
  {
    std::vector<std::jthread> others;
    for (std::size_t lane = 1; lane < lanes(); ++lane)
      others.emplace_back([&pipeline, lane] { pipeline.run(lane); });
    pipeline.run(0);
  }
  return pipeline.outcome();
}

}  // namespace psp::pcap_tool
