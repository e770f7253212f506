// SPDX-License-Identifier: Apache-2.0
//
// Device keys rotate, and the second rotation ends every connection that stands on the key of
// before the first. RotationWatch tells, per connection, when that must be provided for; Succession
// puts a fresh connection in the place of the old one between two messages.
//
// Threading: a RotationWatch, its Tickets and Successions belong to one thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <psp/base/unique_fd.hh>
#include <psp/keyx/tls.hh>
#include <psp/keyx/upgrade.hh>
#include <psp/netlink/client.hh>

namespace psp::keyx {

// NotificationSource is where notifications come from: psp::Client, or a list in tests.
class NotificationSource {
 public:
  virtual ~NotificationSource() = default;
  virtual int fd() const = 0;
  // next does not wait. nullopt: none for now. An error is the end of the source.
  virtual ClientResult<std::optional<Notification>> next() = 0;
};

// Freshness is how long a connection may still live.
enum class Freshness {
  kFresh,    // it stands on the newest device key
  kRenew,    // its device has rotated once: establish another one before it rotates again
  kStale,    // it has rotated twice, or has gone: the connection is dead
  kUnknown,  // notifications were lost: renew, to be sure
};

// RotationWatch follows the key-rotate-ntf of all devices of this host. The peer's device is the
// peer's affair: each side watches its own.
class RotationWatch {
 public:
  // connect subscribes at the kernel's family or pspd.
  static ClientResult<RotationWatch> connect(const std::string& socket = default_socket());
  explicit RotationWatch(std::unique_ptr<NotificationSource> source);
  RotationWatch(RotationWatch&&) noexcept;
  RotationWatch& operator=(RotationWatch&&) noexcept;
  ~RotationWatch();

  // fd is readable when there is something to process; -1 when the source has ended.
  int fd() const;
  // process takes what has come, without waiting. Returns how many tickets changed. When the
  // source ends (pspd went away) every ticket is kUnknown and a new watch is needed.
  unsigned process();

  // Ticket is one connection's. It must not outlive the watch it comes from by a call of state().
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&&) noexcept = default;
    Ticket& operator=(Ticket&&) noexcept = default;
    // bind says which device the connection stands on (Outcome::dev_id). Before that any
    // rotation of any device counts.
    void bind(std::uint32_t dev_id);
    Freshness state() const;

   private:
    friend class RotationWatch;
    struct Counts;
    std::shared_ptr<Counts> counts_;
  };
  // begin is called BEFORE the upgrade, so that a rotation in its middle is not missed. It does
  // what process does, too: the states of other tickets may have changed.
  Ticket begin();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Succession replaces one PSP connection by another without losing a message:
//
//     Succession next(dial, ops, policy);      // when a ticket says kRenew
//     while (next.step() == kWant...) wait;    // the old connection goes on meanwhile
//     ... the message that is being written to the old one is finished ...
//     shutdown(old, SHUT_WR); fd = next.take_fd();   // switch_over does both
//     ... what is written goes to fd; `old` is read to its end, then closed ...
//
// The peer needs no more than to answer on the connection by which it was asked, and to close what
// its other side has ended.
class Succession {
 public:
  // Fresh is a connection under way: `dial` sets both, and is asked again until it says kDone.
  struct Fresh {
    UniqueFd fd;
    SslPtr ssl;  // freed before fd
  };
  // Dial connects and does the TLS handshake, step by step or blocking. What it wants, it wants of
  // fresh.fd. kDone: the handshake is done, the peer is whom it must be.
  using Dial = std::function<std::expected<Step, Error>(Fresh& fresh)>;

  Succession(Dial dial, PspOps& ops, const Policy& policy);
  ~Succession();
  Succession(const Succession&) = delete;
  Succession& operator=(const Succession&) = delete;

  // step: kDone, the successor is ready; kFailed, see error(): the old connection is untouched, try
  // again later. kWantRead and kWantWrite are about poll_fd().
  Step step();
  int poll_fd() const { return fresh_.fd.get(); }
  const Error& error() const { return error_; }
  const Outcome& outcome() const { return upgrade_->outcome(); }  // after kDone

  // Switched is what switch_over leaves: the connection to write to, TLS where the policy allows
  // it, and what the peer's application has said already.
  struct Switched {
    UniqueFd fd;
    SslPtr ssl;  // only with Outcome::kTls
    Outcome outcome;
    std::vector<std::uint8_t> early;
  };
  // switch_over is called between two messages, once, after kDone. It ends the writing side of the
  // old connection (a PSP socket): read it until it ends, then close it.
  Switched switch_over(int old_fd);

 private:
  Step fail(Error error);

  Dial dial_;
  PspOps& ops_;
  Policy policy_;
  Fresh fresh_;
  std::unique_ptr<Upgrade> upgrade_;
  bool failed_ = false;
  Error error_;
};

}  // namespace psp::keyx
