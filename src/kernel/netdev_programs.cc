// SPDX-License-Identifier: Apache-2.0
//
// The packet programs of one netdev: loaded with the maps that all share, put at their doors in the
// order in which they come, and told what changes.
//
// Threading: see programs.hh.
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <utility>

#include "hooks.hh"
#include "loading.hh"
#include "netdev.skel.h"

namespace psp::kernel {
namespace {

constexpr std::uint32_t kConfigKey = 0;

}  // namespace

struct NetdevPrograms::Impl {
  netdev_bpf* skeleton = nullptr;
  std::string name;
  psp_device_config config{};
  std::string notice;
  DropCounts drops{};  // as they were read last

  // Doors in the order in which the programs come: the TAP first, so that what the netdev sends
  // there is understood from the first packet on.
  std::array<Door, 4> doors;

  ~Impl() { netdev_bpf__destroy(skeleton); }

  [[nodiscard]] bool store() const {
    return put_element(bpf_map__fd(skeleton->maps.psp_config), kConfigKey, config);
  }

  [[nodiscard]] std::expected<void, std::string> make_doors(std::uint32_t ifindex,
                                                            std::uint32_t tap) {
    const auto& programs = skeleton->progs;
    const auto door = [](std::uint32_t where, Side side, const bpf_program* program) {
      return Door{where, side, bpf_program__fd(program), 0, bpf_program__name(program)};
    };
    doors = {door(tap, Side::kIngress, programs.psp_tap_ingress),
             door(tap, Side::kEgress, programs.psp_tap_egress),
             door(ifindex, Side::kEgress, programs.psp_egress),
             door(ifindex, Side::kIngress, programs.psp_ingress)};
    for (Door& one : doors) {
      const auto info = program_info(one.program);
      if (!info) return std::unexpected(info.error());
      one.id = info->id;
    }
    return {};
  }
  const Door& egress() const { return doors[2]; }
  const Door& ingress() const { return doors[3]; }

  // note_clsact notes that a clsact of the netdev is ours, or that there is none of ours.
  [[nodiscard]] std::expected<void, std::string> note_clsact(bool ours) {
    const std::uint32_t others = config.restore & ~PSP_RESTORE_CLSACT;
    config.restore = others | (ours ? PSP_RESTORE_CLSACT : 0);
    if (store()) return {};
    return failed(fmt::format("{}: cannot note whose its clsact is", name), errno);
  }

  // need_clsact makes a clsact for a door, or finds that there can be none and tcx has to do. That
  // the clsact is ours is noted before there is one, or a crash would leave one that is nobody's.
  [[nodiscard]] std::expected<void, std::string> need_clsact(Door& door) {
    const bool noted = door.ifindex == egress().ifindex;
    door.filter = true;
    const auto there = has_clsact(door.ifindex);
    if (!there) return std::unexpected(fmt::format("{}: {}", name, there.error()));
    if (*there) return {};
    if (noted)
      if (auto done = note_clsact(true); !done) return done;
    const auto made = make_clsact(door.ifindex, name);
    if (made && *made) return {};
    if (noted)
      if (auto done = note_clsact(false); !done) return done;
    if (made) return {};  // somebody was faster
    const auto tcx = has_tcx(door.ifindex);
    if (!tcx || !*tcx) return std::unexpected(made.error());
    const auto ingress = has_ingress(door.ifindex);
    if (!ingress) return std::unexpected(fmt::format("{}: {}", name, ingress.error()));
    door.filter = false;
    door.ingress = *ingress;
    notice = made.error();
    return {};
  }
};

NetdevPrograms::NetdevPrograms(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NetdevPrograms::NetdevPrograms(NetdevPrograms&&) noexcept = default;
NetdevPrograms& NetdevPrograms::operator=(NetdevPrograms&&) noexcept = default;
NetdevPrograms::~NetdevPrograms() = default;

std::expected<NetdevPrograms, std::string> NetdevPrograms::load(const Secrets& secrets,
                                                                const SocketPrograms& shared,
                                                                const Netdev& netdev,
                                                                std::uint32_t tap_ifindex,
                                                                std::uint16_t dev_id) {
  auto impl = std::make_unique<Impl>();
  impl->skeleton = netdev_bpf__open();
  if (impl->skeleton == nullptr) return failed("cannot open the netdev programs", errno);
  fill_secrets(impl->skeleton->rodata, secrets);
  impl->skeleton->rodata->psp_netdev_ifindex = netdev.ifindex;
  impl->skeleton->rodata->psp_tap_ifindex = tap_ifindex;
  impl->skeleton->rodata->psp_dev_id = dev_id;
  impl->skeleton->rodata->psp_netns = netdev.netns;
  impl->name = netdev.name;
  auto& maps = impl->skeleton->maps;
  if (auto shares = reuse({{maps.psp_assoc, shared.maps().assoc},
                           {maps.psp_departed, shared.maps().departed},
                           {maps.psp_by_tx_spi, shared.maps().by_tx_spi},
                           {maps.psp_noted, shared.maps().noted}});
      !shares)
    return std::unexpected(shares.error());
  if (const int error = netdev_bpf__load(impl->skeleton); error != 0)
    return failed(fmt::format("{}: the kernel does not take the netdev programs", netdev.name),
                  error);
  if (auto named = check_names(impl->skeleton->obj); !named) return std::unexpected(named.error());
  std::memcpy(impl->config.mac, netdev.mac.data(), sizeof impl->config.mac);
  constexpr std::uint32_t kFirst = 0;
  const int alive = shared.living_socket();
  if (!impl->store() ||
      bpf_map_update_elem(bpf_map__fd(maps.psp_living), &kFirst, &alive, BPF_ANY) != 0)
    return failed(fmt::format("{}: cannot configure the netdev programs", netdev.name), errno);
  if (auto made = impl->make_doors(netdev.ifindex, tap_ifindex); !made)
    return std::unexpected(made.error());
  return NetdevPrograms(std::move(impl));
}

std::expected<void, std::string> NetdevPrograms::attach() {
  impl_->notice.clear();
  for (Door& door : impl_->doors) {
    // At tcx first: what is there tells the next pspd of the clsact.
    if (auto done = put_at_tcx(door, impl_->name); !done) return done;
    if (auto done = impl_->need_clsact(door); !done) return done;
    if (auto done = put(door, impl_->name); !done) return done;
    const auto first = stands(door);
    if (!first) return std::unexpected(fmt::format("{}: {}", impl_->name, first.error()));
    if (!*first)
      return std::unexpected(
          fmt::format("{}: somebody else's program comes before {}", impl_->name, door.name));
  }
  return {};
}

Finding NetdevPrograms::missing() const {
  for (const Door& door : impl_->doors) {
    const auto first = stands(door);
    if (!first) return std::unexpected(first.error());
    if (!*first)
      return fmt::format("pspd's program {} was gone or not the first in line", door.name);
  }
  return std::nullopt;
}

FirstPrograms NetdevPrograms::first_programs() const {
  return {impl_->egress().id, impl_->ingress().id};
}
const std::string& NetdevPrograms::notice() const { return impl_->notice; }

bool NetdevPrograms::set_mac(const std::array<std::uint8_t, 6>& mac) {
  std::memcpy(impl_->config.mac, mac.data(), mac.size());
  return impl_->store();
}

bool NetdevPrograms::set_versions(VersionSet ena) {
  impl_->config.versions_ena = ena.bits;
  return impl_->store();
}

bool NetdevPrograms::set_rotation(std::uint32_t rotation) {
  impl_->config.rotation = rotation;
  return impl_->store();
}

bool NetdevPrograms::set_restore(std::uint32_t bits) {
  impl_->config.restore = bits;
  return impl_->store();
}

std::uint32_t NetdevPrograms::restore() const { return impl_->config.restore; }
DropCounts NetdevPrograms::drops() const {
  read_drops(bpf_map__fd(impl_->skeleton->maps.psp_drops), impl_->drops);
  return impl_->drops;
}
int NetdevPrograms::program(const std::string& name) const {
  return program_by_name(impl_->skeleton->obj, name);
}

}  // namespace psp::kernel
