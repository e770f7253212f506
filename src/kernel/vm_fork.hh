// SPDX-License-Identifier: Apache-2.0
//
// VmForkEvents: has this virtual machine been cloned, or set back to a snapshot? Then another one,
// or this one before, has the same keys and the same clock, and would use IVs that were used. The
// kernel hears of it by vmgenid, reseeds its random generator and says so (NEW_VMGENID,
// Linux 6.10).
//
// Threading: the control thread only.
#pragma once

#include <expected>
#include <string>
#include <string_view>

#include "base/unique_fd.hh"

namespace psp::kernel {

class VmForkEvents {
 public:
  // open listens in the current network namespace, to which the kernel says it if the namespace is
  // of the initial user namespace. Errors: a sentence.
  static std::expected<VmForkEvents, std::string> open();
  int fd() const { return fd_.get(); }

  // read takes what has come, some at a time. True: the kernel says that it has happened, or has
  // had to drop messages, of which it may have been one.
  bool read() const;

 private:
  explicit VmForkEvents(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// is_vm_fork reads a message of the kernel: "change@PATH", then settings, each with a zero behind
// it.
bool is_vm_fork(std::string_view message);

}  // namespace psp::kernel
