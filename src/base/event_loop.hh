// SPDX-License-Identifier: Apache-2.0
//
// EventLoop: the Loop of a program: timers and signals by sd-event, descriptors by ReadyFiles,
// since sd-event asks the kernel after each callback again about each descriptor that waits for its
// own. A callback that runs out of memory ends, and nothing else does; if the loop itself does, it
// goes on a little later.
//
// Threading: one thread, which runs it.
#pragma once

#include <memory>

#include "base/loop.hh"
#include "base/ready_files.hh"

struct sd_event;

namespace psp {

class EventLoop final : public Loop {
 public:
  EventLoop();
  ~EventLoop() override;

  std::expected<Source, int> try_on_readable(int fd, std::function<void()> call) noexcept override;
  std::expected<Source, int> try_every(std::chrono::milliseconds period,
                                       std::function<void()> call) noexcept override;
  // on_signal takes over a signal, which is blocked for the whole process.
  [[nodiscard]] Source on_signal(int signal, std::function<void()> call);

  Clock::time_point now() const override { return Clock::now(); }
  std::chrono::nanoseconds processor_time() const override;

  void stop(int code) override;
  // run goes on until stop. Returns stop's code, or a negative errno if the kernel takes the loop
  // away. watchdog() feeds systemd's.
  int run();
  void watchdog();

 private:
  void turn_of_files();

  sd_event* event_ = nullptr;
  std::shared_ptr<ReadyFiles> files_;
};

}  // namespace psp
