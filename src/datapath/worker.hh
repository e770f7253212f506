// SPDX-License-Identifier: Apache-2.0
//
// One datapath worker: a thread that serves one TAP queue, both directions.
//
// Threading: the constructor and the destructor run on the control thread; everything in Loop (see
// worker.cc) runs on the worker's. Between them: an eventfd and atomics that are written by one
// side only. The engine belongs to the worker's thread from construction on.
#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "device/engine.hh"

#include "peers.hh"
#include "tx_path.hh"

namespace psp::datapath {

struct WorkerOptions {
  std::string device;              // name of the netdev, for the name of the thread
  unsigned number = 0;             // of the worker
  std::uint32_t busy_poll_us = 0;  // spin this long on an empty queue before sleeping
  std::optional<unsigned> cpu{};   // run there only; nothing: where the scheduler wants
  TxOptions tx{};
  Peers peers{};
};

// WorkerStats counts frames (superframes as one).
struct WorkerStats {
  std::uint64_t tx_frames = 0;  // read from the stack
  std::uint64_t rx_frames = 0;  // read from the wire
  std::uint64_t written = 0;
  std::uint64_t ignored = 0;  // read, nothing of ours
  std::uint64_t read_errors = 0;
  std::uint64_t write_errors = 0;  // each a drop of its packets too
  int last_read_error = 0;         // errno
};

class Worker {
 public:
  // start starts the thread. `tap_fd` is one queue of a TAP, non-blocking; it outlives the Worker.
  // Errors: a sentence.
  [[nodiscard]] static std::expected<std::unique_ptr<Worker>, std::string> start(
      int tap_fd, std::unique_ptr<device::Engine> engine, const WorkerOptions& options);
  // Stops the thread, waits for it and wipes its buffers.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // set_mtu and set_busy_poll take effect with the next frame. Thread: any.
  void set_mtu(std::uint32_t mtu);
  void set_busy_poll(std::uint32_t microseconds);

  // stats is a snapshot. Thread: any.
  WorkerStats stats() const;

  // name is the thread's, as ps and top show it: "psp-<device>/<number>", cut to 15 characters.
  std::string name();

  // failed: the queue is gone (its interface was deleted) and the thread has stopped reading. Any
  // other error of a read passes: the thread reads again after a pause. Thread: any.
  bool failed() const;

 private:
  class Loop;
  explicit Worker(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
  std::jthread thread_;
};

}  // namespace psp::datapath
