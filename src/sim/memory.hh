// SPDX-License-Identifier: Apache-2.0
//
// ScarceMemory: an allocation of product code that fails. While one lives, the allocation of that
// number throws std::bad_alloc, once. What the model itself allocates meanwhile is not counted
// (Plenty): a kernel would answer with an errno. The program has its own operator new for it, as
// nothing else fails one allocation.
#pragma once

namespace psp::sim {

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

}  // namespace psp::sim
