// SPDX-License-Identifier: Apache-2.0
//
// KeyFollower writes the key log of a capture while it runs: for each SPI and destination that is
// seen for the first time it shows pspd the packet and gets the key under which that is authentic.
// So the log holds the keys of the connections in the capture and no others.
//
// Threading: one user.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>

#include "base/unique_fd.hh"
#include "netlink/client.hh"

#include "failure.hh"

namespace psp::ctl {

class KeyFollower {
 public:
  // open asks pspd for the permission, then makes the file, or goes on with one of ours that nobody
  // else can read.
  static Outcome<KeyFollower> open(Client client, const std::string& path);

  // see looks at an IP packet of the capture. Errors: the file cannot be written.
  Outcome<void> see(std::span<const std::uint8_t> packet);

  std::uint64_t keys() const { return keys_; }
  // without is how many pairs of SPI and destination there are for which pspd has no key.
  std::uint64_t without() const { return seen_.size() - keys_; }
  // problem is why no more keys are asked for, empty if they are.
  const std::string& problem() const { return problem_; }

 private:
  KeyFollower(Client client, UniqueFd file, std::string path)
      : client_(std::move(client)), file_(std::move(file)), path_(std::move(path)) {}
  Outcome<bool> ask(std::span<const std::uint8_t> packet, std::span<const std::uint8_t> datagram);

  // Somebody may send packets that no key opens under the SPI of a connection, or under many.
  static constexpr unsigned kAttemptsMax = 64;
  static constexpr std::size_t kSeenMax = 65536;

  Client client_;
  UniqueFd file_;
  std::string path_;
  std::unordered_map<std::string, unsigned> seen_;  // attempts left: none once the key is there
  std::uint64_t keys_ = 0;
  std::string problem_;
};

}  // namespace psp::ctl
