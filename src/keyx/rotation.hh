// SPDX-License-Identifier: Apache-2.0
//
// Device keys rotate, and the second rotation ends every connection that stands on the key of
// before the first. RotationWatch tells, per connection, when that must be provided for.
// psp::tls::Succession (psp/tls.hh) puts a fresh connection in the place of the old one.
//
// Threading: a RotationWatch and its Tickets belong to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "netlink/client.hh"

namespace psp::keyx {

// NotificationSource is where notifications come from: psp::Client, or a list in tests.
class NotificationSource {
 public:
  virtual ~NotificationSource() = default;
  virtual int fd() const = 0;
  // next does not wait. nullopt: none for now. ENOBUFS: some were lost. Any other error is the end
  // of the source.
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
  // connect subscribes at the kernel's family and at pspd, if both are there.
  static ClientResult<RotationWatch> connect(
      const std::optional<std::string>& socket = chosen_socket());
  explicit RotationWatch(std::unique_ptr<NotificationSource> source);
  RotationWatch(RotationWatch&&) noexcept;
  RotationWatch& operator=(RotationWatch&&) noexcept;
  ~RotationWatch();

  // fd is readable when there is something to process; -1 when the source has ended.
  int fd() const;
  // process takes what has come, without waiting. Returns how many tickets changed. When
  // notifications were lost every ticket of before is kUnknown; when the source ends (pspd went
  // away) every ticket is, and a new watch is needed.
  unsigned process();

  // Ticket is one connection's. It may outlive its watch: from the watch's end on nobody tells what
  // happens, so that its state is then kUnknown, or kRenew or kStale if it was so already.
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

}  // namespace psp::keyx
