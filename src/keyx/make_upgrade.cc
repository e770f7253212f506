// SPDX-License-Identifier: Apache-2.0
//
// The choice of an upgrade by its protocol: the one place that knows both the exchange and those of
// other programs. A bare socket gets kernel-selftest and nothing else, an SSL never does: each
// upgrade refuses a policy that is not its own, so that keys cannot go out in clear by a mistake of
// the caller.
#include "keyx/exchange.hh"
#include "keyx/interop.hh"
#include "keyx/upgrade.hh"

namespace psp::keyx {

std::unique_ptr<Upgrade> make_upgrade(SSL* ssl, PspOps& ops, const Policy& policy) {
  if (policy.protocol == Protocol::kSoftpsp) return std::make_unique<Exchange>(ssl, ops, policy);
  return std::make_unique<FizzV0>(ssl, ops, policy);
}

std::unique_ptr<Upgrade> make_clear_upgrade(int fd, PspOps& ops, const Policy& policy) {
  return std::make_unique<KernelSelftest>(fd, ops, policy);
}

}  // namespace psp::keyx
