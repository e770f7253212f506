// SPDX-License-Identifier: Apache-2.0
//
// pspctl key: device keys. They never leave the device; all that can be done is make a new one.
//
// After two rotations connections of the first key are dead, and their sockets are not told: that
// is the kernel's rule for PSP, and the help says so, since nobody would guess it. rotate prints
// nothing: pspctl dev show -d has the generation.
#include <fmt/format.h>

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl key rotate IFNAME|id N

rotate   makes a new device key, from which the keys of new connections are derived.
         Connections made under the previous key go on. Those made under the one before it
         are dead from now on: nothing tells their sockets, their data is just not
         acknowledged any more. So rotate at most once in the life of a connection.
         Needs CAP_NET_ADMIN.

Example: pspctl key rotate eth0
)";

Outcome<void> rotate(Context& context) {
  const auto selector = take_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  if (auto end = context.words.expect_end(); !end) return end;
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const auto device = find_device(*client, *selector, "key rotate");
  if (!device) return std::unexpected(device.error());
  if (auto done = client->key_rotate(device->id); !done)
    return refused("key rotate " + selector->words(), done.error());
  context.out.finish();
  return {};
}

}  // namespace

Noun key_noun() { return {"key", kHelp, false, {{"rotate", rotate}}}; }

}  // namespace psp::ctl
