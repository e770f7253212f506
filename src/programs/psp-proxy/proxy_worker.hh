// SPDX-License-Identifier: Apache-2.0
//
// ProxyWorker: one thread with its own epoll, its own connection to pspd and its share of the
// sessions. Workers wait for the same listeners; whoever is free takes the next connection.
//
// Threading: run() is the thread's. drain() and stop() may be called by any other; counters() may
// be read by any.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "local_psp.hh"
#include "options.hh"
#include "session.hh"
#include "splice_relay.hh"

namespace psp::proxy {

// Shared is what all workers have in common. It outlives them.
struct Shared {
  const Options& options;
  Credentials& credentials;
  Target& target;
  std::vector<UniqueFd> listeners;
  HalfOpen half_open{options.half_open};
  std::atomic<unsigned> active{0};  // without those that are half open
};

class ProxyWorker {
 public:
  explicit ProxyWorker(Shared& shared);
  ~ProxyWorker();
  ProxyWorker(const ProxyWorker&) = delete;
  ProxyWorker& operator=(const ProxyWorker&) = delete;

  // start is an errno if there are no descriptors or no memory for it; 0: it runs.
  int start();
  // drain takes no more connections and ends with the last one; stop ends at once.
  void drain() { ask(Wish::kDrain); }
  void stop() { ask(Wish::kStop); }
  bool ended() const { return ended_; }
  const Counters& counters() const { return counters_; }

 private:
  friend class Session;

  enum class Wish { kRun, kDrain, kStop };
  // Listener is one listening socket as this worker waits for it.
  struct Listener final : Watched {
    Listener(ProxyWorker& owner, int socket) : worker(owner), fd(socket) {}
    void ready(std::uint32_t) override { worker.accept_from(fd); }
    ProxyWorker& worker;
    int fd;
    bool on = false;  // it is being watched
  };
  struct News final : Watched {
    explicit News(ProxyWorker& owner) : worker(owner) {}
    void ready(std::uint32_t) override {
      worker.hear([this] { worker.provider_news(); });
    }
    ProxyWorker& worker;
  };
  struct Wake final : Watched {
    void ready(std::uint32_t) override {}
  };

  void ask(Wish wish);
  void run();
  int pause_ms() const;
  void listen(bool on);
  void accept_from(int listener);
  bool accept_one(int listener);
  void refuse_for_limit(const SocketAddress& from);
  void welcome(UniqueFd fd, const SocketAddress& from);
  // hear asks pspd, or listens to it: where memory runs out, the next tick or upgrade does again.
  template <typename Ask>
  static void hear(const Ask& ask) {
    try {
      ask();
    } catch (const std::bad_alloc&) {
      heard_nothing();
    }
  }
  static void heard_nothing();
  void provider_news();
  void tick();
  void reap();

  // What sessions ask of their worker.
  std::shared_ptr<keyx::PspOps> ops();
  // watch: false, with errno, if the kernel has no memory for it, or watches enough.
  [[nodiscard]] bool watch(int fd, std::uint32_t events, Watched& watched, bool again);
  // attempt does a piece of a session's work: where memory runs out only the session is given up.
  template <typename Work>
  static void attempt(Session& session, const Work& work) {
    try {
      work();
    } catch (const std::bad_alloc&) {
      session.give_up("out of memory");
    }
  }
  void run_again(Session& session) { again_.push_back(&session); }
  void run_later(Session& session);

  Shared& shared_;
  UniqueFd epoll_, wake_fd_;
  Wake wake_;
  News news_{*this};
  int news_fd_ = -1;  // that is being watched
  std::list<Listener> listeners_;
  LocalPsp psp_;
  PipePool pipes_;
  Counters counters_;
  std::list<std::unique_ptr<Session>> sessions_, over_;
  std::vector<Session*> again_, later_;
  Clock::time_point now_, next_tick_, next_limit_log_, later_due_;
  std::atomic<Wish> wish_{Wish::kRun};
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace psp::proxy
