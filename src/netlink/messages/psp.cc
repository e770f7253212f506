// SPDX-License-Identifier: Apache-2.0
//
// The fields of the messages of the `psp` family, in the order in which the kernel writes them, and
// the family as the server knows it. Requests and answers are the same structs on both sides.
// Operations, policies and how an attribute is written come from spec/psp.yaml by
// scripts/gen-netlink; that answers have all attributes that it promises, in its order, is asserted
// when this compiles.
#include "netlink/messages/psp.hh"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "netlink/family.hh"
#include "netlink/messages/fields.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {

// kOperations and their policies, replies, kWire, and a check of uapi.h: made from spec/psp.yaml.
#include "psp_family.inc"

template <>
constexpr auto kFields<AssociatedNetdev> = std::tuple{
    Field<PSPNL_ASSOC_DEV_INFO_IFINDEX, &AssociatedNetdev::ifindex>(),
    Field<PSPNL_ASSOC_DEV_INFO_NSID, &AssociatedNetdev::nsid>(),
};

template <>
constexpr auto kFields<DeviceInfo> = std::tuple{
    Field<PSPNL_DEV_ID, &DeviceInfo::id>(),
    Field<PSPNL_DEV_IFINDEX, &DeviceInfo::ifindex, When::kUnlessDefault>(),
    Field<PSPNL_DEV_PSP_VERSIONS_CAP, &DeviceInfo::versions_cap>(),
    Field<PSPNL_DEV_PSP_VERSIONS_ENA, &DeviceInfo::versions_ena>(),
    Field<PSPNL_DEV_BY_ASSOCIATION, &DeviceInfo::by_association>(),
    Field<PSPNL_DEV_ASSOC_LIST, &DeviceInfo::associated>(),
};

template <>
constexpr auto kFields<DeviceRequest> = std::tuple{
    Field<PSPNL_DEV_ID, &DeviceRequest::id>(),
    Field<PSPNL_DEV_PSP_VERSIONS_ENA, &DeviceRequest::versions_ena>(),
    Field<PSPNL_DEV_IFINDEX, &DeviceRequest::ifindex>(),
    Field<PSPNL_DEV_NSID, &DeviceRequest::nsid>(),
};

template <>
constexpr auto kFields<KeyInfo> = std::tuple{
    Field<PSPNL_KEYS_SPI, &KeyInfo::spi>(),
    Field<PSPNL_KEYS_KEY, &KeyInfo::key>(),
};

template <>
constexpr auto kFields<RxAssocInfo> = std::tuple{
    Field<PSPNL_ASSOC_DEV_ID, &RxAssocInfo::dev_id>(),
    Field<PSPNL_ASSOC_RX_KEY, &RxAssocInfo::rx>(),
};

template <>
constexpr auto kFields<device::AssocRequest::Keys> = std::tuple{
    Field<PSPNL_KEYS_SPI, &device::AssocRequest::Keys::spi>(),
    Field<PSPNL_KEYS_KEY, &device::AssocRequest::Keys::key>(),
};

template <>
constexpr auto kFields<device::AssocRequest> = std::tuple{
    Field<PSPNL_ASSOC_DEV_ID, &device::AssocRequest::dev_id>(),
    Field<PSPNL_ASSOC_VERSION, &device::AssocRequest::version>(),
    Field<PSPNL_ASSOC_TX_KEY, &device::AssocRequest::tx_key>(),
    Field<PSPNL_ASSOC_SOCK_FD, &device::AssocRequest::fd>(),
};

template <>
constexpr auto kFields<StatsRequest> = std::tuple{
    Field<PSPNL_STATS_DEV_ID, &StatsRequest::dev_id>(),
};

template <>
constexpr auto kFields<StatsInfo> = std::tuple{
    Field<PSPNL_STATS_DEV_ID, &StatsInfo::dev_id>(),
    Field<PSPNL_STATS_KEY_ROTATIONS, &StatsInfo::key_rotations>(),
    Field<PSPNL_STATS_STALE_EVENTS, &StatsInfo::stale_events>(),
    Field<PSPNL_STATS_RX_PACKETS, &StatsInfo::rx_packets>(),
    Field<PSPNL_STATS_RX_BYTES, &StatsInfo::rx_bytes>(),
    Field<PSPNL_STATS_RX_AUTH_FAIL, &StatsInfo::rx_auth_fail>(),
    Field<PSPNL_STATS_RX_ERROR, &StatsInfo::rx_error>(),
    Field<PSPNL_STATS_RX_BAD, &StatsInfo::rx_bad>(),
    Field<PSPNL_STATS_TX_PACKETS, &StatsInfo::tx_packets>(),
    Field<PSPNL_STATS_TX_BYTES, &StatsInfo::tx_bytes>(),
    Field<PSPNL_STATS_TX_ERROR, &StatsInfo::tx_error>(),
};

static_assert(std::ranges::equal(kNumbers<DeviceInfo>, kDevGetDoReply));
static_assert(std::ranges::equal(kNumbers<DeviceInfo>, kDevGetDumpReply));
static_assert(std::ranges::equal(kNumbers<RxAssocInfo>, kRxAssocDoReply));
static_assert(std::ranges::equal(kNumbers<StatsInfo>, kGetStatsDoReply));
static_assert(std::ranges::equal(kNumbers<StatsInfo>, kGetStatsDumpReply));

template void put(Writer&, const DeviceInfo&);
template void put(Writer&, const DeviceRequest&);
template void put(Writer&, const RxAssocInfo&);
template void put(Writer&, const StatsInfo&);
template void put(Writer&, const StatsRequest&);
template void put(Writer&, const device::AssocRequest&);
template DeviceInfo read(std::span<const std::uint8_t>);
template DeviceRequest read(std::span<const std::uint8_t>);
template RxAssocInfo read(std::span<const std::uint8_t>);
template StatsInfo read(std::span<const std::uint8_t>);
template StatsRequest read(std::span<const std::uint8_t>);
template device::AssocRequest read(std::span<const std::uint8_t>);

namespace {

using NotificationKind = Notification::Kind;

constexpr std::pair<NotificationKind, std::uint8_t> kNotifications[] = {
    {NotificationKind::kDevAdd, PSPNL_CMD_DEV_ADD_NTF},
    {NotificationKind::kDevDel, PSPNL_CMD_DEV_DEL_NTF},
    {NotificationKind::kDevChange, PSPNL_CMD_DEV_CHANGE_NTF},
    {NotificationKind::kKeyRotate, PSPNL_CMD_KEY_ROTATE_NTF},
};

constexpr Group kGroups[] = {{SOFTPSP_ID_GROUP_MGMT, PSPNL_MCGRP_MGMT},
                             {SOFTPSP_ID_GROUP_USE, PSPNL_MCGRP_USE}};

constexpr Family kFamily = {.name = PSPNL_FAMILY_NAME,
                            .id = kPspFamilyId,
                            .version = PSPNL_FAMILY_VERSION,
                            .operations = kOperations,
                            .groups = kGroups};

}  // namespace

std::uint8_t command_of(Notification::Kind kind) {
  return std::ranges::find(kNotifications, kind, [](auto& each) { return each.first; })->second;
}

std::optional<Notification::Kind> kind_of(std::uint8_t command) {
  const auto* found =
      std::ranges::find(kNotifications, command, [](auto& each) { return each.second; });
  return found != std::end(kNotifications) ? std::optional(found->first) : std::nullopt;
}

const Family& psp_family() { return kFamily; }

}  // namespace psp::netlink
