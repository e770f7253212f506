// SPDX-License-Identifier: Apache-2.0
//
// What all devices of a host are made with, from its settings: who encrypts, who may send, which
// ports and processors are used. Cryptography has passed its self-test before a key is made.
//
// Threading: the control thread.
#pragma once

#include <expected>
#include <string>

#include "device/software_driver.hh"
#include "kernel/attachment.hh"

#include "settings.hh"

namespace psp::host {

// device_options touches nothing of the host. `ivs` outlives the devices. Errors: a sentence.
std::expected<kernel::HostDeviceOptions, std::string> device_options(const Settings& settings,
                                                                     device::IvAllocator& ivs);

}  // namespace psp::host
