// SPDX-License-Identifier: Apache-2.0
//
// Memory that ends when a test wants it to. A test runs the same call with ever more allocations
// until one succeeds, so that each of them has been the one that failed. For the C interface, from
// which no exception may leave (c_api_test.cc).
//
// Threading: each thread has its own count.
#pragma once

namespace psp::keyx::test {

// memory_left is how many allocations by this thread, in the library too, still succeed; -1: all.
extern thread_local int memory_left;

}  // namespace psp::keyx::test
