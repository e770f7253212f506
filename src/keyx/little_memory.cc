// SPDX-License-Identifier: Apache-2.0
//
// operator new of the whole test program, out of sight of the compiler, which would find fault with
// the pairing of what it has inlined. It counts down for the thread that asked for it and throws at
// zero; malloc() itself, and so OpenSSL, goes on. Replacing operator new is allowed once in a
// program ([replacement.functions]), and a shared library's calls come here, too.
#include "little_memory.hh"

#include <cstdlib>
#include <new>

namespace psp::keyx::test {

thread_local int memory_left = -1;

}  // namespace psp::keyx::test

using psp::keyx::test::memory_left;

void* operator new(std::size_t size) {
  if (memory_left == 0) throw std::bad_alloc();
  if (memory_left > 0) --memory_left;
  void* const out = std::malloc(size != 0 ? size : 1);
  if (out == nullptr) throw std::bad_alloc();
  return out;
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  if (memory_left == 0) return nullptr;
  if (memory_left > 0) --memory_left;
  return std::malloc(size != 0 ? size : 1);
}
void operator delete(void* octets) noexcept { std::free(octets); }
void operator delete(void* octets, std::size_t) noexcept { std::free(octets); }
