// SPDX-License-Identifier: Apache-2.0
//
// Memory that ends when a test wants it to.
#pragma once

namespace psp::keyx::test {

// memory_left is how many allocations by this thread, in the library too, still succeed; -1: all.
extern thread_local int memory_left;

}  // namespace psp::keyx::test
