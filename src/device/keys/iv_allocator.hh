// SPDX-License-Identifier: Apache-2.0
//
// IVs for all senders of a process. The PSP specification wants them from a counter of the device
// in units of 1 ps, growing, and none twice under a key (docs/protocol.md, section 4). The IV is
// half of the nonce of AES-GCM: what a repeated one would give away is at the head of
// crypto/aead.hh.
//
// Threading: reserve() from any thread. One compare-and-swap moves the counter over the whole
// reserved range, so two ranges cannot overlap whatever the clock says. Relaxed is enough: the
// uniqueness of a range depends on the counter alone, and no other memory is published through it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace psp::device {

// IvAllocator hands out IVs that never repeat and only grow. One for all devices and workers of a
// process, so that a (key, IV) pair cannot repeat even if the same Tx key is used on two sockets.
// Thread: any.
class IvAllocator {
 public:
  // `now_ps` is a clock in picoseconds that does not go back in the life of the host.
  explicit IvAllocator(std::function<std::uint64_t()> now_ps);
  // One that goes on where another stopped: `next` is what that one's next() said last.
  IvAllocator(std::function<std::uint64_t()> now_ps, std::uint64_t next);
  // reserve returns the first of `count` consecutive IVs that are now the caller's alone. IVs are
  // compared modulo 2^64, so that the wrap of the clock (213 days) is not a step back.
  std::uint64_t reserve(std::uint32_t count);
  // next is the least IV that nobody has reserved.
  std::uint64_t next() const { return next_.load(std::memory_order_relaxed); }

 private:
  std::function<std::uint64_t()> now_ps_;
  std::atomic<std::uint64_t> next_;
};

}  // namespace psp::device
