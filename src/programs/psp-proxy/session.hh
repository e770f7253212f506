// SPDX-License-Identifier: Apache-2.0
//
// Session: one proxied connection from its accept to its end. Its two sides are the clear socket,
// to the program of this host, and the peer socket, to the other proxy:
//
//     --listen      accepted in clear: connect to the peer, TLS, upgrade, relay
//     --listen-psp  accepted from the peer: TLS, upgrade, connect to the program, relay
//
// The side that was accepted is not read before there is somebody to read it.
//
// Threading: that of its worker.
#pragma once

#include <chrono>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "keyx/rotation.hh"
#include "keyx/tls.hh"
#include "keyx/upgrade.hh"

#include "counters.hh"
#include "credentials.hh"
#include "half_open.hh"
#include "relay.hh"
#include "target.hh"

namespace psp::proxy {

class ProxyWorker;

using Clock = std::chrono::steady_clock;

// Watched is what epoll calls back.
class Watched {
 public:
  virtual void ready(std::uint32_t events) = 0;

 protected:
  ~Watched() = default;
};

class Session {
 public:
  // A peer's has a slot among the half open until it is through.
  Session(ProxyWorker& worker, UniqueFd accepted, const SocketAddress& from,
          std::unique_ptr<HalfOpen::Slot> slot);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // begin starts it. A session that is over stays until its worker takes it away.
  void begin();
  // resume goes on after a delay that the session asked its worker for.
  void resume();
  // tick looks at the clock and at the device key that the connection stands on.
  void tick(Clock::time_point now);
  void check_key();
  // key_gone: pspd has ended.
  void key_gone();
  // stop ends it now.
  void stop();
  // give_up ends it where something is missing that it cannot go on without. Takes no memory.
  void give_up(const char* what);

  bool over() const { return stage_ == Stage::kOver; }
  // ages: the connection stands on a device key that is not the newest.
  bool ages() const { return ages_; }

  std::list<std::unique_ptr<Session>>::iterator self;  // the worker's

 private:
  enum class Stage { kSilent, kConnecting, kHandshake, kUpgrade, kRelay, kParting, kOver };
  struct Side final : Socket, Watched {
    explicit Side(Session& owner) : session(owner) {}
    void ready(std::uint32_t events) override;
    Session& session;
    bool watched = false;
  };

  void hear();
  bool let_in();
  void on_ready(Side& side, std::uint32_t events);
  void connect_next();
  void connected();
  void start_tls();
  void step_handshake();
  bool peer_allowed();
  void start_upgrade();
  void step_upgrade();
  void upgraded();
  void start_relay();
  void turn();
  void count_moved();
  std::string time_is_up() const;
  void part();
  void read_away();
  // refuse ends a session that has not carried data yet; end one that has.
  void refuse(Refusal reason, const std::string& why);
  void log_refusal(Refusal reason, const std::string& why) const;
  void end(Ending how, const std::string& why);
  void close_both(bool reset);

  bool watch(Side& side, std::uint32_t events);
  // wait_for wants one event of `side`; if it is there already it is reported at once.
  void wait_for(Side& side, std::uint32_t events);
  void wait_for(keyx::Step step);
  static void drop(Side& side, bool reset);
  Side& onward() { return serve_ ? clear_ : peer_; }  // the side that we connect
  std::string who() const;                            // for logs

  ProxyWorker& worker_;
  bool serve_;
  Stage stage_ = Stage::kConnecting;
  Side clear_{*this}, peer_{*this};
  std::string from_, peer_name_;
  Clock::time_point started_, deadline_, moved_at_;

  // While it is being established. The slot is given up before the sockets are; then the
  // connection is one of those that --max-connections counts, or over.
  std::unique_ptr<HalfOpen::Slot> slot_;
  bool counted_;
  Target::Addresses addresses_;
  std::size_t next_address_ = 0;
  std::string tried_;
  Credentials::Context context_;
  keyx::SslPtr ssl_;
  std::shared_ptr<keyx::PspOps> ops_;
  std::unique_ptr<keyx::Upgrade> upgrade_;
  crypto::WipedVector early_;

  // While it carries data.
  keyx::RotationWatch::Ticket ticket_;
  std::string protection_;
  bool psp_ = false, ages_ = false;
  std::unique_ptr<Relay> relay_;
  std::uint64_t counted_to_peer_ = 0, counted_from_peer_ = 0;
};

}  // namespace psp::proxy
