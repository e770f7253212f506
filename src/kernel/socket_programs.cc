// SPDX-License-Identifier: Apache-2.0
//
// The cgroup programs and the maps that all devices of a pspd share: in which order they come and
// go, whose they are, and which maps an earlier pspd hands on.
//
// Threading: see programs.hh.
#include <algorithm>
#include <array>
#include <atomic>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <ranges>
#include <sys/socket.h>
#include <utility>

#include "crypto/aead.hh"

#include "hooks.hh"
#include "host_lock.hh"
#include "loading.hh"
#include "socket.skel.h"

namespace psp::kernel {
namespace {

bool same(const psp_guard_entry& a, const psp_guard_entry& b) {
  return a.epoch == b.epoch && a.dev_id == b.dev_id && a.egress == b.egress &&
         a.ingress == b.ingress;
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

// understood: is an earlier pspd's map of the form that this version has?
bool understood(int fd, const bpf_map* ours) {
  bpf_map_info info{};
  std::uint32_t length = sizeof info;
  return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 && info.type == bpf_map__type(ours) &&
         info.key_size == bpf_map__key_size(ours) && info.value_size == bpf_map__value_size(ours);
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
  SocketMaps descriptors;
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
  DropCounts drops{};  // as they were read last

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
  psp_guard_entry entry(std::uint16_t dev_id, const FirstPrograms& programs) const {
    return {skeleton->rodata->psp_epoch, dev_id, programs.egress, programs.ingress, 0};
  }
  psp_guard_entry owner() const { return entry(0, {}); }
  [[nodiscard]] std::expected<void, std::string> note_owner() const {
    if (put_element(descriptors.guard, kOwner, owner())) return {};
    return failed("cannot note whose the socket programs are", errno);
  }

  [[nodiscard]] std::expected<void, std::string> attach_one(const Attached& one) const {
    if (bpf_prog_attach(one.program, cgroup.get(), one.type, BPF_F_ALLOW_MULTI) == 0) return {};
    const int error = errno;
    const char* why = error == E2BIG
                          ? "somebody has as many programs there as the kernel takes, 64: "
                            "'bpftool cgroup show' names them"
                          : "is a program attached there that allows no other?";
    return failed(fmt::format("cannot attach {} to the root cgroup ({})", one.name, why), error);
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
  const auto& maps = impl->skeleton->maps;
  impl->descriptors = {.assoc = bpf_map__fd(maps.psp_assoc),
                       .guard = bpf_map__fd(maps.psp_guard),
                       .departed = bpf_map__fd(maps.psp_departed),
                       .by_tx_spi = bpf_map__fd(maps.psp_by_tx_spi),
                       .noted = bpf_map__fd(maps.psp_noted)};
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
  impl_->attached.clear();
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
  const auto owner = get_element<psp_guard_entry>(impl_->descriptors.guard, Impl::kOwner);
  if (!owner) return unread(owner.error());
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
  for (const Impl::Attached& one : std::views::reverse(impl_->attached))
    // One that somebody else has taken off has gone as well.
    if (bpf_prog_detach2(one.program, impl_->cgroup.get(), one.type) != 0 && errno != ENOENT)
      return failed("the socket programs cannot be taken off the root cgroup", errno);
  return {};
}

bool SocketPrograms::inherited() const { return impl_->inherited; }
const SocketMaps& SocketPrograms::maps() const { return impl_->descriptors; }
int SocketPrograms::living_socket() const { return impl_->alive.get(); }

bool SocketPrograms::guard(device::NetdevKey netdev, std::uint16_t dev_id,
                           const FirstPrograms& programs) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  const psp_guard_entry entry = impl_->entry(dev_id, programs);
  const bool done = put_element(impl_->descriptors.guard, key, entry);
  guard_changed();
  return done;
}

std::expected<bool, std::string> SocketPrograms::guards(device::NetdevKey netdev,
                                                        std::uint16_t dev_id,
                                                        const FirstPrograms& programs) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  const auto entry = get_element<psp_guard_entry>(impl_->descriptors.guard, key);
  if (!entry) return unread(entry.error());
  return *entry && same(**entry, impl_->entry(dev_id, programs));
}

void SocketPrograms::unguard(device::NetdevKey netdev) const {
  const psp_netdev_key key = {netdev.netns, netdev.ifindex, 0};
  // Deleting takes no memory: it cannot fail, and if it does, the next pspd takes the entry over.
  (void)remove_element(impl_->descriptors.guard, key);
  guard_changed();
}

// guard_changed makes the sockets forget what psp_guard told them.
void SocketPrograms::guard_changed() const {
  std::atomic_ref(impl_->skeleton->data->psp_guard_version).fetch_add(1);
}
DropCounts SocketPrograms::drops() const {
  read_drops(bpf_map__fd(impl_->skeleton->maps.psp_drops), impl_->drops);
  return impl_->drops;
}
int SocketPrograms::program(const std::string& name) const {
  return program_by_name(impl_->skeleton->obj, name);
}

}  // namespace psp::kernel
