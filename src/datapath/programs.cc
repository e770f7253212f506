// SPDX-License-Identifier: Apache-2.0
//
// libbpf does the loading; here is what must be decided: order and ownership.
#include "programs.hh"

#include <algorithm>
#include <array>
#include <atomic>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <initializer_list>
#include <sys/socket.h>
#include <utility>

#include <psp/crypto/aead.hh>

#include "hooks.hh"
#include "host_lock.hh"
#include "netdev.skel.h"
#include "socket.skel.h"

namespace psp::datapath {
namespace {

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

// put_element writes one element of a map. False: no room, or the kernel has no memory.
template <typename Key, typename Value>
[[nodiscard]] bool put_element(int map, const Key& key, const Value& value) {
  return bpf_map_update_elem(map, &key, &value, BPF_ANY) == 0;
}

// get_element reads one; nothing: there is none. Errors: a sentence.
template <typename Value, typename Key>
[[nodiscard]] std::expected<std::optional<Value>, std::string> get_element(int map,
                                                                           const Key& key) {
  Value value;
  if (bpf_map_lookup_elem(map, &key, &value) == 0) return value;
  if (errno == ENOENT) return std::nullopt;
  return failed("the kernel does not tell what is in a BPF map", errno);
}

bool same(const psp_guard_entry& a, const psp_guard_entry& b) {
  return a.epoch == b.epoch && a.dev_id == b.dev_id && a.program == b.program;
}

// stands_at: is a program at a cgroup? Errors: a sentence.
[[nodiscard]] std::expected<bool, std::string> stands_at(int cgroup, bpf_attach_type type,
                                                         std::uint32_t program) {
  std::array<std::uint32_t, 64> ids{};  // BPF_CGROUP_MAX_PROGS
  std::uint32_t count = ids.size(), flags = 0;
  if (bpf_prog_query(cgroup, type, 0, &flags, ids.data(), &count) != 0)
    return failed("the kernel does not tell which programs stand at the root cgroup", errno);
  return std::ranges::find(ids, program) != ids.end();
}

int program_by_name(bpf_object* object, const std::string& name) {
  bpf_program* program = bpf_object__find_program_by_name(object, name.c_str());
  return program == nullptr ? -1 : bpf_program__fd(program);
}

// understood: is an earlier pspd's map of the form that this version has?
bool understood(int fd, const bpf_map* ours) {
  bpf_map_info info{};
  std::uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 && info.type == bpf_map__type(ours) &&
         info.key_size == bpf_map__key_size(ours) && info.value_size == bpf_map__value_size(ours);
}

// reuse makes a program use a map that is there already. Errors: a sentence.
[[nodiscard]] std::expected<void, std::string> reuse(bpf_map* map, int fd) {
  if (const int error = bpf_map__reuse_fd(map, fd); error != 0)
    return failed(fmt::format("cannot share the map {}", bpf_map__name(map)), error);
  return {};
}

[[nodiscard]] std::expected<void, std::string> reuse(
    std::initializer_list<std::pair<bpf_map*, int>> maps) {
  for (const auto& [map, fd] : maps)
    if (auto done = reuse(map, fd); !done) return done;
  return {};
}

// check_names: have the programs and maps their names in the kernel? libbpf does without when its
// question whether the kernel knows names fails, and the next pspd finds them by nothing else.
[[nodiscard]] std::expected<void, std::string> check_names(bpf_object* object) {
  const auto unlike = [](const char* name) {
    return std::unexpected(fmt::format("the kernel does not know {} by its name", name));
  };
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    const auto info = program_info(bpf_program__fd(program));
    if (!info) return std::unexpected(info.error());
    if (std::strcmp(info->name, bpf_program__name(program)) != 0)
      return unlike(bpf_program__name(program));
  }
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (bpf_map__is_internal(map)) continue;
    const auto info = map_info(bpf_map__fd(map));
    if (!info) return std::unexpected(info.error());
    if (std::strcmp(info->name, bpf_map__name(map)) != 0) return unlike(bpf_map__name(map));
  }
  return {};
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
  UniqueFd alive, other;  // connected to each other; gone when this process is (see psp_living)
  UniqueFd cgroup;
  struct Attached {
    std::string name;
    int program;
    bpf_attach_type type;
    std::uint32_t id;
  };
  std::vector<Attached> attached;
  bool inherited = false;

  ~Impl() { socket_bpf__destroy(skeleton); }

  std::expected<void, std::string> share_maps(std::uint32_t max_secured, const SharedMaps* from) {
    auto& maps = skeleton->maps;
    for (bpf_map* map : {maps.psp_departed, maps.psp_by_tx_spi, maps.psp_noted})
      if (const int error = bpf_map__set_max_entries(map, max_secured); error != 0)
        return failed("cannot size the maps of the socket programs", error);
    inherited = from != nullptr && can_inherit(*from);
    if (!inherited) return {};
    if (from->by_tx_spi)
      if (auto done = reuse(maps.psp_by_tx_spi, from->by_tx_spi.get()); !done) return done;
    return reuse({{maps.psp_assoc, from->assoc.get()},
                  {maps.psp_departed, from->departed.get()},
                  {maps.psp_noted, from->noted.get()}});
  }

  // The note of whose the programs are.
  static constexpr psp_netdev_key kOwner{0, PSP_OWNER, 0};
  psp_guard_entry owner() const { return {skeleton->rodata->psp_epoch, 0, 0}; }
  [[nodiscard]] std::expected<void, std::string> note_owner() const {
    if (put_element(bpf_map__fd(skeleton->maps.psp_guard), kOwner, owner())) return {};
    return failed("cannot note whose the socket programs are", errno);
  }

  [[nodiscard]] std::expected<void, std::string> attach_one(const Attached& one) const {
    if (bpf_prog_attach(one.program, cgroup.get(), one.type, BPF_F_ALLOW_MULTI) == 0) return {};
    return failed(
        fmt::format("cannot attach {} to the root cgroup (is a program attached there that "
                    "allows no other?)",
                    one.name),
        errno);
  }

  bool can_inherit(const SharedMaps& from) const {
    auto& maps = skeleton->maps;
    return from.complete() && understood(from.assoc.get(), maps.psp_assoc) &&
           understood(from.departed.get(), maps.psp_departed) &&
           understood(from.noted.get(), maps.psp_noted) &&
           (!from.by_tx_spi || understood(from.by_tx_spi.get(), maps.psp_by_tx_spi));
  }
};

SocketPrograms::SocketPrograms(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SocketPrograms::SocketPrograms(SocketPrograms&&) noexcept = default;
SocketPrograms& SocketPrograms::operator=(SocketPrograms&&) noexcept = default;
SocketPrograms::~SocketPrograms() = default;

std::expected<SocketPrograms, std::string> SocketPrograms::load(const Secrets& secrets,
                                                                std::uint32_t max_secured,
                                                                const SharedMaps* inherited) {
  auto impl = std::make_unique<Impl>();
  impl->skeleton = socket_bpf__open();
  if (impl->skeleton == nullptr) return failed("cannot open the socket programs", errno);
  fill_secrets(impl->skeleton->rodata, secrets);
  if (auto mapped = impl->share_maps(max_secured, inherited); !mapped)
    return std::unexpected(mapped.error());
  if (const int error = socket_bpf__load(impl->skeleton); error != 0)
    return failed(
        "the kernel does not take the socket programs (needs Linux 6.1 or later with "
        "CONFIG_BPF_SYSCALL, "
        "CONFIG_CGROUP_BPF and CONFIG_DEBUG_INFO_BTF, and CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)",
        error);
  // libbpf goes without, should its probe for it fail.
  if (impl->skeleton->rodata == nullptr || impl->skeleton->data == nullptr)
    return failed("the data of the socket programs cannot be mapped", ENOMEM);
  if (auto named = check_names(impl->skeleton->obj); !named) return std::unexpected(named.error());
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0)
    return failed("cannot make the socket that says that this pspd lives", errno);
  impl->alive.reset(pair[0]);
  impl->other.reset(pair[1]);
  return SocketPrograms(std::move(impl));
}

std::expected<void, std::string> SocketPrograms::attach(std::span<const std::uint64_t> namespaces) {
  impl_->cgroup = root_cgroup();
  if (!impl_->cgroup)
    return failed("cannot reach the cgroup-v2 tree (needs CONFIG_CGROUPS and CAP_SYS_ADMIN)",
                  errno);
  if (auto noted = impl_->note_owner(); !noted) return noted;
  for (const std::uint64_t netns : namespaces)
    if (!remember(netns)) return failed("cannot note where sockets may be secured", errno);
  for (const auto& [name, type] : kCgroupPrograms) {
    const int fd = program(name);
    const auto info = program_info(fd);
    if (!info) return std::unexpected(info.error());
    const Impl::Attached one{name, fd, type, info->id};
    if (auto done = impl_->attach_one(one); !done) return done;
    impl_->attached.push_back(one);
  }
  return {};
}

Finding SocketPrograms::missing() const {
  for (const Impl::Attached& one : impl_->attached) {
    const auto there = stands_at(impl_->cgroup.get(), one.type, one.id);
    if (!there) return std::unexpected(there.error());
    if (!*there) return fmt::format("pspd's program {} was taken off the root cgroup", one.name);
  }
  const auto owner =
      get_element<psp_guard_entry>(bpf_map__fd(impl_->skeleton->maps.psp_guard), Impl::kOwner);
  if (!owner) return std::unexpected(owner.error());
  if (*owner && same(**owner, impl_->owner())) return std::nullopt;
  return "the note of whose pspd's programs are was changed";
}

std::expected<void, std::string> SocketPrograms::put_back() const {
  for (const Impl::Attached& one : impl_->attached) {
    const auto there = stands_at(impl_->cgroup.get(), one.type, one.id);
    if (!there) return std::unexpected(there.error());
    if (*there) continue;
    if (auto done = impl_->attach_one(one); !done) return done;
  }
  return impl_->note_owner();
}

std::expected<void, std::string> SocketPrograms::detach() {
  for (; !impl_->attached.empty(); impl_->attached.pop_back()) {
    const Impl::Attached& one = impl_->attached.back();
    if (bpf_prog_detach2(one.program, impl_->cgroup.get(), one.type) != 0)
      return failed("the socket programs cannot be taken off the root cgroup", errno);
  }
  return {};
}

bool SocketPrograms::inherited() const { return impl_->inherited; }
int SocketPrograms::assoc_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_assoc); }
int SocketPrograms::departed_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_departed); }
int SocketPrograms::tx_spi_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_by_tx_spi); }
int SocketPrograms::living_socket() const { return impl_->alive.get(); }
int SocketPrograms::noted_map() const { return bpf_map__fd(impl_->skeleton->maps.psp_noted); }

bool SocketPrograms::guard(device::NetdevKey netdev, std::uint16_t dev_id,
                           std::uint32_t program) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  const psp_guard_entry entry = {impl_->skeleton->rodata->psp_epoch, dev_id, program};
  const bool done = put_element(bpf_map__fd(impl_->skeleton->maps.psp_guard), key, entry);
  guard_changed();
  return done;
}

std::expected<bool, std::string> SocketPrograms::guards(device::NetdevKey netdev,
                                                        std::uint16_t dev_id,
                                                        std::uint32_t program) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  const auto entry =
      get_element<psp_guard_entry>(bpf_map__fd(impl_->skeleton->maps.psp_guard), key);
  if (!entry) return std::unexpected(entry.error());
  return *entry && same(**entry, {impl_->skeleton->rodata->psp_epoch, dev_id, program});
}

void SocketPrograms::unguard(device::NetdevKey netdev) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  // It fails only if there is none: deleting takes no memory.
  (void)bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.psp_guard), &key);
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
  std::string name;
  psp_device_config config{};
  std::string notice;

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
  if (auto shares = reuse({{maps.psp_assoc, shared.assoc_map()},
                           {maps.psp_departed, shared.departed_map()},
                           {maps.psp_by_tx_spi, shared.tx_spi_map()},
                           {maps.psp_noted, shared.noted_map()}});
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

std::uint32_t NetdevPrograms::egress_id() const { return impl_->egress().id; }
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
  return read_drops(bpf_map__fd(impl_->skeleton->maps.psp_drops));
}
int NetdevPrograms::program(const std::string& name) const {
  return program_by_name(impl_->skeleton->obj, name);
}

}  // namespace psp::datapath
