// SPDX-License-Identifier: Apache-2.0
#include "provider.hh"

#include <psp/netlink/client.hh>

namespace psp::proxy {
namespace {

// For many connections a second, devices need not be asked for with each.
constexpr std::chrono::seconds kRemember{1};

}  // namespace

std::optional<std::uint32_t> Provider::daemon_pid() const {
  auto client = Client::connect(socket_);
  if (!client) return std::nullopt;
  if (client->provider() == Client::Provider::kKernel) return 0;
  const auto info = client->daemon_info();
  return info ? std::optional(info->pid) : std::nullopt;
}

std::shared_ptr<keyx::PspOps> Provider::ops() {
  if (ops_) return ops_;
  pid_ = daemon_pid();
  if (!pid_) return keyx::connect_or_absent(socket_);  // only to say why
  auto ops = keyx::connect_ops(socket_, kRemember);
  auto watch = keyx::RotationWatch::connect(socket_);
  if (!ops || !watch) return keyx::connect_or_absent(socket_);
  ops_ = std::move(*ops);
  watch_.emplace(std::move(*watch));
  return ops_;
}

keyx::RotationWatch::Ticket Provider::begin() {
  return watch_ ? watch_->begin() : keyx::RotationWatch::Ticket();
}

Provider::News Provider::process() {
  if (!watch_) return News::kNone;
  const unsigned changed = watch_->process();
  if (watch_->fd() >= 0) return changed > 0 ? News::kRotated : News::kNone;
  const auto before = pid_;
  watch_.reset();
  ops_.reset();
  return daemon_pid() == before ? News::kLost : News::kGone;
}

}  // namespace psp::proxy
