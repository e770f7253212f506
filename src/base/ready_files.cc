// SPDX-License-Identifier: Apache-2.0
//
// A file is armed anew before its turn: what it does not read then is found again by the next look,
// and nothing has to be known of a file that ends itself in its turn.
//
// Threading: see ready_files.hh.
#include "base/ready_files.hh"

#include <array>
#include <cerrno>
#include <sys/epoll.h>
#include <utility>

namespace psp {
namespace {

constexpr int kLook = 256;  // descriptors that one look takes in

epoll_event event_of(void* file) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = file;
  return event;
}

}  // namespace

ReadyFiles::ReadyFiles() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

void ReadyFiles::prepare(File& file, int fd) {
  File::Queue one;
  one.emplace(Order{}, &file);
  file.node_ = one.extract(one.begin());
  file.fd_ = fd;
}

int ReadyFiles::watch(File& file) const {
  epoll_event event = event_of(&file);
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, file.fd_, &event) == 0 ? 0 : errno;
}

void ReadyFiles::forget(File& file) {
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, file.fd_, nullptr);  // it may be closed
  if (!file.node_) unqueue(file);
}

void ReadyFiles::set_order(File& file, std::int64_t order) {
  file.order_ = order;
  if (file.node_) return;
  unqueue(file);
  queue(file);
}

void ReadyFiles::queue(File& file) {
  file.node_.key() = {file.order_, ++queued_};
  file.place_ = queue_.insert(std::move(file.node_)).position;
}

void ReadyFiles::collect() {
  std::array<epoll_event, kLook> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kLook, 0);
  for (int i = 0; i < count; i++) {
    File& file = *static_cast<File*>(events[static_cast<std::size_t>(i)].data.ptr);
    if (file.node_) queue(file);
  }
}

ReadyFiles::File* ReadyFiles::next(std::int64_t from) {
  const auto first = queue_.lower_bound({from, 0});
  if (first == queue_.end()) return nullptr;
  File& file = *first->second;
  unqueue(file);
  epoll_event event = event_of(&file);
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, file.fd_, &event);  // watched: it cannot fail
  return &file;
}

}  // namespace psp
