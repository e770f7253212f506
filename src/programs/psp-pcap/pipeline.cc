// SPDX-License-Identifier: Apache-2.0
//
// Three stages and the pieces that go round. Any stage that ends closes the queues beside it, and
// so the others end too.
#include "pipeline.hh"

#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace psp::pcap_tool {
namespace {

constexpr std::size_t kPieces = 4;

// Queue hands over pieces. take waits; null once closed and empty, or stopped.
class Queue {
 public:
  void put(Piece* piece) {
    {
      const std::lock_guard lock(mutex_);
      pieces_.push_back(piece);
    }
    changed_.notify_one();
  }
  Piece* take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || stopped_ || !pieces_.empty(); });
    if (pieces_.empty() || stopped_) return nullptr;
    Piece* piece = pieces_.front();
    pieces_.pop_front();
    return piece;
  }
  void close() { end(closed_); }
  // stop: what is in the queue is not wanted any more.
  void stop() { end(stopped_); }

 private:
  void end(bool& flag) {
    {
      const std::lock_guard lock(mutex_);
      flag = true;
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece*> pieces_;
  bool closed_ = false;
  bool stopped_ = false;
};

struct Stages {
  std::array<Piece, kPieces> pieces;
  Queue free, filled, done;
  std::expected<void, std::string> read, written;

  void read_all(pcap::Reader& reader) {
    while (Piece* piece = free.take()) {
      const auto more = reader.next(piece->in);
      if (!more) read = std::unexpected(more.error());
      if (!more || !*more) break;
      filled.put(piece);
    }
    filled.close();
  }
  void write_all(pcap::Writer* writer) {
    while (Piece* piece = done.take()) {
      if (writer != nullptr && written) written = writer->write(piece->out.span());
      if (!written) free.stop();  // the reader comes to its end, and then everybody
      piece->out.clear();
      free.put(piece);
    }
  }
};

}  // namespace

std::expected<void, std::string> run_pipeline(pcap::Reader& reader, pcap::Writer* writer,
                                              const std::function<void(Piece&)>& work) {
  Stages stages;
  for (Piece& piece : stages.pieces) stages.free.put(&piece);
  {
    const std::jthread read([&] { stages.read_all(reader); });
    const std::jthread write([&] { stages.write_all(writer); });
    while (Piece* piece = stages.filled.take()) {
      work(*piece);
      stages.done.put(piece);
    }
    stages.done.close();
  }
  if (!stages.written) return stages.written;
  return stages.read;
}

}  // namespace psp::pcap_tool
