// SPDX-License-Identifier: Apache-2.0
#include "closer.hh"

#include <atomic>
#include <memory>
#include <new>
#include <pthread.h>
#include <sys/socket.h>
#include <utility>

namespace psp {
namespace {

// may_wait: nobody knows what close() does of what is no socket, and a unix socket may hold other
// descriptors that close with it.
bool may_wait(int fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return true;
  if (domain != AF_INET && domain != AF_INET6 && domain != AF_NETLINK) return true;
  linger option{};
  length = sizeof option;
  return ::getsockopt(fd, SOL_SOCKET, SO_LINGER, &option, &length) != 0 ||
         (option.l_onoff != 0 && option.l_linger != 0);
}

}  // namespace

struct Closer::Queue {
  std::mutex mutex;
  std::condition_variable filled;
  std::vector<UniqueFd> waiting;
  std::atomic<std::size_t> left = 0;
  bool stop = false;

  void run() {
    for (;;) {
      std::vector<UniqueFd> now;
      std::unique_lock lock(mutex);
      filled.wait(lock, [this] { return stop || !waiting.empty(); });
      if (stop) return;
      now.swap(waiting);
      lock.unlock();
      for (UniqueFd& fd : now) {
        fd.reset();
        left--;
      }
    }
  }
};

Closer::Closer() : queue_(std::make_shared<Queue>()) {}

Closer::~Closer() {
  const std::lock_guard lock(queue_->mutex);
  queue_->stop = true;
  queue_->filled.notify_one();
}

// start starts the thread, detached: nobody can end a close() that hangs, and the process must be
// able to end without it. pspd locks its memory, stacks too, so this one is small.
bool Closer::start() {
  constexpr std::size_t kStack = 64 * 1024;
  auto owned = std::make_unique<std::shared_ptr<Queue>>(queue_);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStack);
  pthread_t thread;
  const auto run = [](void* data) -> void* {
    const std::unique_ptr<std::shared_ptr<Queue>> queue(static_cast<std::shared_ptr<Queue>*>(data));
    (*queue)->run();
    return nullptr;
  };
  started_ = pthread_create(&thread, &attributes, run, owned.get()) == 0;
  pthread_attr_destroy(&attributes);
  if (started_) (void)owned.release();  // the thread's now
  return started_;
}

void Closer::take(UniqueFd fd) {
  if (!fd || !may_wait(fd.get())) return;  // closed by its destructor
  take_later(std::move(fd));
}

// take_later closes here what the thread cannot have for want of memory: better late than never.
void Closer::take_later(UniqueFd fd) {
  try {
    if (!fd || (!started_ && !start())) return;
    const std::lock_guard lock(queue_->mutex);
    queue_->waiting.push_back(std::move(fd));
    queue_->left++;
    queue_->filled.notify_one();
  } catch (const std::bad_alloc&) {
    fd.reset();
  }
}

std::size_t Closer::waiting() const { return queue_->left; }

}  // namespace psp
