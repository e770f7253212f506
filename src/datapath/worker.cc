// SPDX-License-Identifier: Apache-2.0
//
// The loop of a worker: read up to kBudget frames, or until the queue is empty, then write what is
// held back; with the queue empty spin or sleep, else go on. One read or write per superframe is
// all that it asks of the kernel.
//
// Threading: see worker.hh. Counters are written by the worker's thread with relaxed stores (no
// read-modify-write is needed with one writer) and read from anywhere.
#include "worker.hh"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <system_error>
#include <time.h>

#include "base/unique_fd.hh"

#include "rx_path.hh"

namespace psp::datapath {
namespace {

// kBudget: frames between two looks at what else there is to do.
constexpr unsigned kBudget = 16;

// kRefreshMs: how long a worker without packets sleeps before it looks for keys to wipe.
constexpr int kRefreshMs = 1000;

// kFirstPauseMs: the pause after a read that failed; it doubles with each failure, to kRefreshMs.
constexpr int kFirstPauseMs = 1;

// is_gone tells the errors of a descriptor whose interface was deleted, or that was detached from
// it: it reports so for ever. Others, ENOMEM for one, pass.
bool is_gone(int sys_errno) {
  return sys_errno == EBADFD || sys_errno == EBADF || sys_errno == EIO;
}

// Counter has one writer.
class Counter {
 public:
  void add() {
    value_.store(value_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// TapSink writes frames to the queue.
class TapSink final : public Sink {
 public:
  explicit TapSink(int fd) : fd_(fd) {}

  bool write(std::span<const iovec> frame) override {
    ssize_t written;
    do {
      written = frame.size() == 1 ? ::write(fd_, frame[0].iov_base, frame[0].iov_len)
                                  : ::writev(fd_, frame.data(), static_cast<int>(frame.size()));
    } while (written < 0 && errno == EINTR);
    (written < 0 ? errors_ : written_).add();
    return written >= 0;
  }
  std::uint64_t written() const { return written_.get(); }
  std::uint64_t errors() const { return errors_.get(); }

 private:
  int fd_;
  Counter written_;
  Counter errors_;
};

}  // namespace

class Worker::Loop {
 public:
  Loop(int tap_fd, std::unique_ptr<device::Engine> engine, const WorkerOptions& options)
      : fd_(tap_fd),
        engine_(std::move(engine)),
        sink_(tap_fd),
        tx_(*engine_, sink_, options.tx),
        rx_(*engine_, sink_, {options.tx.mtu, options.peers}),
        input_(kMaxFrame),
        busy_poll_us_(options.busy_poll_us),
        wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

  void run();
  void stop() {
    stopping_.store(true, std::memory_order_relaxed);
    ::eventfd_write(wake_.get(), 1);
  }
  void set_mtu(std::uint32_t mtu) {
    tx_.set_mtu(mtu);
    rx_.set_mtu(mtu);
  }
  void set_busy_poll(std::uint32_t microseconds) {
    busy_poll_us_.store(microseconds, std::memory_order_relaxed);
  }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  bool can_wake() const { return static_cast<bool>(wake_); }
  WorkerStats stats() const {
    return {tx_frames_.get(),
            rx_frames_.get(),
            sink_.written(),
            ignored_.get(),
            read_errors_.get(),
            sink_.errors(),
            last_read_error_.load(std::memory_order_relaxed)};
  }

 private:
  bool drain();
  void dispatch(std::span<std::uint8_t> frame);
  void read_failed(int sys_errno);
  void refresh_keys();
  bool spin();
  void sleep();

  const int fd_;
  const std::unique_ptr<device::Engine> engine_;
  TapSink sink_;
  TxPath tx_;
  RxPath rx_;
  PacketBuffer input_;
  std::atomic<std::uint32_t> busy_poll_us_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> failed_{false};
  int pause_ms_ = 0;  // after reads that failed
  time_t refreshed_s_ = 0;
  Counter tx_frames_;
  Counter rx_frames_;
  Counter ignored_;
  Counter read_errors_;
  std::atomic<int> last_read_error_{0};
  const UniqueFd wake_;
};

void Worker::Loop::run() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    refresh_keys();
    const bool more = drain();
    tx_.flush();
    rx_.flush();
    if (!more && !spin()) sleep();
  }
  tx_.flush();
  rx_.flush();
}

// refresh_keys wipes, within a second, keys that are deleted or rotated out. The coarse clock costs
// a few nanoseconds.
void Worker::Loop::refresh_keys() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  if (now.tv_sec == refreshed_s_) return;
  refreshed_s_ = now.tv_sec;
  engine_->refresh();
}

// drain serves up to kBudget frames; false when the queue is empty.
bool Worker::Loop::drain() {
  if (failed()) return false;
  std::uint8_t* frame = input_.data();
  for (unsigned i = 0; i < kBudget; ++i) {
    const ssize_t size = ::read(fd_, frame, kMaxFrame);
    if (size > 0) {
      pause_ms_ = 0;
      dispatch({frame, static_cast<std::size_t>(size)});
    } else {
      if (size == 0 || errno != EAGAIN)
        read_failed(size == 0 ? EIO : errno);
      else
        pause_ms_ = 0;
      return false;
    }
  }
  return true;
}

void Worker::Loop::dispatch(std::span<std::uint8_t> frame) {
  switch (classify(frame)) {
    case FrameKind::kTx:
      tx_frames_.add();
      return tx_.process(frame);
    case FrameKind::kRx:
      rx_frames_.add();
      return rx_.process(frame);
    case FrameKind::kOther:
      return ignored_.add();
  }
}

void Worker::Loop::read_failed(int sys_errno) {
  if (sys_errno == EINTR) return;
  last_read_error_.store(sys_errno, std::memory_order_relaxed);
  read_errors_.add();
  if (is_gone(sys_errno)) failed_.store(true, std::memory_order_relaxed);
  pause_ms_ = std::min(pause_ms_ == 0 ? kFirstPauseMs : 2 * pause_ms_, kRefreshMs);
}

// spin waits for a frame without sleeping; true when it served one or is to stop.
bool Worker::Loop::spin() {
  const std::chrono::microseconds limit(busy_poll_us_.load(std::memory_order_relaxed));
  if (limit.count() == 0 || pause_ms_ != 0) return false;
  const auto end = std::chrono::steady_clock::now() + limit;
  std::uint8_t* frame = input_.data();
  do {
    if (stopping_.load(std::memory_order_relaxed)) return true;
    const ssize_t size = ::read(fd_, frame, kMaxFrame);
    if (size > 0) {
      dispatch({frame, static_cast<std::size_t>(size)});
      return true;
    }
    if (size == 0 || errno != EAGAIN) {
      read_failed(size == 0 ? EIO : errno);
      return false;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// sleep waits for a frame or for the control thread. By poll, not epoll: a frame that arrives while
// the worker is awake then costs its sender no callback. A queue whose read failed still has
// frames: it is left alone for the pause.
void Worker::Loop::sleep() {
  const bool leave_queue = failed() || pause_ms_ != 0;
  pollfd sources[] = {{wake_.get(), POLLIN, 0}, {leave_queue ? -1 : fd_, POLLIN, 0}};
  const int timeout = failed() || pause_ms_ == 0 ? kRefreshMs : pause_ms_;
  if (::poll(sources, 2, timeout) <= 0 || sources[0].revents == 0) return;
  eventfd_t value;
  ::eventfd_read(wake_.get(), &value);
}

namespace {

// pin keeps a thread on a processor. One that has been taken offline since is no reason to stop.
void pin(pthread_t thread, unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(thread, sizeof set, &set);
}

}  // namespace

Worker::Worker(std::unique_ptr<Loop> loop)
    : loop_(std::move(loop)), thread_([running = loop_.get()] { running->run(); }) {}

std::expected<std::unique_ptr<Worker>, std::string> Worker::start(
    int tap_fd, std::unique_ptr<device::Engine> engine, const WorkerOptions& options) {
  auto loop = std::make_unique<Loop>(tap_fd, std::move(engine), options);
  if (!loop->can_wake())
    return std::unexpected(fmt::format("no eventfd for a worker: {}", std::strerror(errno)));
  std::unique_ptr<Worker> worker;
  try {
    worker.reset(new Worker(std::move(loop)));
  } catch (const std::system_error& error) {
    return std::unexpected(fmt::format("cannot start a worker's thread: {}", error.what()));
  }
  std::string name = fmt::format("psp-{}/{}", options.device, options.number);
  name.resize(std::min<std::size_t>(name.size(), 15));  // all that the kernel takes
  ::pthread_setname_np(worker->thread_.native_handle(), name.c_str());
  if (options.cpu) pin(worker->thread_.native_handle(), *options.cpu);
  return worker;
}

Worker::~Worker() {
  loop_->stop();
  thread_.join();
}

void Worker::set_mtu(std::uint32_t mtu) { loop_->set_mtu(mtu); }
void Worker::set_busy_poll(std::uint32_t microseconds) { loop_->set_busy_poll(microseconds); }
WorkerStats Worker::stats() const { return loop_->stats(); }
std::string Worker::name() {
  char name[16] = "";
  ::pthread_getname_np(thread_.native_handle(), name, sizeof name);
  return name;
}
bool Worker::failed() const { return loop_->failed(); }

}  // namespace psp::datapath
