// SPDX-License-Identifier: Apache-2.0
//
// Lines on standard error, each written with one write(), so that they do not mix with those of
// other programs in a pipe.
//
// A damaged capture can have a problem in every packet: neighbours with the same one share a line,
// which is held back until the next is another. Packets that are not understood are counted by
// reason, and told once at the end.
#include "problems.hh"

#include <fmt/format.h>
#include <unistd.h>

#include "base/counted.hh"

namespace psp::pcap_tool {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(200);
constexpr double kMiB = 1024.0 * 1024.0;
constexpr int kBar = 30;

void write_stderr(std::string_view text) {
  // Nobody is left to tell if this fails.
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

void say(const std::string& line) { write_stderr("psp-pcap: " + line + "\n"); }

std::string failure_of(const pcap::Reader& reader, const std::expected<void, std::string>& ran) {
  if (!ran) return ran.error();
  if (reader.damaged().empty()) return "";
  return fmt::format("{}: {}", reader.path(), reader.damaged());
}

void Problems::add(std::uint64_t number, std::string_view label, std::string_view text) {
  ++count_;
  if (quiet_) return;
  std::string what = label.empty() ? std::string(text) : fmt::format("{}: {}", label, text);
  if (first_ != 0 && what == what_ && number <= last_ + 1) {
    last_ = number;
    return;
  }
  flush();
  first_ = last_ = number;
  what_ = std::move(what);
}

void Problems::flush() {
  if (first_ == 0) return;
  say(first_ == last_ ? fmt::format("packet {}: {}", first_, what_)
                      : fmt::format("packets {} to {}: {}", first_, last_, what_));
  first_ = 0;
}

void Unread::add(std::uint64_t number, std::string_view why) {
  ++count_;
  Reason& reason = reasons_[why];
  if (reason.packets++ == 0) reason.first = number;
}

void Unread::tell() const {
  for (const auto& [why, reason] : reasons_)
    say(fmt::format("warning: {} not understood: {} (the first is packet {})",
                    counted(reason.packets, "packet"), why, reason.first));
}

std::expected<void, std::string> print(std::string_view text) {
  auto writer = pcap::Writer::open("-", -1);
  if (!writer) return std::unexpected(writer.error());
  const auto written =
      writer->write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  return written ? writer->close() : written;
}

Progress::~Progress() {
  if (shown_) write_stderr("\r\033[K");
}

void Progress::tick(std::uint64_t octets, std::uint64_t packets) {
  if (!wanted_) return;
  const auto now = Clock::now();
  if (now - last_ < kInterval) return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double done = static_cast<double>(octets);
  std::string line = fmt::format("\r\033[Kpsp-pcap: {}, {:.0f} MiB, {:.0f} MiB/s",
                                 counted(packets, "packet"), done / kMiB, done / kMiB / seconds);
  if (total_ != 0) {
    const double part = std::min(1.0, done / static_cast<double>(total_));
    const int full = static_cast<int>(part * kBar);
    line += fmt::format(" [{:=<{}}{: <{}}] {:.0f} %, {:.0f} s left", "", full, "", kBar - full,
                        part * 100, part > 0 ? seconds / part - seconds : 0.0);
  }
  write_stderr(line);
}

}  // namespace psp::pcap_tool
