// SPDX-License-Identifier: Apache-2.0
//
// What psp-cat says on stderr: notices, warnings, one sentence per failure, progress, and the
// summary of --json. Standard output belongs to the data alone.
//
// Warnings go through say_always: -q is for what is good to know, not for what is dangerous. Exit
// statuses are promised by the manual; scripts tell by them a host without PSP from a peer that is
// not who it should be.
#pragma once

#include <chrono>
#include <cstdint>
#include <fmt/format.h>
#include <string>

#include "options.hh"

namespace psp::cat {

// Exit statuses, as the manual lists them.
enum Exit : int {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitNoDaemon = 3,
  kExitNoPsp = 4,
  kExitPermission = 5,
  kExitAuthentication = 6,
};

// Failure ends the program: one sentence and an exit status.
struct Failure {
  Exit status = kExitFailure;
  std::string message;
};

// Summary is what --json says at the end.
struct Summary {
  std::string state = "none";  // "psp" or "tls" once there is a connection
  std::string version;         // PSP version; empty without PSP
  std::string peer;
  bool authenticated = false;
  std::uint64_t sent = 0, received = 0;  // octets of user data
  double seconds = 0;                    // of the transfer
};

// say_always writes a line, whatever -q says: failures and warnings.
void say_always(const std::string& line);

// Report knows how talkative to be.
class Report {
 public:
  explicit Report(const Options& options) : options_(options) {}

  // notice is for what is good to know; -q silences it.
  void notice(const std::string& line) const;
  // finish writes the failure, if any, and the summary if it is wanted.
  void finish(const Summary& summary, const Failure* failure) const;

 private:
  const Options& options_;
};

// Progress is the line that shows how a long transfer goes.
class Progress {
 public:
  // kInterval is how often the line is renewed.
  static constexpr std::chrono::milliseconds kInterval{500};

  Progress(bool wanted, std::string state);
  // tick renews the line if it is time.
  void tick(std::uint64_t sent, std::uint64_t received);
  // clear takes the line away.
  void clear();
  bool wanted() const { return wanted_; }
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  bool wanted_;
  bool tty_;
  bool shown_ = false;
  std::string state_;
  Clock::time_point start_ = Clock::now(), last_ = start_, moved_ = start_;
  std::uint64_t last_total_ = 0;
};

// human is a size for people: "1.5 GiB".
std::string human(double octets);

}  // namespace psp::cat
