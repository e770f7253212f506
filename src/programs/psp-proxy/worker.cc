// SPDX-License-Identifier: Apache-2.0
#include "worker.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "socket.hh"

namespace psp::proxy {
namespace {

constexpr int kEvents = 64;
constexpr std::chrono::milliseconds kTick{250};
constexpr std::chrono::seconds kLimitLog{1};
// How many connections are accepted before those that are there have their turn: a flood must not
// fill the kernel's queue, where nobody chooses who goes.
constexpr int kAccepts = 64;

UniqueFd checked(int fd) {
  // Without these a worker cannot even begin; the process has no descriptors or memory.
  if (fd < 0) std::abort();
  return UniqueFd(fd);
}

}  // namespace

Worker::Worker(Shared& shared)
    : shared_(shared),
      epoll_(checked(epoll_create1(EPOLL_CLOEXEC))),
      wake_fd_(checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))),
      provider_(shared.options.socket),
      now_(Clock::now()) {
  for (const UniqueFd& fd : shared_.listeners) listeners_.emplace_back(*this, fd.get());
  watch(wake_fd_.get(), EPOLLIN | EPOLLET, wake_, false);
}

Worker::~Worker() {
  if (!thread_.joinable()) return;
  stop();
  thread_.join();
}

void Worker::start() {
  thread_ = std::thread([this] { run(); });
}

void Worker::ask(Wish wish) {
  wish_ = wish;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_.get(), &one, sizeof one);
}

void Worker::watch(int fd, std::uint32_t events, Watched& watched, bool again) {
  epoll_event event{.events = events, .data = {.ptr = &watched}};
  epoll_ctl(epoll_.get(), again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

void Worker::listen(bool on) {
  if (listening_ == on) return;
  listening_ = on;
  for (Listener& listener : listeners_) {
    if (on)
      watch(listener.fd, EPOLLIN | EPOLLEXCLUSIVE, listener, false);
    else
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener.fd, nullptr);
  }
}

int Worker::pause_ms() const {
  if (!again_.empty()) return 0;
  return static_cast<int>((later_.empty() ? kTick : keyx::kRetryDelay).count());
}

void Worker::run() {
  pthread_setname_np(pthread_self(), "psp-proxy-work");
  ops();
  listen(true);
  epoll_event events[kEvents];
  for (;;) {
    const int n = epoll_wait(epoll_.get(), events, kEvents, pause_ms());
    now_ = Clock::now();
    for (int i = 0; i < n; ++i) static_cast<Watched*>(events[i].data.ptr)->ready(events[i].events);
    for (Session* session : std::exchange(again_, {})) session->resume();
    if (now_ >= later_due_)
      for (Session* session : std::exchange(later_, {})) session->resume();
    if (now_ >= next_tick_) tick();
    bury();
    if (wish_ != Wish::kRun) listen(false);
    if (wish_ == Wish::kStop || (wish_ == Wish::kDrain && sessions_.empty())) break;
  }
  while (!sessions_.empty()) sessions_.front()->stop();
  bury();
  ended_ = true;
}

void Worker::run_later(Session& session) {
  if (later_.empty()) later_due_ = now_ + keyx::kRetryDelay;
  later_.push_back(&session);
}

void Worker::bury() {
  if (over_.empty()) return;
  const auto gone = [](const Session* session) { return session->over(); };
  std::erase_if(again_, gone);
  std::erase_if(later_, gone);
  over_.clear();
}

void Worker::tick() {
  next_tick_ = now_ + kTick;
  if (wish_ == Wish::kRun) listen(true);  // again, if descriptors had run out
  // An upgrade that began may have taken the news already.
  provider_news();
  for (auto next = sessions_.begin(); next != sessions_.end();) (*next++)->tick(now_);
}

void Worker::accept_from(int listener) {
  for (int i = 0; i < kAccepts && wish_ == Wish::kRun && accept_one(listener); ++i) {
  }
}

bool Worker::accept_one(int listener) {
  Address from{.size = sizeof from.storage};
  UniqueFd fd(accept4(listener, from.get(), &from.size, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) {
    if (errno == EINTR || errno == ECONNABORTED) return true;
    if (errno == EAGAIN) return false;
    spdlog::error("cannot accept connections: {}; trying again", std::strerror(errno));
    listen(false);
    return false;
  }
  counters_.accepted.add();
  if (shared_.active.load(std::memory_order_relaxed) >= shared_.options.max_connections) {
    reset_on_close(fd.get());
    refuse_for_limit(from);
    return true;
  }
  std::unique_ptr<HalfOpen::Place> place;
  if (shared_.options.serve) place = shared_.half_open.admit(from, fd.get());
  prepare(fd.get());
  sessions_.push_front(std::make_unique<Session>(*this, std::move(fd), from, std::move(place)));
  Session& session = *sessions_.front();
  session.self = sessions_.begin();
  session.begin();
  return true;
}

void Worker::refuse_for_limit(const Address& from) {
  counters_.over.add();
  counters_.refused[static_cast<std::size_t>(Refusal::kLimit)].add();
  if (now_ < next_limit_log_) return;
  next_limit_log_ = now_ + kLimitLog;
  spdlog::warn("{}: refused (limit): there are {} connections already; see --max-connections",
               from.text(), shared_.options.max_connections);
}

std::shared_ptr<keyx::PspOps> Worker::ops() {
  auto ops = provider_.ops();
  if (!watching_news_ && provider_.fd() >= 0) {
    watching_news_ = true;
    watch(provider_.fd(), EPOLLIN, news_, false);
  }
  return ops;
}

void Worker::provider_news() {
  const Provider::News news = provider_.process();
  if (provider_.fd() < 0) watching_news_ = false;
  if (news == Provider::News::kNone) return;
  const Counter& stale = counters_.ended[static_cast<std::size_t>(Ending::kStale)];
  const auto before = stale.get();
  const bool gone = news == Provider::News::kGone;
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    Session& session = **next++;
    gone ? session.key_gone() : session.check_key();
  }
  const auto died = stale.get() - before;
  const auto aging =
      std::ranges::count_if(sessions_, [](const auto& session) { return session->ages(); });
  if (gone)
    spdlog::warn("pspd of this host has ended: {} connections with it", died);
  else if (aging + static_cast<long>(died) > 0)
    spdlog::warn(
        "a device key of this host has rotated: {} connections stand on the one before it and will "
        "be reset by the next rotation, {} were reset now",
        aging, died);
}

}  // namespace psp::proxy
