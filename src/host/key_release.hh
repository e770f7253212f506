// SPDX-License-Identifier: Apache-2.0
//
// KeyRelease gives away keys: to root of the home namespace (the Server sees to that), only if the
// operator allows it (--allow-key-export), one key for one captured packet that it authenticates,
// and never without a line in the log.
//
// Threading: the control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/log.hh"
#include "device/core.hh"
#include "device/software_device.hh"
#include "netlink/server.hh"

namespace psp::host {

class KeyRelease {
 public:
  // FindDriver is null for a number that no device has.
  using FindDriver = std::function<const device::SoftwareDevice*(std::uint16_t dev_id)>;
  // What is passed by reference outlives this.
  KeyRelease(const device::Core& core, FindDriver driver, bool allowed, const Log& log)
      : core_(core), driver_(std::move(driver)), allowed_(allowed), log_(log) {}

  // key_of is Inspector::captured_key.
  device::Result<CapturedKey> key_of(const netlink::Caller& caller,
                                     std::span<const std::uint8_t> datagram) const;

 private:
  const device::Core& core_;
  FindDriver driver_;
  bool allowed_;
  const Log& log_;
};

}  // namespace psp::host
