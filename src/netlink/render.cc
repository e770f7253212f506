// SPDX-License-Identifier: Apache-2.0
//
// Attributes of answers, in the order in which the kernel writes them.
#include "render.hh"

#include <psp/netlink/uapi.h>

namespace psp::netlink {

void put_device(Writer& writer, const device::Core& core, const device::Device& device,
                std::uint64_t netns) {
  const bool main = device.netdev.netns == netns;
  const bool frank = main || core.compat() < device::Compat::kNetNext;
  writer.put_u32(PSPNL_DEV_ID, device.id);
  if (frank) writer.put_u32(PSPNL_DEV_IFINDEX, device.netdev.ifindex);
  writer.put_u32(PSPNL_DEV_PSP_VERSIONS_CAP, device.versions_cap.bits);
  writer.put_u32(PSPNL_DEV_PSP_VERSIONS_ENA, device.config.versions_ena.bits);
  if (!main) writer.put_flag(PSPNL_DEV_BY_ASSOCIATION);
  if (!frank) return;
  for (const device::NetdevKey netdev : device.associated) {
    if (!main && netdev.netns != netns) continue;
    const std::int32_t nsid = main ? core.nsid_of(netns, netdev.netns) : -1;
    nlattr* nest = writer.nest(PSPNL_DEV_ASSOC_LIST);
    writer.put_u32(PSPNL_ASSOC_DEV_INFO_IFINDEX, netdev.ifindex);
    writer.put_u32(PSPNL_ASSOC_DEV_INFO_NSID, static_cast<std::uint32_t>(nsid));
    writer.end_nest(nest);
  }
}

void put_stats(Writer& writer, std::uint32_t id, const device::DeviceStats& stats) {
  writer.put_u32(PSPNL_STATS_DEV_ID, id);
  writer.put_uint(PSPNL_STATS_KEY_ROTATIONS, stats.key_rotations);
  writer.put_uint(PSPNL_STATS_STALE_EVENTS, stats.stale_events);
  writer.put_uint(PSPNL_STATS_RX_PACKETS, stats.driver.rx_packets);
  writer.put_uint(PSPNL_STATS_RX_BYTES, stats.driver.rx_bytes);
  writer.put_uint(PSPNL_STATS_RX_AUTH_FAIL, stats.driver.rx_auth_fail);
  writer.put_uint(PSPNL_STATS_RX_ERROR, stats.driver.rx_error);
  writer.put_uint(PSPNL_STATS_RX_BAD, stats.driver.rx_bad);
  writer.put_uint(PSPNL_STATS_TX_PACKETS, stats.driver.tx_packets);
  writer.put_uint(PSPNL_STATS_TX_BYTES, stats.driver.tx_bytes);
  writer.put_uint(PSPNL_STATS_TX_ERROR, stats.driver.tx_error);
}

void put_association(Writer& writer, const AssocInfo& info) {
  writer.put_uint(SOFTPSP_ASSOC_COOKIE, info.cookie);
  writer.put_u32(SOFTPSP_ASSOC_DEV_ID, info.dev_id);
  writer.put_string(SOFTPSP_ASSOC_IFNAME, info.ifname);
  writer.put_u32(SOFTPSP_ASSOC_FAMILY, info.family);
  writer.put_string(SOFTPSP_ASSOC_LOCAL_ADDRESS, info.local_address);
  writer.put_string(SOFTPSP_ASSOC_PEER_ADDRESS, info.peer_address);
  writer.put_u32(SOFTPSP_ASSOC_LOCAL_PORT, info.local_port);
  writer.put_u32(SOFTPSP_ASSOC_PEER_PORT, info.peer_port);
  writer.put_u32(SOFTPSP_ASSOC_STATE, info.state);
  writer.put_string(SOFTPSP_ASSOC_TCP_STATE, info.tcp_state);
  writer.put_u32(SOFTPSP_ASSOC_VERSION, static_cast<std::uint32_t>(info.version));
  writer.put_u32(SOFTPSP_ASSOC_GENERATION, info.generation);
  if (info.stale) writer.put_flag(SOFTPSP_ASSOC_STALE);
  writer.put_u32(SOFTPSP_ASSOC_RX_SPI, info.rx_spi.value);
  if (info.tx_spi) writer.put_u32(SOFTPSP_ASSOC_TX_SPI, info.tx_spi->value);
  writer.put_uint(SOFTPSP_ASSOC_RX_PACKETS, info.rx_packets);
  writer.put_uint(SOFTPSP_ASSOC_RX_BYTES, info.rx_bytes);
  writer.put_uint(SOFTPSP_ASSOC_TX_PACKETS, info.tx_packets);
  writer.put_uint(SOFTPSP_ASSOC_TX_BYTES, info.tx_bytes);
  writer.put_uint(SOFTPSP_ASSOC_RX_DROPS, info.rx_drops);
}

void put_packet(Writer& writer, const KeptPacket& packet) {
  writer.put_u32(SOFTPSP_PACKET_DEV_ID, packet.dev_id);
  writer.put_uint(SOFTPSP_PACKET_NUMBER, packet.number);
  writer.put_uint(SOFTPSP_PACKET_TIME, packet.nanoseconds);
  if (packet.transmit) writer.put_flag(SOFTPSP_PACKET_TRANSMIT);
  if (packet.reason)
    writer.put_u32(SOFTPSP_PACKET_REASON, static_cast<std::uint32_t>(*packet.reason));
  writer.put_u32(SOFTPSP_PACKET_LENGTH, packet.length);
  writer.put_octets(SOFTPSP_PACKET_OCTETS, packet.octets);
}

void put_info(Writer& writer, const DaemonInfo& info) {
  writer.put_string(SOFTPSP_INFO_VERSION, info.version);
  writer.put_string(SOFTPSP_INFO_CRYPTO_BACKEND, info.crypto_backend);
  writer.put_u32(SOFTPSP_INFO_PID, info.pid);
  writer.put_uint(SOFTPSP_INFO_INSTANCE, info.instance);
}

void put_info_device(Writer& writer, const DaemonInfo::Device& device) {
  writer.put_u32(SOFTPSP_INFO_DEV_ID, device.id);
  writer.put_string(SOFTPSP_INFO_IFNAME, device.ifname);
  writer.put_string(SOFTPSP_INFO_TAP, device.tap);
  writer.put_u32(SOFTPSP_INFO_MTU, device.mtu);
  writer.put_u32(SOFTPSP_INFO_GENERATION, device.generation);
  writer.put_uint(SOFTPSP_INFO_SPI_REMAINING, device.spi_remaining);
  writer.put_uint(SOFTPSP_INFO_REPAIRS, device.repairs);
  if (!device.trouble.empty()) writer.put_string(SOFTPSP_INFO_TROUBLE, device.trouble);
  for (const auto& [name, count] : device.drops) {
    nlattr* nest = writer.nest(SOFTPSP_INFO_DROP);
    writer.put_string(SOFTPSP_DROP_NAME, name);
    writer.put_uint(SOFTPSP_DROP_COUNT, count);
    writer.end_nest(nest);
  }
}

}  // namespace psp::netlink
