// SPDX-License-Identifier: Apache-2.0
//
// The fields of the messages of the `softpsp` family, in the order in which they are written, and
// the family as the server knows it. This family is ours alone, and its specification
// (spec/softpsp.yaml) the only authority. pspctl and pspd may be of different releases: who reads
// passes over attributes that he does not know. That the fields are those of the specification is
// asserted when this compiles.
#include "netlink/messages/softpsp.hh"

#include <algorithm>
#include <string_view>

#include "netlink/family.hh"
#include "netlink/messages/fields.hh"
#include <psp/netlink/uapi.h>

namespace psp::netlink {

// kOperations and their policies, replies, kWire, and a check of uapi.h: made from
// spec/softpsp.yaml.
#include "softpsp_family.inc"

template <>
constexpr auto kFields<AssocInfo> = std::tuple{
    Field<SOFTPSP_ASSOC_COOKIE, &AssocInfo::cookie>(),
    Field<SOFTPSP_ASSOC_DEV_ID, Within<&AssocInfo::rx, &psp_sa_id::dev_id>{}>(),
    Field<SOFTPSP_ASSOC_IFNAME, &AssocInfo::ifname>(),
    Field<SOFTPSP_ASSOC_FAMILY, &AssocInfo::family>(),
    Field<SOFTPSP_ASSOC_LOCAL_ADDRESS, &AssocInfo::local_address>(),
    Field<SOFTPSP_ASSOC_PEER_ADDRESS, &AssocInfo::peer_address>(),
    Field<SOFTPSP_ASSOC_LOCAL_PORT, &AssocInfo::local_port>(),
    Field<SOFTPSP_ASSOC_PEER_PORT, &AssocInfo::peer_port>(),
    Field<SOFTPSP_ASSOC_STATE, &AssocInfo::state>(),
    Field<SOFTPSP_ASSOC_TCP_STATE, &AssocInfo::tcp_state>(),
    Field<SOFTPSP_ASSOC_VERSION, Within<&AssocInfo::rx, &psp_sa_id::version>{}>(),
    Field<SOFTPSP_ASSOC_GENERATION, Within<&AssocInfo::rx, &psp_sa_id::generation>{}>(),
    Field<SOFTPSP_ASSOC_STALE, &AssocInfo::stale>(),
    Field<SOFTPSP_ASSOC_RX_SPI, Within<&AssocInfo::rx, &psp_sa_id::spi>{}>(),
    Field<SOFTPSP_ASSOC_TX_SPI, &AssocInfo::tx_spi>(),
    Field<SOFTPSP_ASSOC_RX_PACKETS, &AssocInfo::rx_packets>(),
    Field<SOFTPSP_ASSOC_RX_BYTES, &AssocInfo::rx_bytes>(),
    Field<SOFTPSP_ASSOC_TX_PACKETS, &AssocInfo::tx_packets>(),
    Field<SOFTPSP_ASSOC_TX_BYTES, &AssocInfo::tx_bytes>(),
    Field<SOFTPSP_ASSOC_RX_DROPS, &AssocInfo::rx_drops>(),
};

template <>
constexpr auto kFields<DaemonInfo> = std::tuple{
    Field<SOFTPSP_INFO_VERSION, &DaemonInfo::version>(),
    Field<SOFTPSP_INFO_CRYPTO_BACKEND, &DaemonInfo::crypto_backend>(),
    Field<SOFTPSP_INFO_PID, &DaemonInfo::pid>(),
    Field<SOFTPSP_INFO_INSTANCE, &DaemonInfo::instance>(),
};

using DropCount = decltype(DaemonInfo::Device::drops)::value_type;
template <>
constexpr auto kFields<DropCount> = std::tuple{
    Field<SOFTPSP_DROP_NAME, &DropCount::first>(),
    Field<SOFTPSP_DROP_COUNT, &DropCount::second>(),
};

template <>
constexpr auto kFields<DaemonInfo::Device> = std::tuple{
    Field<SOFTPSP_INFO_DEV_ID, &DaemonInfo::Device::id>(),
    Field<SOFTPSP_INFO_IFNAME, &DaemonInfo::Device::ifname>(),
    Field<SOFTPSP_INFO_TAP, &DaemonInfo::Device::tap>(),
    Field<SOFTPSP_INFO_MTU, &DaemonInfo::Device::mtu>(),
    Field<SOFTPSP_INFO_GENERATION, &DaemonInfo::Device::generation>(),
    Field<SOFTPSP_INFO_SPI_REMAINING, &DaemonInfo::Device::spi_remaining>(),
    Field<SOFTPSP_INFO_REFUSED, &DaemonInfo::Device::refused>(),
    Field<SOFTPSP_INFO_REPAIRS, &DaemonInfo::Device::repairs>(),
    Field<SOFTPSP_INFO_TROUBLE, &DaemonInfo::Device::trouble, When::kUnlessDefault>(),
    Field<SOFTPSP_INFO_DROP, &DaemonInfo::Device::drops>(),
};

template <>
constexpr auto kFields<SubscribeRequest> = std::tuple{
    Field<SOFTPSP_SUBSCRIBE_GROUPS, &SubscribeRequest::groups>(),
};

template <>
constexpr auto kFields<KeyRequest> = std::tuple{
    Field<SOFTPSP_KEY_DATAGRAM, &KeyRequest::datagram>(),
};

template <>
constexpr auto kFields<CapturedKey> = std::tuple{
    Field<SOFTPSP_KEY_VERSION, &CapturedKey::version>(),
    Field<SOFTPSP_KEY_SPI, &CapturedKey::spi>(),
    Field<SOFTPSP_KEY_KEY, &CapturedKey::key>(),
};

template <>
constexpr auto kFields<KeptPacket> = std::tuple{
    Field<SOFTPSP_PACKET_DEV_ID, &KeptPacket::dev_id>(),
    Field<SOFTPSP_PACKET_NUMBER, &KeptPacket::number>(),
    Field<SOFTPSP_PACKET_TIME, &KeptPacket::nanoseconds>(),
    Field<SOFTPSP_PACKET_TRANSMIT, &KeptPacket::transmit>(),
    Field<SOFTPSP_PACKET_REASON, &KeptPacket::reason>(),
    Field<SOFTPSP_PACKET_LENGTH, &KeptPacket::length>(),
    Field<SOFTPSP_PACKET_OCTETS, &KeptPacket::octets>(),
};

template <>
constexpr auto kFields<ServeInfo> = std::tuple{
    Field<SOFTPSP_SERVE_DEV_ID, &ServeInfo::dev_id>(),
};

static_assert(std::ranges::equal(kNumbers<AssocInfo>, kAssocGetDumpReply));
static_assert(std::ranges::equal(kNumbers<DaemonInfo>, kInfoGetDoReply));
static_assert(std::ranges::equal(kNumbers<DaemonInfo::Device>, kInfoGetDumpReply));
static_assert(std::ranges::equal(kNumbers<CapturedKey>, kKeyGetDoReply));
static_assert(std::ranges::equal(kNumbers<KeptPacket>, kPacketGetDumpReply));
static_assert(std::ranges::equal(kNumbers<ServeInfo>, kServeGetDoReply));

template void put(Writer&, const AssocInfo&);
template void put(Writer&, const CapturedKey&);
template void put(Writer&, const DaemonInfo&);
template void put(Writer&, const DaemonInfo::Device&);
template void put(Writer&, const KeptPacket&);
template void put(Writer&, const KeyRequest&);
template void put(Writer&, const ServeInfo&);
template void put(Writer&, const SubscribeRequest&);
template AssocInfo read(std::span<const std::uint8_t>);
template CapturedKey read(std::span<const std::uint8_t>);
template DaemonInfo read(std::span<const std::uint8_t>);
template DaemonInfo::Device read(std::span<const std::uint8_t>);
template KeptPacket read(std::span<const std::uint8_t>);
template KeyRequest read(std::span<const std::uint8_t>);
template ServeInfo read(std::span<const std::uint8_t>);
template SubscribeRequest read(std::span<const std::uint8_t>);

namespace {

constexpr Family kFamily = {.which = FamilyName::kSoftpsp,
                            .name = SOFTPSP_FAMILY_NAME,
                            .id = kSoftpspFamilyId,
                            .version = SOFTPSP_FAMILY_VERSION,
                            .operations = kOperations};

}  // namespace

const Family& softpsp_family() { return kFamily; }

}  // namespace psp::netlink
