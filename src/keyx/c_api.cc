// SPDX-License-Identifier: Apache-2.0
//
// psp/tls.h over Upgrade and RotationWatch. No exception leaves: want of memory is a failure like
// another. A caller's struct may be shorter or longer than ours (base/sized.hh). The run function
// is the only one here that waits; it has the socket non-blocking meanwhile, so that its time-out
// holds, and leaves it as it was. libpsp-tls for C++ (psp/tls.hh) and Python are made of these
// calls.
//
// Threading: one user at a time for each object.
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <new>
#include <poll.h>

#include "base/sized.hh"
#include "keyx/client_ops.hh"
#include "keyx/rotation.hh"
#include "keyx/upgrade.hh"
#include <psp/tls.h>

using psp::keyx::Error;
using psp::keyx::ErrorCode;
using psp::keyx::Freshness;
using psp::keyx::Outcome;
using psp::keyx::RotationWatch;
using psp::keyx::Step;

struct psp_upgrade_state {
  int fd = -1;
  std::unique_ptr<psp::keyx::PspOps> ops;
  std::unique_ptr<psp::keyx::Upgrade> upgrade;
  std::optional<Error> error;  // of our own, or a copy
  std::string message;
};

struct psp_rotation {
  RotationWatch watch;
};

struct psp_ticket {
  RotationWatch::Ticket ticket;
};

namespace {

using Clock = std::chrono::steady_clock;

// fields is `from` where it is long enough to have them all, else the defaults.
psp_upgrade_options fields(const psp_upgrade_options* from) {
  psp_upgrade_options out = PSP_UPGRADE_OPTIONS_INIT;
  if (from != nullptr) std::memcpy(&out, from, std::min(from->size, sizeof out));
  return out;
}

std::expected<psp::keyx::Policy, Error> to_policy(const psp_upgrade_options& options) {
  psp::keyx::Policy policy;
  if (options.versions != 0) policy.versions = {options.versions};
  policy.allow_tls = options.policy == PSP_UPGRADE_PREFERRED;
  if (options.early_max != 0) policy.early_max = options.early_max;
  if (options.protocol != nullptr) {
    const auto protocol = psp::keyx::parse_protocol(options.protocol);
    if (!protocol)
      return std::unexpected(Error{ErrorCode::kUsage, EINVAL,
                                   fmt::format("there is no protocol \"{}\"", options.protocol)});
    policy.protocol = *protocol;
  }
  if (options.policy != PSP_UPGRADE_REQUIRED && options.policy != PSP_UPGRADE_PREFERRED)
    return std::unexpected(Error{ErrorCode::kUsage, EINVAL, "there is no such policy"});
  return policy;
}

// socket_of is where pspd is, if the caller or $PSP_SOCKET says so.
std::optional<std::string> socket_of(const char* pspd) {
  return pspd != nullptr ? std::optional<std::string>(pspd) : psp::chosen_socket();
}

// make builds an upgrade by `begin`, which gets ops and policy.
template <typename Begin>
psp_upgrade_state* make(int fd, const psp_upgrade_options* from, Begin&& begin) {
  auto up = std::make_unique<psp_upgrade_state>();
  up->fd = fd;
  const psp_upgrade_options options = fields(from);
  const auto policy = to_policy(options);
  if (!policy) {
    up->error = policy.error();
    return up.release();
  }
  up->ops = psp::keyx::connect_or_absent(socket_of(options.pspd));
  up->upgrade = begin(*up->ops, *policy);
  return up.release();
}

int failed(psp_upgrade_state& up, Error error) {
  up.error = std::move(error);
  return PSP_UPGRADE_FAILED;
}

int to_status(psp_upgrade_state& up, Step step) {
  switch (step) {
    case Step::kDone:
      return up.upgrade->outcome().kind == Outcome::Kind::kPsp ? PSP_UPGRADE_PSP : PSP_UPGRADE_TLS;
    case Step::kWantRead:
      return PSP_UPGRADE_WANT_READ;
    case Step::kWantWrite:
      return PSP_UPGRADE_WANT_WRITE;
    case Step::kWantRetry:
      return PSP_UPGRADE_WANT_RETRY;
    case Step::kWantDrain:
      return PSP_UPGRADE_WANT_DRAIN;
    case Step::kFailed:
      break;
  }
  return failed(up, up.upgrade->error());
}

// guarded is what `body` returns, or what `otherwise` does if it throws: no exception leaves.
template <typename Otherwise, typename Body>
auto guarded(Otherwise&& otherwise, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::exception&) {
    return otherwise();
  }
}

constexpr auto kNull = [] { return nullptr; };

int out_of_memory(psp_upgrade_state& up) {
  return failed(up, {ErrorCode::kUsage, ENOMEM, "out of memory"});
}

// NonBlocking makes a socket non-blocking while it lives.
class NonBlocking {
 public:
  explicit NonBlocking(int fd) : fd_(fd), flags_(fcntl(fd, F_GETFL)) {
    if (flags_ >= 0 && (flags_ & O_NONBLOCK) == 0) fcntl(fd_, F_SETFL, flags_ | O_NONBLOCK);
  }
  ~NonBlocking() {
    if (flags_ >= 0 && (flags_ & O_NONBLOCK) == 0) fcntl(fd_, F_SETFL, flags_);
  }
  NonBlocking(const NonBlocking&) = delete;
  NonBlocking& operator=(const NonBlocking&) = delete;

 private:
  int fd_, flags_;
};

// wait_for waits for what `status` wants; `left` is in milliseconds, negative for ever.
void wait_for(int status, int fd, int left) {
  if (status == PSP_UPGRADE_WANT_RETRY) {
    poll(nullptr, 0, left < 0 ? PSP_UPGRADE_RETRY_MS : std::min(PSP_UPGRADE_RETRY_MS, left));
    return;
  }
  pollfd p{fd, static_cast<short>(status == PSP_UPGRADE_WANT_WRITE ? POLLOUT : POLLIN), 0};
  poll(&p, 1, left);
}

int left_until(Clock::time_point end) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
  return static_cast<int>(std::max<std::int64_t>(0, left));
}

}  // namespace

static_assert(psp::keyx::kRetryDelay == std::chrono::milliseconds(PSP_UPGRADE_RETRY_MS));
static_assert(static_cast<int>(ErrorCode::kIo) + 1 == PSP_UPGRADE_ERROR_IO &&
              static_cast<int>(ErrorCode::kTimeout) + 1 == PSP_UPGRADE_ERROR_TIMEOUT);
static_assert(static_cast<int>(Freshness::kFresh) == PSP_FRESH &&
              static_cast<int>(Freshness::kRenew) == PSP_RENEW &&
              static_cast<int>(Freshness::kStale) == PSP_STALE &&
              static_cast<int>(Freshness::kUnknown) == PSP_UNKNOWN);

struct psp_upgrade_state* psp_upgrade_new(SSL* ssl, const struct psp_upgrade_options* options) {
  return guarded(kNull, [&] {
    return make(SSL_get_fd(ssl), options,
                [&](psp::keyx::PspOps& ops, const psp::keyx::Policy& policy) {
                  return psp::keyx::make_upgrade(ssl, ops, policy);
                });
  });
}

struct psp_upgrade_state* psp_upgrade_new_clear(int fd, const struct psp_upgrade_options* options) {
  return guarded(kNull, [&] {
    return make(fd, options, [&](psp::keyx::PspOps& ops, const psp::keyx::Policy& policy) {
      return psp::keyx::make_clear_upgrade(fd, ops, policy);
    });
  });
}

int psp_upgrade(struct psp_upgrade_state* up) {
  if (up->error) return PSP_UPGRADE_FAILED;
  return guarded([&] { return out_of_memory(*up); },
                 [&] { return to_status(*up, up->upgrade->step()); });
}

namespace {

int run(psp_upgrade_state* up, int timeout_ms) {
  const NonBlocking non_blocking(up->fd);
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    const int status = psp_upgrade(up);
    if (status < PSP_UPGRADE_WANT_READ || status == PSP_UPGRADE_WANT_DRAIN) return status;
    const int left = timeout_ms < 0 ? -1 : left_until(end);
    if (left == 0)
      return failed(*up, {ErrorCode::kTimeout, ETIMEDOUT,
                          fmt::format("gave up after {} ms without {}", timeout_ms,
                                      up->upgrade->waiting_for())});
    wait_for(status, up->fd, left);
  }
}

}  // namespace

int psp_upgrade_run(struct psp_upgrade_state* up, int timeout_ms) {
  return guarded([&] { return out_of_memory(*up); }, [&] { return run(up, timeout_ms); });
}

size_t psp_upgrade_pending(const struct psp_upgrade_state* up) {
  return up->upgrade ? up->upgrade->pending() : 0;
}

size_t psp_upgrade_read(struct psp_upgrade_state* up, void* buffer, size_t size) {
  return up->upgrade ? up->upgrade->read({static_cast<std::uint8_t*>(buffer), size}) : 0;
}

const char* psp_upgrade_message(const struct psp_upgrade_state* up) {
  if (up->error) return up->error->message.c_str();
  if (!up->upgrade->outcome().why_tls.empty()) return up->upgrade->outcome().why_tls.c_str();
  return up->upgrade->waiting_for();
}

int psp_upgrade_error(const struct psp_upgrade_state* up) {
  return up->error ? static_cast<int>(up->error->code) + 1 : PSP_UPGRADE_ERROR_NONE;
}

int psp_upgrade_get_info(const struct psp_upgrade_state* up, struct psp_upgrade_info* info) {
  if (!psp::fill(info, {}) || up->error || !up->upgrade->done()) return -EINVAL;
  const Outcome& outcome = up->upgrade->outcome();
  if (outcome.kind != Outcome::Kind::kPsp) return -EINVAL;
  const psp_upgrade_info value = {.size = 0,
                                  .version = static_cast<uint32_t>(outcome.version),
                                  .dev_id = outcome.dev_id,
                                  .rx_spi = outcome.rx_spi.value,
                                  .tx_spi = outcome.tx_spi.value,
                                  .proven = outcome.proven};
  return psp::fill(info, value) ? 0 : -EINVAL;
}

void psp_upgrade_free(struct psp_upgrade_state* up) {
  std::unique_ptr<struct psp_upgrade_state>{up}.reset();
}

int psp_upgrade_announce(SSL_CTX* ctx) { return psp::keyx::announce(ctx) ? 0 : -EINVAL; }

int psp_upgrade_announced(const SSL* ssl) {
  switch (psp::keyx::announced(ssl)) {
    case psp::keyx::Announced::kYes:
      return 1;
    case psp::keyx::Announced::kNo:
      return 0;
    case psp::keyx::Announced::kNotAsked:
      break;
  }
  return -1;
}

namespace {

psp_rotation* watch(const char* pspd, psp_error* err) {
  auto watch = RotationWatch::connect(socket_of(pspd));
  if (watch) return std::make_unique<psp_rotation>(std::move(*watch)).release();
  psp_error value{};
  watch.error().message.copy(value.text, sizeof value.text - 1);
  psp::store_error(err, value);
  return nullptr;
}

}  // namespace

struct psp_rotation* psp_rotation_new(const char* pspd, struct psp_error* err) {
  psp::store_error<psp_error>(err, {});
  return guarded(kNull, [&] { return watch(pspd, err); });
}

int psp_rotation_fd(const struct psp_rotation* watch) { return watch->watch.fd(); }

int psp_rotation_process(struct psp_rotation* watch) {
  return guarded([] { return 0; }, [&] { return static_cast<int>(watch->watch.process()); });
}

void psp_rotation_free(struct psp_rotation* watch) { std::unique_ptr<psp_rotation>{watch}.reset(); }

struct psp_ticket* psp_ticket_new(struct psp_rotation* watch) {
  return guarded(kNull,
                 [&] { return std::make_unique<psp_ticket>(watch->watch.begin()).release(); });
}

void psp_ticket_bind(struct psp_ticket* ticket, uint32_t dev_id) { ticket->ticket.bind(dev_id); }

int psp_ticket_state(const struct psp_ticket* ticket) {
  return static_cast<int>(ticket->ticket.state());
}

void psp_ticket_free(struct psp_ticket* ticket) { std::unique_ptr<psp_ticket>{ticket}.reset(); }
