// SPDX-License-Identifier: Apache-2.0
//
// ScarceMemory: an allocation that fails. While one lives, the allocation of that number on its
// thread throws std::bad_alloc, once. What a test's own models allocate meanwhile need not count
// (Plenty). A program that has it (psp_scarce_memory) has its operator new, as nothing else fails
// one allocation. For tests and the simulator; no program of a host has it.
#pragma once

namespace psp {

class ScarceMemory {
 public:
  // The allocation of that number fails, from 1; 0: none does.
  explicit ScarceMemory(unsigned allocation);
  ~ScarceMemory();
  ScarceMemory(const ScarceMemory&) = delete;
  ScarceMemory& operator=(const ScarceMemory&) = delete;

  // Plenty: nothing fails while it lives.
  class Plenty {
   public:
    Plenty();
    ~Plenty();
    Plenty(const Plenty&) = delete;
    Plenty& operator=(const Plenty&) = delete;

   private:
    unsigned left_;
  };
};

}  // namespace psp
