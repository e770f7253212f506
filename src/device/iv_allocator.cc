// SPDX-License-Identifier: Apache-2.0
//
// IVs for all senders of a process.
//
// Threading: reserve() from any thread. One compare-and-swap moves the counter over the whole
// reserved range, so two ranges cannot overlap whatever the clock says. Relaxed is enough: the
// uniqueness of a range depends on the counter alone, and no other memory is published through it.
#include <utility>

#include <psp/device/software_driver.hh>

namespace psp::device {

IvAllocator::IvAllocator(std::function<std::uint64_t()> now_ps)
    : now_ps_(std::move(now_ps)), next_(now_ps_()) {}

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
