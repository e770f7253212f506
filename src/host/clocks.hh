// SPDX-License-Identifier: Apache-2.0
//
// The clocks that a host hands to the layers below, which read none themselves. What happens when
// is measured by the loop's time instead (Loop::now).
//
// Threading: any.
#pragma once

#include <chrono>
#include <cstdint>

namespace psp::host {

// boot_picoseconds is the time since the boot: it does not repeat when a process starts again.
std::uint64_t boot_picoseconds();
// wall_nanoseconds is the time since 1970.
std::uint64_t wall_nanoseconds();
// processor_time is what the calling thread has had of a processor.
std::chrono::nanoseconds processor_time();

}  // namespace psp::host
