// SPDX-License-Identifier: Apache-2.0
//
// The thread and its Closer share the queue, which lives as long as either: a close() that hangs
// must not keep anybody from ending.
//
// Most sockets do not linger and are closed at once, on the control thread, under an
// Interrupter. A descriptor counts as
// waiting until its close() has returned, and batches come one after the other: so a user with one
// that hangs waits for his own, and Accounts sees by the number when to let him in no more.
#include "closer.hh"

#include <atomic>
#include <memory>
#include <new>
#include <sys/socket.h>
#include <utility>

#include "base/socket_options.hh"

#include "detached_thread.hh"
#include "interrupter.hh"

namespace psp::control {
namespace {

// of_this_thread: a timer belongs to a thread.
const Interrupter& of_this_thread() {
  thread_local const Interrupter interrupter;
  return interrupter;
}

// close_here: who shares a socket can give it a linger time at any moment and close his copy. So
// whatever it was before, it is not waited for.
void close_here(UniqueFd fd) {
  of_this_thread().turn(true);
  fd.reset();
  of_this_thread().turn(false);
}

// may_wait: nobody knows what close() does of what is no socket, and a unix socket may hold other
// descriptors that close with it.
bool may_wait(int fd) {
  const auto domain = get_option<int>(fd, SOL_SOCKET, SO_DOMAIN);
  if (domain != AF_INET && domain != AF_INET6 && domain != AF_NETLINK) return true;
  const auto option = get_option<linger>(fd, SOL_SOCKET, SO_LINGER);
  return !option || (option->l_onoff != 0 && option->l_linger != 0);
}

}  // namespace

struct Closer::Queue {
  explicit Queue(std::shared_ptr<LastCopies> copies) : last_copies(std::move(copies)) {}

  const std::shared_ptr<LastCopies> last_copies;
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
      last_copies->close(now);
      left -= now.size();
    }
  }
};

Closer::Closer(std::shared_ptr<LastCopies> last_copies)
    : queue_(std::make_shared<Queue>(std::move(last_copies))) {}

Closer::~Closer() {
  const std::lock_guard lock(queue_->mutex);
  queue_->stop = true;
  queue_->filled.notify_one();
}

bool Closer::start() {
  return started_ = start_detached([queue = queue_] { queue->run(); });
}

void Closer::take(UniqueFd fd) {
  if (!fd) return;
  if (may_wait(fd.get()) || !of_this_thread().works()) return take_later(std::move(fd));
  close_here(std::move(fd));
}

// take_later closes here what there is no memory to give to the thread: better late than never.
void Closer::take_later(UniqueFd fd) {
  if (!fd) return;
  try {
    if (!started_ && !start()) return close_here(std::move(fd));
    const std::lock_guard lock(queue_->mutex);
    queue_->waiting.push_back(std::move(fd));
    queue_->left++;
    queue_->filled.notify_one();
  } catch (const std::bad_alloc&) {
    close_here(std::move(fd));
  }
}

std::size_t Closer::waiting() const { return queue_->left; }

}  // namespace psp::control
