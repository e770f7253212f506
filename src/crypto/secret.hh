// SPDX-License-Identifier: Apache-2.0
//
// Secret<N>: octets that wipe themselves. It has no formatter, no stream operator and no
// operator==, so that a key can neither be printed nor compared in variable time by accident. It
// cannot be copied: there is one place to wipe, and a move wipes what it leaves. The memory is the
// owner's and nothing locks it: what keeps keys out of swap and cores is the process
// (docs/security.md, "Secrets"). A caller who copies span() elsewhere wipes that himself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <strings.h>
#include <utility>
#include <vector>

namespace psp::crypto {

// constant_time_equal compares in a time that depends only on the lengths.
bool constant_time_equal(std::span<const std::uint8_t> a, std::span<const std::uint8_t> b);

// Secret holds up to N secret octets; move-only, wiped when dropped, moved from or replaced.
template <std::size_t N>
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::span<const std::uint8_t> octets) { assign(octets); }
  Secret(Secret&& other) noexcept { *this = std::move(other); }
  Secret& operator=(Secret&& other) noexcept {
    if (this != &other) {
      assign(other.span());
      other.wipe();
    }
    return *this;
  }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { wipe(); }

  // assign replaces the content; at most N octets are taken.
  void assign(std::span<const std::uint8_t> octets) {
    wipe();
    size_ = octets.size() < N ? octets.size() : N;
    if (size_ != 0) std::memcpy(octets_.data(), octets.data(), size_);
  }

  // resize sets the length; new octets are zero, cut ones are wiped. For filling through data().
  void resize(std::size_t size) {
    size_ = size < N ? size : N;
    explicit_bzero(octets_.data() + size_, N - size_);
  }
  void wipe() {
    explicit_bzero(octets_.data(), N);
    size_ = 0;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::uint8_t* data() { return octets_.data(); }
  const std::uint8_t* data() const { return octets_.data(); }
  std::span<const std::uint8_t> span() const { return {octets_.data(), size_}; }

 private:
  std::array<std::uint8_t, N> octets_{};
  std::size_t size_ = 0;
};

// WipedVector is for data that is nobody else's, of any size: its memory is wiped before it is
// given back, also when it grows. What it no longer holds may stand in its capacity until then.
template <typename T>
struct WipingAllocator {
  using value_type = T;
  WipingAllocator() = default;
  template <typename U>
  explicit WipingAllocator(const WipingAllocator<U>&) {}
  T* allocate(std::size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* octets, std::size_t count) {
    explicit_bzero(octets, count * sizeof(T));
    std::allocator<T>().deallocate(octets, count);
  }
  friend bool operator==(const WipingAllocator&, const WipingAllocator&) { return true; }
};
using WipedVector = std::vector<std::uint8_t, WipingAllocator<std::uint8_t>>;

using DeviceKey = Secret<32>;  // always 256 bit
using SaKey = Secret<32>;      // 16 or 32 octets by version

}  // namespace psp::crypto
