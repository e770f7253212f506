// SPDX-License-Identifier: Apache-2.0
#include "closer.hh"

#include <memory>
#include <sys/socket.h>
#include <utility>

namespace psp {
namespace {

bool may_wait(int fd) {
  int domain = 0;
  linger option{};
  socklen_t length = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return true;  // no socket
  length = sizeof option;
  return ::getsockopt(fd, SOL_SOCKET, SO_LINGER, &option, &length) != 0 || option.l_onoff != 0;
}

}  // namespace

struct Closer::Queue {
  std::mutex mutex;
  std::condition_variable filled;
  std::vector<UniqueFd> waiting;
  bool stop = false;

  void run() {
    for (;;) {
      std::vector<UniqueFd> now;
      std::unique_lock lock(mutex);
      filled.wait(lock, [this] { return stop || !waiting.empty(); });
      if (stop) return;
      now.swap(waiting);
      lock.unlock();
    }  // closed here, one after the other
  }
};

Closer::Closer() : queue_(std::make_shared<Queue>()) {
  // Detached: nobody can end a close() that hangs, and the process must be able to end without it.
  std::thread([queue = queue_] { queue->run(); }).detach();
}

Closer::~Closer() {
  const std::lock_guard lock(queue_->mutex);
  queue_->stop = true;
  queue_->filled.notify_one();
}

void Closer::take(UniqueFd fd) {
  if (!fd || !may_wait(fd.get())) return;  // closed by its destructor
  const std::lock_guard lock(queue_->mutex);
  queue_->waiting.push_back(std::move(fd));
  queue_->filled.notify_one();
}

}  // namespace psp
