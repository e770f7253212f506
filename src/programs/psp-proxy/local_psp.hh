// SPDX-License-Identifier: Apache-2.0
//
// LocalPsp: the PSP of this host as one worker uses it, found again when pspd comes and goes, and
// what it says about device keys.
//
// Threading: one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "keyx/ops.hh"
#include "keyx/rotation.hh"

namespace psp::proxy {

class LocalPsp {
 public:
  explicit LocalPsp(std::optional<std::string> socket) : socket_(std::move(socket)) {}

  // ops asks pspd or the kernel, or where nobody answers says so to whoever asks. An upgrade keeps
  // it for as long as it runs. Looks again at each call while there is nobody, or the kernel alone.
  std::shared_ptr<keyx::PspOps> ops();
  // begin is to be called before the upgrade.
  keyx::RotationWatch::Ticket begin();

  // fd is readable when process() has something to do; -1: none. A new one after ops().
  int fd() const { return watch_ ? watch_->fd() : -1; }
  enum class News {
    kNone,
    kRotated,  // tickets have changed
    kLost,     // notifications were lost: tickets are kUnknown
    kGone,     // pspd has ended, and its device keys with it
  };
  News process();

 private:
  // Instance is whose device keys there are: the kernel's, or those of one run of pspd.
  struct Instance {
    bool kernel = false;
    std::uint64_t number = 0;
  };
  // instance is nullopt where nobody answers.
  std::optional<Instance> instance() const;
  bool joined() const;
  static bool same(const std::optional<Instance>& a, const std::optional<Instance>& b);

  std::optional<std::string> socket_;
  std::shared_ptr<keyx::PspOps> ops_;
  std::optional<keyx::RotationWatch> watch_;
  std::optional<Instance> instance_;
};

}  // namespace psp::proxy
