// SPDX-License-Identifier: Apache-2.0
//
// Lines on stderr. Written with one write() each, so that two psp-cats on one terminal do not mix.
//
// On a terminal the progress line is overwritten in place, and taken away before anything else is
// said; in a file each is a line of its own. The summary of --json is written whatever -q says: who
// asks for it reads it by a program. What in it is no UTF-8 is replaced.
#include "report.hh"

#include <nlohmann/json.hpp>
#include <unistd.h>

namespace psp::cat {
namespace {

void write_stderr(const std::string& text) {
  // Nobody is left to tell if this fails.
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

void say_always(const std::string& line) { write_stderr("psp-cat: " + line + "\n"); }

void Report::notice(const std::string& line) const {
  if (!options_.quiet) say_always(line);
}

void Report::finish(const Summary& summary, const Failure* failure) const {
  if (failure != nullptr) say_always("error: " + failure->message);
  if (!options_.json) return;
  nlohmann::ordered_json out{
      {"state", summary.state},     {"psp-version", summary.version},
      {"peer", summary.peer},       {"authenticated", summary.authenticated},
      {"bytes-sent", summary.sent}, {"bytes-received", summary.received},
      {"seconds", summary.seconds}, {"exit-status", failure != nullptr ? failure->status : kExitOk},
  };
  if (failure != nullptr) out["error"] = failure->message;
  using Json = nlohmann::ordered_json;
  write_stderr(out.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::string human(double octets) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; octets >= 1024 && unit + 1 < std::size(kUnits); ++unit) octets /= 1024;
  return fmt::format(fmt::runtime(unit == 0 ? "{:.0f} {}" : "{:.1f} {}"), octets, kUnits[unit]);
}

Progress::Progress(bool wanted, std::string state)
    : wanted_(wanted), tty_(isatty(STDERR_FILENO) == 1), state_(std::move(state)) {}

double Progress::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void Progress::tick(std::uint64_t sent, std::uint64_t received) {
  if (!wanted_) return;
  const auto now = Clock::now();
  if (now - last_ < kInterval) return;
  const double rate = static_cast<double>(sent + received - last_total_) /
                      std::chrono::duration<double>(now - last_).count();
  if (sent + received != last_total_) moved_ = now;
  last_ = now;
  last_total_ = sent + received;
  std::string line =
      fmt::format("{} sent, {} received, {}/s, {:.0f} s, {}", human(static_cast<double>(sent)),
                  human(static_cast<double>(received)), human(rate), seconds(), state_);
  if (const auto idle = std::chrono::duration_cast<std::chrono::seconds>(now - moved_).count();
      idle >= 2)
    line += fmt::format(", nothing moved for {} s", idle);
  write_stderr(tty_ ? "\r\x1b[K" + line : "psp-cat: " + line + "\n");
  shown_ = true;
}

void Progress::clear() {
  if (shown_ && tty_) write_stderr("\r\x1b[K");
  shown_ = false;
}

}  // namespace psp::cat
