// SPDX-License-Identifier: Apache-2.0
//
// A counter for each thread; at 0 the operators are malloc and free. They are not inlined, and out
// of sight of who calls them, or compiler and analyzer would find fault with pairs that they cannot
// know to be one.
#include "base/scarce_memory.hh"

#include <cstdlib>
#include <new>
#include <utility>

namespace {

constinit thread_local unsigned left = 0;  // allocations until the one that fails; 0: none

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  if (left != 0) {
    --left;
    if (left == 0) throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace psp {

ScarceMemory::ScarceMemory(unsigned allocation) { left = allocation; }
ScarceMemory::~ScarceMemory() { left = 0; }

ScarceMemory::Plenty::Plenty() : left_(std::exchange(left, 0)) {}
ScarceMemory::Plenty::~Plenty() { left = left_; }

}  // namespace psp
