// SPDX-License-Identifier: Apache-2.0
//
// Packets that wait for the link address of a neighbour. psp_sock_out has judged them, psp_egress
// has not seen them yet: it stands behind that queue. Before psp_egress is taken off they have to
// go, or what is in them would leave in clear as soon as the neighbour answers.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

namespace psp::kernel {

// drop_waiting_packets waits until what is being sent at this moment has left or waits, and then
// drops all packets that wait for a neighbour's address on that netdev of the current network
// namespace, whoever has sent them; the kernel tells their senders that the host is unreachable, as
// it does when the neighbour does not answer. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> drop_waiting_packets(std::uint32_t ifindex);

}  // namespace psp::kernel
