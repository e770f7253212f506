// SPDX-License-Identifier: Apache-2.0
//
// psp/tls.h for C++: the same calls with owners. Header only, so that what a program links is the C
// interface of libpsp-tls and nothing else.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <psp/tls.h>

namespace psp::tls {

// Options are psp_upgrade_options with their defaults: Options options; options.policy = ...
struct Options : psp_upgrade_options {
  Options() : psp_upgrade_options PSP_UPGRADE_OPTIONS_INIT {}
};

// Upgrade owns a psp_upgrade; the SSL and the socket stay the caller's. See psp/tls.h.
class Upgrade {
 public:
  explicit Upgrade(SSL* ssl, const Options& options = {}) : up_(psp_upgrade_new(ssl, &options)) {}

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
    psp_upgrade_info out{};
    return psp_upgrade_get_info(up_.get(), &out) == 0 ? std::optional(out) : std::nullopt;
  }

 private:
  struct Free {
    void operator()(struct psp_upgrade_state* up) const { psp_upgrade_free(up); }
  };
  std::unique_ptr<struct psp_upgrade_state, Free> up_;
};

// Ticket and Rotation own a psp_ticket and a psp_rotation.
class Ticket {
 public:
  void bind(std::uint32_t dev_id) { psp_ticket_bind(ticket_.get(), dev_id); }
  psp_freshness state() const {
    return static_cast<psp_freshness>(psp_ticket_state(ticket_.get()));
  }

 private:
  friend class Rotation;
  explicit Ticket(psp_ticket* ticket) : ticket_(ticket) {}
  struct Free {
    void operator()(psp_ticket* ticket) const { psp_ticket_free(ticket); }
  };
  std::unique_ptr<psp_ticket, Free> ticket_;
};

class Rotation {
 public:
  // watch is nullopt, and `why` says why, if nobody answers.
  static std::optional<Rotation> watch(std::string* why = nullptr, const char* pspd = nullptr) {
    psp_error error{};
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

}  // namespace psp::tls
