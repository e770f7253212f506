// SPDX-License-Identifier: Apache-2.0
//
// The counter follows the clock where the clock is ahead, and goes on by itself where it is not: a
// clock that stands or steps back costs nobody his uniqueness. Numbers are compared by their
// difference (RFC 1982): after 213 days the clock passes 2^64 and is ahead all the same.
//
// Threading: see iv_allocator.hh.
#include "device/keys/iv_allocator.hh"

#include <utility>

namespace psp::device {

IvAllocator::IvAllocator(std::function<std::uint64_t()> now_ps)
    : now_ps_(std::move(now_ps)), next_(now_ps_()) {}

IvAllocator::IvAllocator(std::function<std::uint64_t()> now_ps, std::uint64_t next)
    : now_ps_(std::move(now_ps)), next_(next) {}

std::uint64_t IvAllocator::reserve(std::uint32_t count) {
  const std::uint64_t now = now_ps_();
  std::uint64_t next = next_.load(std::memory_order_relaxed);
  std::uint64_t base;
  do {
    // Serial number arithmetic: the clock counts only if it is ahead by less than half the space.
    base = static_cast<std::int64_t>(now - next) > 0 ? now : next;
  } while (!next_.compare_exchange_weak(next, base + count, std::memory_order_relaxed));
  return base;
}

}  // namespace psp::device
