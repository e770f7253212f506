// SPDX-License-Identifier: Apache-2.0
//
// The options behind `pspctl capture`. They are in a header of their own since Options has them
// too, and the command is not needed to read a command line.
//
// Values are within their limits when they are here (declare_capture); whether they go together is
// seen by the command.
#pragma once

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace psp::ctl {

struct CaptureOptions {
  static constexpr std::uint16_t kUdpPort = 1000;
  static constexpr std::uint32_t kBufferMib = 32;
  std::string device;
  std::string file;
  std::string filter;
  std::string key_log;  // empty: no keys
  bool failed = false;  // those that pspd kept, not those on the wire
  std::uint16_t port = kUdpPort;
  std::uint64_t count = 0;    // 0: no end
  std::uint64_t seconds = 0;  // 0: no end
  std::uint32_t snap_length = 262144;
  std::uint32_t buffer_mib = kBufferMib;
};

void declare_capture(CLI::App& app, CaptureOptions& options);

}  // namespace psp::ctl
