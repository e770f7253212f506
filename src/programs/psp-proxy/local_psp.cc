// SPDX-License-Identifier: Apache-2.0
//
// Who answers is told apart by the number of pspd's run. When the connection to it ends, that
// number decides: the same run means that notifications were lost and keys may be old, another one
// that all device keys are gone. Where there was the kernel alone, each new connection looks
// whether a pspd has joined it.
#include "local_psp.hh"

#include "keyx/client_ops.hh"

namespace psp::proxy {
namespace {

// For many connections a second, devices need not be asked for with each.
constexpr std::chrono::seconds kRemember{1};

}  // namespace

std::optional<LocalPsp::Instance> LocalPsp::instance() const {
  auto client = Client::connect(socket_);
  if (!client) return std::nullopt;
  if (!client->has(psp::Provider::kDaemon)) return Instance{.kernel = true};
  const auto info = daemon_info(*client);
  return info ? std::optional(Instance{.number = info->instance}) : std::nullopt;
}

// A pspd that does not say which run it is may be another one.
bool LocalPsp::same(const std::optional<Instance>& a, const std::optional<Instance>& b) {
  if (!a || !b || a->kernel != b->kernel) return false;
  return a->kernel || (a->number == b->number && a->number != 0);
}

// joined: so far there was the kernel alone, and now there is a pspd too.
bool LocalPsp::joined() const {
  return instance_ && instance_->kernel && !socket_ && Client::connect_daemon(kCommonSocket);
}

std::shared_ptr<keyx::PspOps> LocalPsp::ops() {
  if (ops_ && !joined()) return ops_;
  instance_ = instance();
  if (!instance_) return keyx::connect_or_absent(socket_);  // only to say why
  auto ops = keyx::connect_ops(socket_, kRemember);
  auto watch = keyx::RotationWatch::connect(socket_);
  if (!ops || !watch) return keyx::connect_or_absent(socket_);
  ops_ = std::move(*ops);
  watch_.emplace(std::move(*watch));
  return ops_;
}

keyx::RotationWatch::Ticket LocalPsp::begin() {
  return watch_ ? watch_->begin() : keyx::RotationWatch::Ticket();
}

LocalPsp::News LocalPsp::process() {
  if (!watch_) return News::kNone;
  const unsigned changed = watch_->process();
  if (watch_->fd() >= 0) return changed > 0 ? News::kRotated : News::kNone;
  // First: without memory for it there are news at the next call too.
  const News news = same(instance(), instance_) ? News::kLost : News::kGone;
  watch_.reset();
  ops_.reset();
  return news;
}

}  // namespace psp::proxy
