// SPDX-License-Identifier: Apache-2.0
//
// request_for: how ioctl(2) on a socket or a TUN descriptor is told which netdev is meant. The name
// is cut to what the kernel takes and always ends in a zero; all else of the request is zero, to be
// filled in by whoever asks.
#pragma once

#include <net/if.h>
#include <string>

namespace psp {

inline ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

}  // namespace psp
