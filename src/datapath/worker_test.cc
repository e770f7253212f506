// SPDX-License-Identifier: Apache-2.0
//
// The worker's thread, on a pair of datagram sockets that stand for the TAP queue: message borders
// are kept there too. On a real TAP: src/kernel/tap_test.cc.
//
// Threading: the test thread writes frames and reads what the worker answers.
#include "worker.hh"

#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include "base/unique_fd.hh"

#include "path_test_support.hh"

namespace psp::datapath::test {
namespace {

// Queue is a TAP queue (near) and its other end (far).
struct Queue {
  Queue() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
      throw std::runtime_error("socketpair");
    near = UniqueFd(fds[0]);
    far = UniqueFd(fds[1]);
  }
  bool send(const Octets& frame) const {
    return ::write(far.get(), frame.data(), frame.size()) == static_cast<ssize_t>(frame.size());
  }
  Octets receive() const {
    pollfd ready{far.get(), POLLIN, 0};
    if (::poll(&ready, 1, 10000) != 1) return {};
    Octets frame(kMaxFrame);
    const ssize_t size = ::read(far.get(), frame.data(), frame.size());
    frame.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return frame;
  }
  UniqueFd near, far;
};

struct WorkerRig : Rig {
  explicit WorkerRig(std::uint32_t busy_poll_us = 0)
      : owned(Worker::start(queue.near.get(), sender.driver.make_engine(),
                            {.device = "eth0", .number = 3, .busy_poll_us = busy_poll_us, .tx = {}})
                  .value()),
        worker(*owned) {}
  Queue queue;
  std::unique_ptr<Worker> owned;
  Worker& worker;
};

TEST(Worker, SealsWhatTheStackSends) {
  for (const std::uint32_t busy_poll_us : {0u, 1000u}) {
    WorkerRig rig(busy_poll_us);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(
          rig.queue.send(build_frame({.payload = 20000, .gso_size = 1408, .handle = rig.handle})));
      const Octets frame = rig.queue.receive();
      ASSERT_FALSE(frame.empty());
      EXPECT_EQ(payload_of(open_segments({frame}, *rig.receiver.engine)), pattern(20000));
    }
    EXPECT_EQ(rig.worker.stats().tx_frames, 3u);
    // The last one is counted after it was written.
    while (rig.worker.stats().written != 3) ::usleep(1000);
  }
}

TEST(Worker, OpensWhatComesFromTheWire) {
  Rig far;
  far.send({.payload = 20000, .gso_size = 1408});
  Queue queue;
  const auto worker =
      Worker::start(queue.near.get(), far.receiver.driver.make_engine(), {.device = "eth0"});
  ASSERT_TRUE(worker) << worker.error();
  ASSERT_TRUE(queue.send(far.sealed.frames.at(0)));
  const Octets frame = queue.receive();
  ASSERT_FALSE(frame.empty());
  EXPECT_EQ(read_opened(frame).payload, pattern(20000));
  EXPECT_EQ((*worker)->stats().rx_frames, 1u);
}

TEST(Worker, IgnoresWhatIsNotItsOwn) {
  WorkerRig rig;
  ASSERT_TRUE(rig.queue.send(build_frame({.kind = 0x44, .handle = rig.handle})));
  ASSERT_TRUE(rig.queue.send(Octets(30)));
  ASSERT_TRUE(rig.queue.send(build_frame({.handle = rig.handle})));
  ASSERT_FALSE(rig.queue.receive().empty());
  EXPECT_EQ(rig.worker.stats().ignored, 2u);
  EXPECT_EQ(rig.worker.stats().tx_frames, 1u);
}

TEST(Worker, TakesANewMtu) {
  WorkerRig rig;
  rig.worker.set_mtu(600);
  rig.worker.set_busy_poll(10);
  ASSERT_TRUE(rig.queue.send(build_frame({.payload = 1000, .handle = rig.handle})));
  EXPECT_EQ(open_segments({rig.queue.receive()}, *rig.receiver.engine).size(), 2u);
}

TEST(Worker, StopsWhileFramesArePouringIn) {
  for (int round = 0; round < 20; ++round) {
    WorkerRig rig(round % 2 ? 50 : 0);
    const Octets frame = build_frame({.payload = 2000, .gso_size = 1000, .handle = rig.handle});
    for (int i = 0; i < round; ++i) rig.queue.send(frame);
  }
}

TEST(Worker, CarriesItsDevicesName) {
  WorkerRig rig;
  // The worker has run once it answers.
  ASSERT_TRUE(rig.queue.send(build_frame({.handle = rig.handle})));
  ASSERT_FALSE(rig.queue.receive().empty());
  EXPECT_EQ(rig.worker.name(), "psp-eth0/3");
}

TEST(Worker, GivesUpOnAQueueThatIsGone) {
  WorkerRig rig;
  EXPECT_FALSE(rig.worker.failed());
  rig.queue.far.reset();
  for (int i = 0; i < 1000 && !rig.worker.failed(); ++i) ::usleep(10000);
  EXPECT_TRUE(rig.worker.failed());
  EXPECT_EQ(rig.worker.stats().read_errors, 1u);
}

// One failure of the kernel's, want of memory for one, costs nobody his device. A directory stands
// for the queue whose reads fail.
TEST(Worker, GoesOnWhenReadsFailNoLonger) {
  for (const std::uint32_t busy_poll_us : {0u, 1000u}) {
    WorkerRig rig(busy_poll_us);
    const UniqueFd queue(::dup(rig.queue.near.get()));
    const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_EQ(::dup2(directory.get(), rig.queue.near.get()), rig.queue.near.get());
    const auto frame = build_frame({.handle = rig.handle});
    ASSERT_TRUE(rig.queue.send(frame));  // wakes a worker that waits for the queue
    ASSERT_TRUE(rig.queue.send(frame));
    while (rig.worker.stats().read_errors < 3) ::usleep(1000);
    EXPECT_FALSE(rig.worker.failed());
    ASSERT_EQ(::dup2(queue.get(), rig.queue.near.get()), rig.queue.near.get());
    EXPECT_FALSE(rig.queue.receive().empty());
    EXPECT_FALSE(rig.worker.failed());
  }
}

TEST(Worker, PausesBetweenReadsThatFail) {
  WorkerRig rig(1000);
  const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::dup2(directory.get(), rig.queue.near.get()), rig.queue.near.get());
  ::usleep(1'200'000);  // a worker asleep looks at its queue after a second
  // 1 + 2 + 4 + ... ms: a pause is never shorter than asked for, so that a slow machine sees fewer.
  EXPECT_LE(rig.worker.stats().read_errors, 12u);
}

// allowed_cpus of the thread of this process with that name, as the kernel prints them.
std::string allowed_cpus(const std::string& thread) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream comm(task.path() / "comm"), status(task.path() / "status");
    std::string line;
    if (!std::getline(comm, line) || line != thread) continue;
    constexpr std::string_view kLabel = "Cpus_allowed_list:\t";
    while (std::getline(status, line))
      if (line.starts_with(kLabel)) return line.substr(kLabel.size());
  }
  return "";
}

TEST(Worker, RunsOnItsProcessorOnly) {
  Queue queue;
  Device device;
  const auto cpu = static_cast<unsigned>(::sched_getcpu());
  const auto worker =
      Worker::start(queue.near.get(), device.driver.make_engine(), {.device = "here", .cpu = cpu});
  ASSERT_TRUE(worker) << worker.error();
  EXPECT_EQ(allowed_cpus("psp-here/0"), std::to_string(cpu));
}

}  // namespace
}  // namespace psp::datapath::test
