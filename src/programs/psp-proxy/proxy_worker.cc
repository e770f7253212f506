// SPDX-License-Identifier: Apache-2.0
//
// A turn of the loop: what is ready, then sessions that have used up their share, then those that
// wait to try again, then the tick. A session that ends does so in the middle of a turn, where
// events may still name it: its memory goes at the end of the turn. When descriptors run out the
// worker stops listening until the next tick.
#include "proxy_worker.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <system_error>

#include "base/counted.hh"

#include "socket.hh"

namespace psp::proxy {
namespace {

constexpr int kEvents = 64;
constexpr std::chrono::milliseconds kTick{250};
constexpr std::chrono::seconds kLimitLog{1};
// How many connections are accepted before those that are there have their turn: a flood must not
// fill the kernel's queue, where nobody chooses who goes.
constexpr int kAccepts = 64;

}  // namespace

ProxyWorker::ProxyWorker(Shared& shared)
    : shared_(shared),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      psp_(shared.options.socket),
      now_(Clock::now()) {
  for (const UniqueFd& fd : shared_.listeners) listeners_.emplace_back(*this, fd.get());
}

ProxyWorker::~ProxyWorker() {
  if (!thread_.joinable()) return;
  stop();
  thread_.join();
}

int ProxyWorker::start() {
  if (!epoll_ || !wake_fd_) return EMFILE;
  if (!watch(wake_fd_.get(), EPOLLIN | EPOLLET, wake_, false)) return errno;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  return 0;
}

void ProxyWorker::ask(Wish wish) {
  wish_ = wish;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_.get(), &one, sizeof one);
}

bool ProxyWorker::watch(int fd, std::uint32_t events, Watched& watched, bool again) {
  epoll_event event{.events = events, .data = {.ptr = &watched}};
  return epoll_ctl(epoll_.get(), again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) == 0;
}

// listen: what cannot be watched now is tried again at the next tick.
void ProxyWorker::listen(bool on) {
  for (Listener& listener : listeners_) {
    if (listener.on == on) continue;
    if (!on) (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener.fd, nullptr);
    listener.on = on && watch(listener.fd, EPOLLIN | EPOLLEXCLUSIVE, listener, false);
  }
}

int ProxyWorker::pause_ms() const {
  if (!again_.empty()) return 0;
  return static_cast<int>((later_.empty() ? kTick : keyx::kRetryDelay).count());
}

void ProxyWorker::run() {
  pthread_setname_np(pthread_self(), "psp-proxy-work");
  hear([this] { ops(); });
  listen(true);
  epoll_event events[kEvents];
  for (;;) {
    const int n = epoll_wait(epoll_.get(), events, kEvents, pause_ms());
    now_ = Clock::now();
    for (int i = 0; i < n; ++i) static_cast<Watched*>(events[i].data.ptr)->ready(events[i].events);
    for (Session* session : std::exchange(again_, {}))
      attempt(*session, [&] { session->resume(); });
    if (now_ >= later_due_)
      for (Session* session : std::exchange(later_, {}))
        attempt(*session, [&] { session->resume(); });
    if (now_ >= next_tick_) tick();
    reap();
    if (wish_ != Wish::kRun) listen(false);
    if (wish_ == Wish::kStop || (wish_ == Wish::kDrain && sessions_.empty())) break;
  }
  while (!sessions_.empty()) {
    Session& session = *sessions_.front();
    attempt(session, [&] { session.stop(); });
  }
  reap();
  ended_ = true;
}

void ProxyWorker::run_later(Session& session) {
  if (later_.empty()) later_due_ = now_ + keyx::kRetryDelay;
  later_.push_back(&session);
}

void ProxyWorker::reap() {
  if (over_.empty()) return;
  const auto gone = [](const Session* session) { return session->over(); };
  std::erase_if(again_, gone);
  std::erase_if(later_, gone);
  over_.clear();
}

void ProxyWorker::tick() {
  next_tick_ = now_ + kTick;
  if (wish_ == Wish::kRun) listen(true);  // again, if descriptors had run out
  // An upgrade that began may have taken the news already.
  hear([this] { provider_news(); });
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    Session& session = **next++;
    attempt(session, [&] { session.tick(now_); });
  }
}

void ProxyWorker::accept_from(int listener) {
  try {
    for (int i = 0; i < kAccepts && wish_ == Wish::kRun && accept_one(listener); ++i) {
    }
  } catch (const std::bad_alloc&) {
    spdlog::error("a connection is refused: out of memory");
  }
}

bool ProxyWorker::accept_one(int listener) {
  SocketAddress from{.size = sizeof from.storage};
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
  try {
    welcome(std::move(fd), from);
  } catch (const std::bad_alloc&) {
    counters_.over.add();
    counters_.refused[static_cast<std::size_t>(Refusal::kProtocol)].add();
    throw;
  }
  return true;
}

// welcome makes a session of a connection. Out of memory: there is none.
void ProxyWorker::welcome(UniqueFd fd, const SocketAddress& from) {
  std::unique_ptr<HalfOpen::Slot> slot;
  if (shared_.options.serve) slot = shared_.half_open.admit(from, fd.get());
  prepare(fd.get());
  std::list<std::unique_ptr<Session>> fresh(1);
  fresh.front() = std::make_unique<Session>(*this, std::move(fd), from, std::move(slot));
  Session& session = *fresh.front();
  sessions_.splice(sessions_.begin(), fresh);
  session.self = sessions_.begin();
  attempt(session, [&] { session.begin(); });
}

void ProxyWorker::refuse_for_limit(const SocketAddress& from) {
  counters_.over.add();
  counters_.refused[static_cast<std::size_t>(Refusal::kLimit)].add();
  if (now_ < next_limit_log_) return;
  next_limit_log_ = now_ + kLimitLog;
  spdlog::warn(
      "{}: refused (limit): {} already; see --max-connections", from.text(),
      counted(shared_.options.max_connections, "connection is there", "connections are there"));
}

std::shared_ptr<keyx::PspOps> ProxyWorker::ops() {
  auto ops = psp_.ops();
  if (news_fd_ != psp_.fd() && psp_.fd() >= 0) {
    news_fd_ = watch(psp_.fd(), EPOLLIN, news_, false) ? psp_.fd() : -1;
  }
  return ops;
}

void ProxyWorker::heard_nothing() { spdlog::error("pspd is asked again later: out of memory"); }

void ProxyWorker::provider_news() {
  const LocalPsp::News news = psp_.process();
  if (psp_.fd() < 0) news_fd_ = -1;
  if (news == LocalPsp::News::kNone) return;
  const Counter& stale = counters_.ended[static_cast<std::size_t>(Ending::kStale)];
  const auto before = stale.get();
  const bool gone = news == LocalPsp::News::kGone;
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    Session& session = **next++;
    attempt(session, [&] { gone ? session.key_gone() : session.check_key(); });
  }
  const auto died = stale.get() - before;
  const auto aging =
      std::ranges::count_if(sessions_, [](const auto& session) { return session->ages(); });
  if (gone)
    spdlog::warn("pspd of this host has ended: {} with it", counted(died, "connection"));
  else if (aging + static_cast<long>(died) > 0)
    spdlog::warn(
        "a device key of this host has rotated: {} on the one before it, to be reset by the next "
        "rotation, {} reset now",
        counted(static_cast<std::uint64_t>(aging), "connection stands", "connections stand"),
        counted(died, "was", "were"));
}

}  // namespace psp::proxy
