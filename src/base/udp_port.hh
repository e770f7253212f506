// SPDX-License-Identifier: Apache-2.0
//
// Whether a UDP port is in use in a network namespace, by IPv4 or IPv6, as /proc tells. Where the
// packets of a port are taken before the stack sees them, a program that listens there hears
// nothing: whoever takes them, or examines such a host, warns of it.
//
// Threading: any; what counts is the namespace of the thread that asks.
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace psp {

// udp_port_in_use: does a UDP socket of the calling thread's network namespace have that port?
inline bool udp_port_in_use(std::uint16_t port) {
  for (const char* file : {"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"}) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
      unsigned used = 0;  // "  123: 0100007F:03E8 00000000:0000 07 ..."
      if (std::sscanf(line.c_str(), "%*u: %*[0-9A-F]:%x", &used) == 1 && used == port) return true;
    }
  }
  return false;
}

}  // namespace psp
