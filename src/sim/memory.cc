// SPDX-License-Identifier: Apache-2.0
//
// One counter, as there is one thread that simulates. The operators are those of every program that
// has the simulator in it; with the counter at 0 they are malloc and free. They are not inlined, or
// the compiler would warn of pairs that it cannot know to be one.
#include "memory.hh"

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

namespace psp::sim {

ScarceMemory::ScarceMemory(unsigned allocation) { left = allocation; }
ScarceMemory::~ScarceMemory() { left = 0; }

ScarceMemory::Plenty::Plenty() : left_(std::exchange(left, 0)) {}
ScarceMemory::Plenty::~Plenty() { left = left_; }

}  // namespace psp::sim
