// SPDX-License-Identifier: Apache-2.0
//
// libbpf does the loading; here is what must be decided: order, ownership, and what an earlier
// pspd left.
#include "programs.hh"

#include <algorithm>
#include <atomic>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <net/if.h>
#include <span>
#include <sstream>
#include <sys/mount.h>
#include <unistd.h>

#include <psp/crypto/aead.hh>

#include "netdev.skel.h"
#include "socket.skel.h"

namespace psp::datapath {
namespace {

// Ours are first in line: another filter that ends the walk before us would let clear text out.
constexpr std::uint32_t kFilterPriority = 1;
constexpr std::uint32_t kFilterHandle = 0x505350;
constexpr std::uint32_t kConfigKey = 0;

std::unexpected<std::string> failed(const std::string& what, int error) {
  return std::unexpected(fmt::format("{}: {}", what, std::strerror(error < 0 ? -error : error)));
}

// libbpf's own words on stderr would stand beside ours; errors come as return values.
[[maybe_unused]] const libbpf_print_fn_t quiet_libbpf = libbpf_set_print(nullptr);

DropCounts read_drops(int map_fd) {
  DropCounts counts{};
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return counts;
  std::vector<std::uint64_t> values(static_cast<std::size_t>(cpus));
  for (std::uint32_t reason = 0; reason < counts.size(); reason++) {
    if (bpf_map_lookup_elem(map_fd, &reason, values.data()) != 0) continue;
    for (const std::uint64_t value : values) counts[reason] += value;
  }
  return counts;
}

template <typename Rodata>
void fill_secrets(Rodata* rodata, const Secrets& secrets) {
  rodata->psp_epoch = secrets.epoch;
  rodata->psp_token[0] = secrets.token[0];
  rodata->psp_token[1] = secrets.token[1];
  rodata->psp_view_optname = secrets.view_optname;
  rodata->psp_mark = secrets.mark;
  rodata->psp_verified = secrets.verified;
}

// root_cgroup opens the root of the cgroup-v2 tree by a mount of its own, since /sys may be hidden
// (ip netns exec does that).
UniqueFd root_cgroup() {
  const UniqueFd context(::fsopen("cgroup2", FSOPEN_CLOEXEC));
  if (!context || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return {};
  return UniqueFd(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
}

struct ProgramInfo {
  std::string name;
  std::vector<std::uint32_t> map_ids;
};

std::optional<ProgramInfo> program_info(int fd) {
  bpf_prog_info info{};
  std::array<std::uint32_t, 64> ids{};
  std::uint32_t length = sizeof info;
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<std::uintptr_t>(ids.data());
  if (bpf_obj_get_info_by_fd(fd, &info, &length) != 0) return std::nullopt;
  const std::size_t maps = std::min<std::size_t>(info.nr_map_ids, ids.size());
  return ProgramInfo{info.name, {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(maps)}};
}

struct MapInfo {
  std::string name;
  std::uint32_t key_size = 0, value_size = 0;
};

MapInfo map_info(int fd) {
  bpf_map_info info{};
  std::uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd, &info, &length) != 0) return {};
  return {info.name, info.key_size, info.value_size};
}

// is_guard: a psp_guard that this version understands.
bool is_guard(const MapInfo& info) {
  return info.name == "psp_guard" && info.key_size == sizeof(psp_netdev_key) &&
         info.value_size == sizeof(psp_guard_entry);
}

// filter_program is the id of our filter's program at a hook, 0 if there is none.
std::uint32_t filter_program(std::uint32_t ifindex, bpf_tc_attach_point point) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex), .attach_point = point);
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = kFilterHandle, .priority = kFilterPriority);
  return bpf_tc_query(&hook, &opts) == 0 ? opts.prog_id : 0;
}

int detach_filter(std::uint32_t ifindex, bpf_tc_attach_point point) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex), .attach_point = point);
  LIBBPF_OPTS(bpf_tc_opts, opts, .handle = kFilterHandle, .priority = kFilterPriority);
  return bpf_tc_detach(&hook, &opts);
}

void remove_clsact(std::uint32_t ifindex) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  bpf_tc_hook_destroy(&hook);
}

// clear_netdev takes our two filters off a netdev, and the clsact if it is ours and if no filter
// of anybody is left in it.
void clear_netdev(std::uint32_t ifindex, bool ours) {
  detach_filter(ifindex, BPF_TC_EGRESS);
  detach_filter(ifindex, BPF_TC_INGRESS);
  if (ours && !has_filters(ifindex)) remove_clsact(ifindex);
}

// The programs at the cgroup root, with the attach types they belong to.
constexpr std::array<std::pair<const char*, bpf_attach_type>, 4> kCgroupPrograms = {{
    {"psp_setsockopt", BPF_CGROUP_SETSOCKOPT},
    {"psp_getsockopt", BPF_CGROUP_GETSOCKOPT},
    {"psp_sock_in", BPF_CGROUP_INET_INGRESS},
    {"psp_sock_out", BPF_CGROUP_INET_EGRESS},
}};

// for_each_attached calls `visit(program, cgroup, info)` for programs of that name at the cgroup
// root.
template <typename Visit>
void for_each_attached(const std::string& name, bpf_attach_type type, Visit visit) {
  const UniqueFd cgroup = root_cgroup();
  std::array<std::uint32_t, 64> ids{};
  std::uint32_t count = ids.size(), flags = 0;
  if (!cgroup || bpf_prog_query(cgroup.get(), type, 0, &flags, ids.data(), &count) != 0) return;
  for (std::uint32_t i = 0; i < count && i < ids.size(); i++) {
    const UniqueFd program(bpf_prog_get_fd_by_id(ids[i]));
    const auto info = program ? program_info(program.get()) : std::nullopt;
    if (info && info->name == name) visit(program.get(), cgroup.get(), *info);
  }
}

// detach_all takes the programs that use that map of associations off the cgroup root.
void detach_all(std::uint32_t assoc_map_id) {
  for (const auto& [name, attach_type] : kCgroupPrograms) {
    const auto detach = [assoc_map_id, type = attach_type](int program, int cgroup,
                                                           const ProgramInfo& info) {
      if (std::ranges::find(info.map_ids, assoc_map_id) != info.map_ids.end())
        bpf_prog_detach2(program, cgroup, type);
    };
    for_each_attached(name, attach_type, detach);
  }
}

// start_of is when a process started, in ticks after boot; 0 if it is not running.
std::uint64_t start_of(std::uint64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  constexpr int kStartTime = 20;  // 22nd field of proc(5), two of them before the name's end
  for (int i = 0; i < kStartTime; i++) {
    fields >> field;
    if (i == 0 && (field == "Z" || field == "X")) return 0;  // ended, and nobody has asked how
  }
  return std::strtoull(field.c_str(), nullptr, 10);
}

constexpr psp_netdev_key kOwnerPid = {0, PSP_OWNER_PID, 0};
constexpr psp_netdev_key kOwnerStart = {0, PSP_OWNER_START, 0};

bool owner_is_alive(int guard_map) {
  psp_guard_entry pid{}, start{};
  if (bpf_map_lookup_elem(guard_map, &kOwnerPid, &pid) != 0 ||
      bpf_map_lookup_elem(guard_map, &kOwnerStart, &start) != 0)
    return true;  // not known: hands off
  return start_of(pid.epoch) == start.epoch;
}

// guarded_netdevs are the keys of a psp_guard but for its owner's.
std::vector<device::NetdevKey> guarded_netdevs(int guard_map) {
  std::vector<device::NetdevKey> netdevs;
  psp_netdev_key key{};
  for (const psp_netdev_key* last = nullptr; bpf_map_get_next_key(guard_map, last, &key) == 0;
       last = &key)
    if (key.netns != 0) netdevs.push_back({key.netns, key.ifindex});
  return netdevs;
}

int program_by_name(bpf_object* object, const std::string& name) {
  bpf_program* program = bpf_object__find_program_by_name(object, name.c_str());
  return program == nullptr ? -1 : bpf_program__fd(program);
}

}  // namespace

Secrets Secrets::random() {
  Secrets secrets;
  std::uint8_t octets[sizeof secrets.epoch + sizeof secrets.token + sizeof secrets.view_optname +
                      sizeof secrets.mark + sizeof secrets.verified];
  crypto::random_bytes(octets);
  const std::uint8_t* from = octets;
  const auto take = [&from](void* to, std::size_t size) {
    std::memcpy(to, from, size);
    from += size;
  };
  take(&secrets.epoch, sizeof secrets.epoch);
  take(secrets.token.data(), sizeof secrets.token);
  take(&secrets.view_optname, sizeof secrets.view_optname);
  take(&secrets.mark, sizeof secrets.mark);
  take(&secrets.verified, sizeof secrets.verified);
  secrets.view_optname &= 0x7fffffff;
  secrets.mark |= 1;      // never the mark of an ordinary packet
  secrets.verified |= 1;  // nor its tc_index
  return secrets;
}

struct SocketPrograms::Impl {
  socket_bpf* skeleton = nullptr;
  UniqueFd cgroup;
  std::vector<std::pair<int, bpf_attach_type>> attached;

  ~Impl() { socket_bpf__destroy(skeleton); }
};

SocketPrograms::SocketPrograms(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SocketPrograms::SocketPrograms(SocketPrograms&&) noexcept = default;
SocketPrograms& SocketPrograms::operator=(SocketPrograms&&) noexcept = default;
SocketPrograms::~SocketPrograms() = default;

std::expected<SocketPrograms, std::string> SocketPrograms::load(const Secrets& secrets) {
  auto impl = std::make_unique<Impl>();
  impl->skeleton = socket_bpf__open();
  if (impl->skeleton == nullptr) return failed("cannot open the socket programs", errno);
  fill_secrets(impl->skeleton->rodata, secrets);
  if (const int error = socket_bpf__load(impl->skeleton); error != 0)
    return failed(
        "the kernel does not take the socket programs (needs Linux 6.1 or later with "
        "CONFIG_BPF_SYSCALL, "
        "CONFIG_CGROUP_BPF and CONFIG_DEBUG_INFO_BTF, and CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)",
        error);
  return SocketPrograms(std::move(impl));
}

std::expected<void, std::string> SocketPrograms::attach() {
  impl_->cgroup = root_cgroup();
  if (!impl_->cgroup)
    return failed("cannot reach the cgroup-v2 tree (needs CONFIG_CGROUPS and CAP_SYS_ADMIN)",
                  errno);
  const int guard_map = bpf_map__fd(impl_->skeleton->maps.psp_guard);
  const psp_guard_entry pid = {static_cast<std::uint64_t>(::getpid()), 0, 0};
  const psp_guard_entry start = {start_of(pid.epoch), 0, 0};
  bpf_map_update_elem(guard_map, &kOwnerPid, &pid, BPF_ANY);
  bpf_map_update_elem(guard_map, &kOwnerStart, &start, BPF_ANY);
  for (const auto& [name, type] : kCgroupPrograms) {
    const int fd = program(name);
    if (bpf_prog_attach(fd, impl_->cgroup.get(), type, BPF_F_ALLOW_MULTI) != 0) {
      const int error = errno;
      detach();
      return failed(
          fmt::format("cannot attach {} to the root cgroup (is a program attached there that "
                      "allows no other?)",
                      name),
          error);
    }
    impl_->attached.emplace_back(fd, type);
  }
  return {};
}

void SocketPrograms::detach() {
  for (const auto& [fd, type] : impl_->attached) bpf_prog_detach2(fd, impl_->cgroup.get(), type);
  impl_->attached.clear();
}

int SocketPrograms::assoc_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_assoc); }
int SocketPrograms::departed_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_departed); }
int SocketPrograms::tx_spi_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_by_tx_spi); }
void SocketPrograms::guard(device::NetdevKey netdev, std::uint16_t dev_id) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  const psp_guard_entry entry = {impl_->skeleton->rodata->psp_epoch, dev_id, 0};
  bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.psp_guard), &key, &entry, BPF_ANY);
  guard_changed();
}
void SocketPrograms::unguard(device::NetdevKey netdev) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.psp_guard), &key);
  guard_changed();
}
// guard_changed makes the sockets forget what psp_guard told them.
void SocketPrograms::guard_changed() const {
  std::atomic_ref(impl_->skeleton->data->psp_guard_version).fetch_add(1);
}
DropCounts SocketPrograms::drops() const {
  return read_drops(bpf_map__fd(impl_->skeleton->maps.psp_drops));
}
int SocketPrograms::program(const std::string& name) const {
  return program_by_name(impl_->skeleton->obj, name);
}

struct NetdevPrograms::Impl {
  netdev_bpf* skeleton = nullptr;
  std::uint32_t ifindex = 0, tap_ifindex = 0;
  std::string name;
  psp_device_config config{};
  std::uint32_t ingress_id = 0, egress_id = 0;

  ~Impl() { netdev_bpf__destroy(skeleton); }

  void store() const {
    bpf_map_update_elem(bpf_map__fd(skeleton->maps.psp_config), &kConfigKey, &config, BPF_ANY);
  }

  // hook makes the clsact of a device. True if it was not there before.
  static std::expected<bool, std::string> hook(std::uint32_t index, const std::string& device) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(index),
                .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
    const int error = bpf_tc_hook_create(&hook);
    if (error == 0) return true;
    if (error == -EEXIST) return false;
    return failed(fmt::format("{}: cannot make a clsact qdisc (needs CONFIG_NET_SCH_INGRESS; an "
                              "'ingress' qdisc in its place must go)",
                              device),
                  error);
  }

  std::expected<std::uint32_t, std::string> attach(std::uint32_t index, bpf_tc_attach_point point,
                                                   bpf_program* program) const {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(index), .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = bpf_program__fd(program), .flags = BPF_TC_F_REPLACE,
                .handle = kFilterHandle, .priority = kFilterPriority);
    if (const int error = bpf_tc_attach(&hook, &opts); error != 0)
      return failed(fmt::format("{}: cannot attach {} (needs CONFIG_NET_CLS_BPF)", name,
                                bpf_program__name(program)),
                    error);
    return opts.prog_id;
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
  impl->ifindex = netdev.ifindex;
  impl->tap_ifindex = tap_ifindex;
  impl->name = netdev.name;
  bpf_map__reuse_fd(impl->skeleton->maps.psp_assoc, shared.assoc_map());
  bpf_map__reuse_fd(impl->skeleton->maps.psp_departed, shared.departed_map());
  bpf_map__reuse_fd(impl->skeleton->maps.psp_by_tx_spi, shared.tx_spi_map());
  if (const int error = netdev_bpf__load(impl->skeleton); error != 0)
    return failed(fmt::format("{}: the kernel does not take the netdev programs", netdev.name),
                  error);
  std::memcpy(impl->config.mac, netdev.mac.data(), sizeof impl->config.mac);
  impl->store();
  return NetdevPrograms(std::move(impl));
}

std::expected<void, std::string> NetdevPrograms::attach() {
  auto& programs = impl_->skeleton->progs;
  auto tap = Impl::hook(impl_->tap_ifindex, impl_->name + "'s TAP");
  if (!tap) return std::unexpected(tap.error());
  auto netdev = Impl::hook(impl_->ifindex, impl_->name);
  if (!netdev) return std::unexpected(netdev.error());
  if (*netdev) set_restore(impl_->config.restore | PSP_RESTORE_CLSACT);

  // The TAP first, so that what the netdev sends there is understood from the first packet on.
  if (auto id = impl_->attach(impl_->tap_ifindex, BPF_TC_INGRESS, programs.psp_tap_ingress); !id)
    return std::unexpected(id.error());
  if (auto id = impl_->attach(impl_->tap_ifindex, BPF_TC_EGRESS, programs.psp_tap_egress); !id)
    return std::unexpected(id.error());
  auto egress = impl_->attach(impl_->ifindex, BPF_TC_EGRESS, programs.psp_egress);
  if (!egress) return std::unexpected(egress.error());
  impl_->egress_id = *egress;
  auto ingress = impl_->attach(impl_->ifindex, BPF_TC_INGRESS, programs.psp_ingress);
  if (!ingress) return std::unexpected(ingress.error());
  impl_->ingress_id = *ingress;
  return {};
}

void NetdevPrograms::remove_filters() {
  detach_filter(impl_->ifindex, BPF_TC_EGRESS);
  detach_filter(impl_->ifindex, BPF_TC_INGRESS);
}

void NetdevPrograms::detach() {
  if (impl_->egress_id == 0 && impl_->ingress_id == 0) return;
  clear_netdev(impl_->ifindex, impl_->config.restore & PSP_RESTORE_CLSACT);
  impl_->egress_id = impl_->ingress_id = 0;
}

bool NetdevPrograms::attached() const {
  return filter_program(impl_->ifindex, BPF_TC_EGRESS) == impl_->egress_id &&
         filter_program(impl_->ifindex, BPF_TC_INGRESS) == impl_->ingress_id &&
         is_first_filter(impl_->ifindex, kFilterPriority, kFilterHandle);
}

void NetdevPrograms::set_mac(const std::array<std::uint8_t, 6>& mac) {
  std::memcpy(impl_->config.mac, mac.data(), mac.size());
  impl_->store();
}

void NetdevPrograms::set_versions(VersionSet ena) {
  impl_->config.versions_ena = ena.bits;
  impl_->store();
}

void NetdevPrograms::set_rotation(std::uint32_t rotation) {
  impl_->config.rotation = rotation;
  impl_->store();
}

void NetdevPrograms::set_restore(std::uint32_t bits) {
  impl_->config.restore = bits;
  impl_->store();
}

std::uint32_t NetdevPrograms::restore() const { return impl_->config.restore; }
DropCounts NetdevPrograms::drops() const {
  return read_drops(bpf_map__fd(impl_->skeleton->maps.psp_drops));
}
int NetdevPrograms::program(const std::string& name) const {
  return program_by_name(impl_->skeleton->obj, name);
}

namespace {

// read_restore reads the settings that the programs of any version of pspd meant to put back.
std::uint32_t read_restore(int config_map, std::uint32_t value_size) {
  constexpr std::size_t kAt = offsetof(psp_device_config, restore);
  std::vector<std::uint8_t> value(value_size);
  std::uint32_t restore = 0;
  if (value_size >= kAt + sizeof restore &&
      bpf_map_lookup_elem(config_map, &kConfigKey, value.data()) == 0)
    std::memcpy(&restore, value.data() + kAt, sizeof restore);
  return restore;
}

// for_each_map calls `visit(descriptor, info, id)` for maps of a program.
template <typename Visit>
void for_each_map(const std::vector<std::uint32_t>& ids, Visit visit) {
  for (const std::uint32_t id : ids)
    if (UniqueFd map(bpf_map_get_fd_by_id(id)); map) {
      const MapInfo info = map_info(map.get());
      visit(std::move(map), info, id);
    }
}

// find_netdevs asks the socket programs that share a map of associations where else theirs are.
std::vector<device::NetdevKey> find_netdevs(std::uint32_t assoc_map_id) {
  std::vector<device::NetdevKey> netdevs;
  for_each_attached("psp_sock_out", BPF_CGROUP_INET_EGRESS,
                    [&](int, int, const ProgramInfo& program) {
                      if (std::ranges::find(program.map_ids, assoc_map_id) == program.map_ids.end())
                        return;
                      for_each_map(program.map_ids, [&](UniqueFd map, const MapInfo& info, auto) {
                        if (is_guard(info)) netdevs = guarded_netdevs(map.get());
                      });
                    });
  return netdevs;
}

}  // namespace

std::optional<Leftover> find_leftover(const Netdev& netdev) {
  std::uint32_t id = filter_program(netdev.ifindex, BPF_TC_EGRESS);
  if (id == 0) id = filter_program(netdev.ifindex, BPF_TC_INGRESS);
  if (id == 0) return std::nullopt;
  const UniqueFd program(bpf_prog_get_fd_by_id(id));
  const auto info = program ? program_info(program.get()) : std::nullopt;
  if (!info || (info->name != "psp_egress" && info->name != "psp_ingress")) return std::nullopt;

  Leftover leftover;
  const UniqueFd ingress(bpf_prog_get_fd_by_id(filter_program(netdev.ifindex, BPF_TC_INGRESS)));
  auto map_ids = info->map_ids;
  if (const auto more = ingress ? program_info(ingress.get()) : std::nullopt)
    map_ids.insert(map_ids.end(), more->map_ids.begin(), more->map_ids.end());
  for_each_map(map_ids, [&](UniqueFd map, const MapInfo& map_is, std::uint32_t map_id) {
    if (map_is.name == "psp_config") leftover.restore = read_restore(map.get(), map_is.value_size);
    if (map_is.name != "psp_assoc") return;
    leftover.assoc_map = std::move(map);
    leftover.assoc_map_id = map_id;
  });
  leftover.netdevs = find_netdevs(leftover.assoc_map_id);
  return leftover;
}

void remove_filters(const Netdev& netdev, const Leftover& leftover) {
  if (leftover.restore & PSP_RESTORE_UDP_GRO_FORWARDING)
    (void)set_feature(netdev.name, kUdpGroForwarding, false);
  clear_netdev(netdev.ifindex, leftover.restore & PSP_RESTORE_CLSACT);
}

void remove_leftover(const Netdev& netdev, const Leftover& leftover, bool filters) {
  detach_all(leftover.assoc_map_id);
  if (filters) remove_filters(netdev, leftover);
}

std::vector<Leftover> find_orphans() {
  std::vector<Leftover> orphans;
  for_each_attached(
      "psp_sock_out", BPF_CGROUP_INET_EGRESS, [&](int, int, const ProgramInfo& program) {
        Leftover orphan;
        bool dead = false;
        for_each_map(program.map_ids, [&](UniqueFd map, const MapInfo& info, std::uint32_t id) {
          if (is_guard(info)) {
            dead = !owner_is_alive(map.get());
            orphan.netdevs = guarded_netdevs(map.get());
          }
          if (info.name != "psp_assoc") return;
          orphan.assoc_map = std::move(map);
          orphan.assoc_map_id = id;
        });
        if (dead && orphan.assoc_map) orphans.push_back(std::move(orphan));
      });
  return orphans;
}

void remove_orphan(const Leftover& orphan) { detach_all(orphan.assoc_map_id); }

}  // namespace psp::datapath
