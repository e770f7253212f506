// SPDX-License-Identifier: Apache-2.0
//
// Proxy: the whole program. Its main thread carries no data: it takes signals, reads certificates
// anew, looks names up again and tells statistics.
//
// Threading: the main thread's; workers have their own.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.hh"

#include "credentials.hh"
#include "options.hh"
#include "proxy_worker.hh"
#include "stats_socket.hh"
#include "target.hh"

namespace psp::proxy {

class Proxy {
 public:
  // start is everything up to the listeners. The error is a sentence.
  static std::expected<std::unique_ptr<Proxy>, std::string> start(Options options);
  // run carries connections until SIGTERM or SIGINT. Returns the exit status.
  int run();

 private:
  explicit Proxy(Options options);
  std::expected<void, std::string> prepare();
  std::expected<void, std::string> find_descriptors();
  void warn_of_weak_settings() const;
  void declare();
  void rest(bool on);
  void reload(bool asked);
  void refresh_target();
  void on_stop();
  void end_if_drained();
  std::string stats() const;

  Options options_;
  Credentials credentials_;
  Target target_;
  Shared shared_;
  std::optional<StatsSocket> stats_socket_;
  std::vector<std::unique_ptr<ProxyWorker>> workers_;
  EventLoop loop_;
  std::vector<Loop::Source> sources_;
  Loop::Source asked_, resting_;  // by the statistics socket
  Loop::Source draining_;         // from the first signal to stop on
  bool stopping_ = false, resolves_ = true;
  Clock::time_point drain_end_;
};

}  // namespace psp::proxy
