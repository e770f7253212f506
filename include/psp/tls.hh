// SPDX-License-Identifier: Apache-2.0
//
// psp/tls.h for C++: the same calls with owners, and Succession, which renews a connection. Header
// only, so that what a program links is the C interface of libpsp-tls and nothing else.
// Want of memory is std::bad_alloc.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include <psp/tls.h>

namespace psp::tls {

// Options are psp_upgrade_options with their defaults: Options options; options.policy = ...
struct Options : psp_upgrade_options {
  Options() : psp_upgrade_options PSP_UPGRADE_OPTIONS_INIT {}
};

// Fd owns a descriptor, SslPtr an SSL.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

struct SslFree {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslPtr = std::unique_ptr<SSL, SslFree>;

// Upgrade owns a psp_upgrade_state; the SSL and the socket stay the caller's and must outlive it.
class Upgrade {
 public:
  explicit Upgrade(SSL* ssl, const Options& options = {}) : up_(psp_upgrade_new(ssl, &options)) {
    if (!up_) throw std::bad_alloc();
  }

  // step and run return an enum psp_upgrade_status.
  int step() { return psp_upgrade(up_.get()); }
  int run(std::chrono::milliseconds timeout) {
    return psp_upgrade_run(up_.get(), static_cast<int>(timeout.count()));
  }
  std::size_t pending() const { return psp_upgrade_pending(up_.get()); }
  std::size_t read(std::span<std::byte> to) {
    return psp_upgrade_read(up_.get(), to.data(), to.size());
  }
  std::string message() const { return psp_upgrade_message(up_.get()); }
  int error() const { return psp_upgrade_error(up_.get()); }
  // info is nullopt before PSP.
  std::optional<psp_upgrade_info> info() const {
    psp_upgrade_info out = PSP_UPGRADE_INFO_INIT;
    return psp_upgrade_get_info(up_.get(), &out) == 0 ? std::optional(out) : std::nullopt;
  }

 private:
  struct Free {
    void operator()(struct psp_upgrade_state* up) const { psp_upgrade_free(up); }
  };
  std::unique_ptr<struct psp_upgrade_state, Free> up_;
};

// Ticket and Rotation own a psp_ticket and a psp_rotation. A Ticket without a watch is PSP_UNKNOWN.
class Ticket {
 public:
  Ticket() = default;
  void bind(std::uint32_t dev_id) { psp_ticket_bind(ticket_.get(), dev_id); }
  psp_freshness state() const {
    if (!ticket_) return PSP_UNKNOWN;
    return static_cast<psp_freshness>(psp_ticket_state(ticket_.get()));
  }

 private:
  friend class Rotation;
  explicit Ticket(psp_ticket* ticket) : ticket_(ticket) {
    if (!ticket_) throw std::bad_alloc();
  }
  struct Free {
    void operator()(psp_ticket* ticket) const { psp_ticket_free(ticket); }
  };
  std::unique_ptr<psp_ticket, Free> ticket_;
};

class Rotation {
 public:
  // watch is nullopt, and `why` says why, if nobody answers.
  static std::optional<Rotation> watch(std::string* why = nullptr, const char* pspd = nullptr) {
    psp_error error = PSP_ERROR_INIT;
    psp_rotation* const made = psp_rotation_new(pspd, &error);
    if (made == nullptr && why != nullptr) *why = error.text;
    return made != nullptr ? std::optional(Rotation(made)) : std::nullopt;
  }
  int fd() const { return psp_rotation_fd(watch_.get()); }
  int process() { return psp_rotation_process(watch_.get()); }
  Ticket begin() { return Ticket(psp_ticket_new(watch_.get())); }

 private:
  explicit Rotation(psp_rotation* watch) : watch_(watch) {}
  struct Free {
    void operator()(psp_rotation* watch) const { psp_rotation_free(watch); }
  };
  std::unique_ptr<psp_rotation, Free> watch_;
};

// Link is a connection with its ticket.
struct Link {
  Fd fd;
  SslPtr ssl;                            // after PSP there is none
  std::optional<psp_upgrade_info> info;  // nullopt: it stayed on TLS
  Ticket ticket;
  std::string early;  // what the peer's application has said already: comes first
};

// Succession makes the connection that takes the place of another one, so that no message is lost:
//
//     Succession next(watch, dial);               // when a ticket says PSP_RENEW, or to begin with
//     ... next.step() until it says PSP (or TLS); the old connection goes on meanwhile ...
//     ... the message that is being written to the old one is finished ...
//     Link now = next.switch_over(old.fd.get());  // ends the writing side of the old one
//     ... what is written goes to `now`; what is read comes from `old` until its end, then from
//     `now`
//
// The peer needs no more than to answer on the connection by which it was asked, and to close what
// its other side has ended. examples/rotating_echo_client.cc is a whole program.
class Succession {
 public:
  // Dial connects, sets `fd` (non-blocking) and `ssl`, and does the TLS handshake. It is called
  // again after PSP_UPGRADE_WANT_READ and WANT_WRITE, which it wants of `fd`. PSP_UPGRADE_TLS: the
  // handshake is done and the peer is whom it must be; PSP_UPGRADE_FAILED: it is not.
  using Dial = std::function<int(Link& link)>;

  Succession(Rotation& watch, Dial dial, const Options& options = {})
      : dial_(std::move(dial)), options_(options) {
    link_.ticket = watch.begin();  // before the upgrade: a rotation in its middle counts
  }

  // step returns an enum psp_upgrade_status; what it wants is about fd(). After PSP_UPGRADE_FAILED
  // the old connection is as before: make another Succession.
  int step() {
    if (!up_) {
      const int dialled = dial_(link_);
      if (dialled != PSP_UPGRADE_TLS) return dialled;
      up_.emplace(link_.ssl.get(), options_);
    }
    return up_->step();
  }
  int fd() const { return link_.fd.get(); }
  std::string message() const { return up_ ? up_->message() : "the dial did not succeed"; }

  // switch_over is called between two messages, once, after PSP_UPGRADE_PSP or TLS. It ends the
  // writing side of the old connection, a PSP socket; -1: there is none.
  Link switch_over(int old_fd = -1) {
    link_.info = up_->info();
    link_.early.resize(up_->pending());
    up_->read(std::as_writable_bytes(std::span(link_.early)));
    up_.reset();
    if (link_.info) {
      link_.ticket.bind(link_.info->dev_id);
      link_.ssl.reset();
    }
    if (old_fd >= 0) ::shutdown(old_fd, SHUT_WR);
    return std::move(link_);
  }

 private:
  Dial dial_;
  Options options_;
  Link link_;
  std::optional<Upgrade> up_;  // goes before the SSL that it uses
};

}  // namespace psp::tls
