// SPDX-License-Identifier: Apache-2.0
//
// A walk has descriptors of the namespaces that it goes to, so that nobody must wait for it who
// leaves one. They keep them alive for as long as the walk takes.
//
// The thread enters one namespace after the other: setns(2) is a thread's, so the control thread
// stays where it is. One that cannot be entered makes the list fail, for a list without its sockets
// would make them look gone. What it costs is measured in time of a processor, not of the clock: a
// walk that had to wait for one is not made to pay for it.
#include "socket_walk.hh"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <new>
#include <pthread.h>
#include <vector>

#include "base/in_netns.hh"
#include "base/unique_fd.hh"
#include "kernel/sock_diag.hh"

#include "clocks.hh"

namespace psp::host {
namespace {

// pspd locks its memory, stacks too, so this one is small.
constexpr std::size_t kStack = 256 * 1024;

std::unexpected<std::string> failed(const char* what, int error) {
  return std::unexpected(fmt::format("{}: {}", what, std::strerror(error)));
}

}  // namespace

struct SocketWalk::Job {
  int assoc_map;
  std::vector<UniqueFd> elsewhere;  // namespaces but for home, where the thread begins
  pthread_t thread{};
  int not_started = 0;  // an errno
  std::atomic<bool> done = false;
  Result result{};

  std::expected<SocketLists::Found, std::string> walk() const;
  void add_here(std::expected<SocketLists::Found, std::string>& all) const;
  void run() {
    try {
      result.found = walk();
    } catch (const std::bad_alloc&) {
      result.found = std::unexpected(std::string());
    }
    result.took = processor_time();
    done.store(true, std::memory_order_release);
  }
};

// add_here adds the sockets of the namespace that the thread is in.
void SocketWalk::Job::add_here(std::expected<SocketLists::Found, std::string>& all) const {
  auto found = kernel::secured_sockets(assoc_map);
  if (!found) {
    all = std::unexpected(std::move(found.error()));
    return;
  }
  for (const kernel::SecuredSocket& socket : *found) all->cookies.push_back(socket.cookie());
  all->sockets.insert(all->sockets.end(), found->begin(), found->end());
}

std::expected<SocketLists::Found, std::string> SocketWalk::Job::walk() const {
  std::expected<SocketLists::Found, std::string> all;
  add_here(all);
  for (const UniqueFd& netns : elsewhere) {
    if (!all) return all;
    const InNetns inside(netns.get());
    if (!inside.entered()) return failed("cannot enter a network namespace", errno);
    add_here(all);
  }
  if (all) std::ranges::sort(all->cookies);
  return all;
}

SocketWalk::SocketWalk(const SecuredSockets& sockets) : sockets_(sockets) {}

SocketWalk::~SocketWalk() {
  if (job_ && job_->not_started == 0) pthread_join(job_->thread, nullptr);
}

void SocketWalk::begin() {
  auto job = std::make_unique<Job>();
  job->assoc_map = sockets_.programs().maps().assoc;
  const std::uint64_t home = sockets_.namespaces().home().cookie();
  sockets_.namespaces().for_each([&](const kernel::Netns& netns) {
    if (netns.cookie() != home) job->elsewhere.push_back(netns.descriptor());
  });
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  const auto run = [](void* data) -> void* {
    static_cast<Job*>(data)->run();
    return nullptr;
  };
  job->not_started = pthread_create(&job->thread, &attributes, run, job.get());
  pthread_attr_destroy(&attributes);
  if (job->not_started == 0) pthread_setname_np(job->thread, "psp-sockets");
  job_ = std::move(job);
}

std::optional<SocketWalk::Result> SocketWalk::result() {
  if (!job_) return std::nullopt;
  if (job_->not_started != 0) {
    const int error = std::exchange(job_, nullptr)->not_started;
    return Result{.found = failed("cannot start a thread", error)};
  }
  if (!job_->done.load(std::memory_order_acquire)) return std::nullopt;
  pthread_join(job_->thread, nullptr);
  return std::move(std::exchange(job_, nullptr)->result);
}

}  // namespace psp::host
