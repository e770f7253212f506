// SPDX-License-Identifier: Apache-2.0
//
// A thread has the table of descriptors of the one that starts it. So there is a doorman, whose
// table has but the end of a socket pair; at each request it starts a thread, and that one makes
// the table its own and takes a batch from the socket. It ends when whoever sent the batch has
// closed what was there: were it earlier, the last copies would be the sender's. Where memory or
// threads lack for a moment it is tried again; the sender does not wait for that, see kPatience.
#include "last_copies.hh"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <linux/close_range.h>
#include <new>
#include <sched.h>
#include <semaphore>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/socket_options.hh"

#include "detached_thread.hh"

namespace psp::control {
namespace {

constexpr std::size_t kBatch = 253;  // SCM_MAX_FD
constexpr unsigned kPauseUs = 10'000;
// How long a sender waits for room in the socket: hundreds of batches are in it that nobody takes.
constexpr timeval kPatience{.tv_sec = 1, .tv_usec = 0};

// Sent is what a batch is sent with: its address travels along.
struct Sent {
  std::binary_semaphore closed{0};  // by the sender
};

// Message is one with room for a batch.
struct Message {
  static constexpr std::size_t kSize = sizeof(Sent*);  // it is the pointer that is sent
  Sent* sent = nullptr;
  iovec part{&sent, kSize};
  alignas(cmsghdr) char control[CMSG_SPACE(kBatch * sizeof(int))] = {};
  msghdr header{};

  explicit Message(std::size_t fds) {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds * sizeof(int));
  }
};

bool send_batch(int to, Sent* sent, std::span<const UniqueFd> fds) {
  Message message(fds.size());
  message.sent = sent;
  cmsghdr* rights = CMSG_FIRSTHDR(&message.header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  for (std::size_t i = 0; i < fds.size(); i++) {
    const int fd = fds[i].get();
    std::memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
  }
  return ::sendmsg(to, &message.header, MSG_NOSIGNAL) == static_cast<ssize_t>(Message::kSize);
}

// keep_only leaves one descriptor in a table of this thread's own.
bool keep_only(int fd) {
  const auto kept = static_cast<unsigned>(fd);
  return ::close_range(kept + 1, ~0u, CLOSE_RANGE_UNSHARE) == 0 &&
         (kept == 0 || ::close_range(0, kept - 1, 0) == 0);
}

}  // namespace

struct LastCopies::Room {
  UniqueFd in;  // the sender's
  std::counting_semaphore<> requests{0}, ready{0};
  std::atomic<unsigned> sent = 0;  // the address of a Sent comes by the kernel; its content by this
  std::atomic<bool> open = false, stop = false;

  // receive_batch is the next batch, of which descriptors are now in this thread's table; null: not
  // this time.
  std::unique_ptr<Sent> receive_batch(int from) const {
    Message message(kBatch);
    // By its number: ThreadSanitizer takes descriptors for those of the process's one table.
    const long size = ::syscall(SYS_recvmsg, from, &message.header, MSG_CMSG_CLOEXEC);
    if (size != static_cast<long>(Message::kSize)) return nullptr;
    (void)sent.load(std::memory_order_acquire);
    return std::unique_ptr<Sent>(message.sent);
  }
  // take_batch is a thread's whole life. There is a batch for each: none may give up.
  void take_batch(int from) const {
    while (::unshare(CLONE_FILES) != 0) ::usleep(kPauseUs);
    std::unique_ptr<Sent> batch;
    while (!(batch = receive_batch(from))) ::usleep(kPauseUs);
    batch->closed.acquire();
  }
  // attend is the doorman's.
  static void attend(const std::shared_ptr<Room>& room, int out) {
    room->open = keep_only(out);
    room->ready.release();
    while (room->open) {
      room->requests.acquire();
      if (room->stop) return;
      while (!start_detached([room, out] { room->take_batch(out); })) ::usleep(kPauseUs);
    }
  }
};

LastCopies::LastCopies() : room_(std::make_shared<Room>()) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return;
  room_->in.reset(ends[0]);
  const UniqueFd out(ends[1]);
  if (!set_option(room_->in.get(), SOL_SOCKET, SO_SNDTIMEO, kPatience)) return;
  if (!start_detached([room = room_, fd = ends[1]] { Room::attend(room, fd); })) return;
  room_->ready.acquire();
}

LastCopies::~LastCopies() {
  room_->stop = true;
  room_->requests.release();
}

void LastCopies::close(std::span<UniqueFd> fds) {
  while (!fds.empty()) {
    const auto batch = fds.first(std::min(fds.size(), kBatch));
    fds = fds.subspan(batch.size());
    std::unique_ptr<Sent> sent(room_->open ? new (std::nothrow) Sent : nullptr);
    room_->sent.fetch_add(1, std::memory_order_release);
    const bool gone = sent && send_batch(room_->in.get(), sent.get(), batch);
    if (gone) room_->requests.release();
    for (UniqueFd& fd : batch) fd.reset();
    if (gone) sent.release()->closed.release();  // then it is the other thread's
  }
}

}  // namespace psp::control
