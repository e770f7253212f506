// SPDX-License-Identifier: Apache-2.0
//
// FakeWalk finds what a test tells it, when the test tells it: a walk begins at the product's word
// and ends with end() or fail(), which also say how long it is said to have taken. For the tests of
// this layer (SocketLists, Recount).
//
// What it finds has cookies and nothing else; they are sorted as a real walk's are.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "socket_lists.hh"

namespace psp::host {

class FakeWalk final : public SocketLists::Walk {
 public:
  void begin() override {
    begun++;
    walking = true;
  }
  std::optional<Result> result() override { return std::exchange(result_, std::nullopt); }

  // end is the end of the walk that was begun: it has found these sockets.
  void end(const std::vector<std::uint64_t>& cookies, std::chrono::nanoseconds took) {
    SocketLists::Found found{.sockets = {}, .cookies = cookies};
    std::ranges::sort(found.cookies);
    for (const std::uint64_t cookie : cookies)
      found.sockets.emplace_back().id.idiag_cookie[0] = static_cast<std::uint32_t>(cookie);
    walking = false;
    result_ = Result{.found = std::move(found), .took = took};
  }
  void fail() {
    walking = false;
    result_ = Result{.found = std::unexpected(std::string("no")), .took = {}};
  }

  int begun = 0;
  bool walking = false;

 private:
  std::optional<Result> result_;
};

}  // namespace psp::host
