// SPDX-License-Identifier: Apache-2.0
//
// Doctor, first part: does this kernel have what pspd is built on, and can this processor do the
// cryptography well. Things are tried where trying leaves no trace, rather than read off a
// configuration that may not be that of the running kernel.
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sstream>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "base/ifreq.hh"
#include "base/netlink_socket.hh"
#include "base/unique_fd.hh"
#include "crypto/aead.hh"

#include "doctor.hh"

namespace psp::ctl {

namespace {

// Older uapi headers lack UDP segmentation offload (6.2).
constexpr unsigned kTunUso4 = 0x20, kTunUso6 = 0x40;

constexpr std::string_view kNeedsRoot = "needs root";

std::string errno_words() { return std::strerror(errno); }

// check_tap makes a TAP device as pspd does. It is gone with the descriptor in `tap`.
Verdict check_tap(UniqueFd& tap, unsigned& ifindex) {
  constexpr std::string_view check = "tun";
  tap = UniqueFd(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!tap && errno == EACCES) return skipped(check, std::string(kNeedsRoot));
  if (!tap)
    return fail(check, fmt::format("/dev/net/tun: {}", errno_words()),
                "modprobe tun (CONFIG_TUN); in a container: give it the device /dev/net/tun");
  ifreq request = request_for("pspdoctor%d");
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
  if (ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    if (errno == EPERM) return skipped(check, std::string(kNeedsRoot));
    return fail(check, fmt::format("a TAP device cannot be made: {}", errno_words()),
                "CONFIG_TUN; pspd needs CAP_NET_ADMIN");
  }
  ifindex = if_nametoindex(request.ifr_name);
  const unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | kTunUso4 | kTunUso6;
  if (ioctl(tap.get(), TUNSETOFFLOAD, offloads) != 0)
    return warn(check, "TAP has no UDP segmentation offload (USO): sealed packets go one by one",
                "use kernel 6.2 or newer: several times the throughput");
  return ok(check, "TAP with TCP and UDP segmentation offload");
}

Verdict check_tc(const Verdict& tap, unsigned ifindex) {
  constexpr std::string_view check = "tc-bpf";
  // What the TAP lacks, this lacks too.
  if (tap.level == Verdict::Level::kSkipped) return skipped(check, tap.text);
  if (ifindex == 0) return skipped(check, "needs the TAP device of the check before");
  const bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
  };
  const UniqueFd loaded(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "psp_doctor", "GPL", program,
                                      std::size(program), nullptr));
  if (!loaded)
    return fail(check, fmt::format("a tc program cannot be loaded: {}", errno_words()),
                "CONFIG_BPF_SYSCALL, CAP_BPF and CAP_NET_ADMIN (or a lockdown that forbids BPF)");
  libbpf_set_print([](libbpf_print_level, const char*, va_list) { return 0; });
  DECLARE_LIBBPF_OPTS(
      bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
      .attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  if (const int error = bpf_tc_hook_create(&hook); error != 0)
    return fail(check, fmt::format("clsact cannot be created: {}", std::strerror(-error)),
                "modprobe sch_ingress (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_ACT)");
  hook.attach_point = BPF_TC_EGRESS;
  DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = loaded.get());
  if (const int error = bpf_tc_attach(&hook, &options); error != 0)
    return fail(check, fmt::format("a tc program cannot be attached: {}", std::strerror(-error)),
                "modprobe cls_bpf (CONFIG_NET_CLS_BPF)");
  return ok(check, "a tc program loads and attaches");
}

Verdict check_btf() {
  constexpr const char* kPath = "/sys/kernel/btf/vmlinux";
  if (access(kPath, R_OK) == 0) return ok("btf", kPath);
  return fail("btf", fmt::format("{}: {}", kPath, errno_words()),
              "use a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian's and most others have it)");
}

// check_cgroup: pspd mounts the tree for itself, so that it need not be mounted anywhere.
Verdict check_cgroup() {
  std::ifstream filesystems("/proc/filesystems");
  const std::string known{std::istreambuf_iterator<char>(filesystems), {}};
  if (known.find("cgroup2") == std::string::npos)
    return fail("cgroup", "the kernel has no cgroup version 2",
                "CONFIG_CGROUPS, CONFIG_CGROUP_BPF");
  return ok("cgroup", "version 2");
}

// check_sock_destroy asks for the end of a connection that cannot be: to port 0, with cookie 0.
Verdict check_sock_destroy() {
  constexpr std::string_view check = "sock-destroy";
  alignas(nlmsghdr) std::array<char, 4096> room;
  auto* const request = start_request<inet_diag_req_v2>(room, SOCK_DESTROY, NLM_F_ACK).header;
  request->sdiag_family = AF_INET;
  request->sdiag_protocol = IPPROTO_TCP;
  const NetlinkSocket nl(NETLINK_SOCK_DIAG);
  if (!nl)
    return fail(check, fmt::format("sock_diag: {}", errno_words()),
                "CONFIG_INET_DIAG, modprobe inet_diag");
  switch (const int error = nl.exchange(room) ? 0 : errno) {
    case EPERM:
      return skipped(check, std::string(kNeedsRoot));
    case EOPNOTSUPP:
      return fail(check, "the kernel cannot abort sockets", "CONFIG_INET_DIAG_DESTROY=y");
    case ENOENT:
      return ok(check, "sockets can be aborted");
    default:
      return fail(check, fmt::format("sock_diag: {}", std::strerror(error)),
                  "CONFIG_INET_DIAG, modprobe tcp_diag");
  }
}

Verdict check_processor() {
#if defined(__x86_64__)
  std::string have;
  bool fast = true;
  const auto note = [&](bool there, const char* feature, bool wanted) {
    if (there) have += fmt::format("{}{}", have.empty() ? "" : " ", feature);
    if (!there && wanted) fast = false;
  };
  note(__builtin_cpu_supports("aes"), "aes", true);
  note(__builtin_cpu_supports("pclmul"), "pclmul", true);
  note(__builtin_cpu_supports("avx2"), "avx2", false);
  note(__builtin_cpu_supports("avx512f"), "avx512f", false);
  note(__builtin_cpu_supports("vaes"), "vaes", false);
  note(__builtin_cpu_supports("vpclmulqdq"), "vpclmulqdq", false);
  if (!fast)
    return warn("cpu", fmt::format("no AES instructions ({})", have.empty() ? "none" : have),
                "PSP works, slowly; in a virtual machine, pass the host's processor through");
  return ok("cpu", have);
#else
  return ok("cpu", "not x86-64: OpenSSL uses what there is");
#endif
}

Verdict check_crypto() {
  const crypto::Backend* backend = crypto::find_backend("auto");
  if (backend == nullptr) return fail("crypto", "no backend", "rebuild softpsp with OpenSSL");
  if (const auto failed = crypto::self_test(*backend))
    return fail("crypto", fmt::format("{}: self-test failed: {}", backend->description(), *failed),
                "do not use this machine for PSP; try pspd --crypto openssl");
  return ok("crypto", fmt::format("{}, self-test passed", backend->description()));
}

}  // namespace

Verdict judge_kernel(std::string_view release) {
  unsigned major = 0, minor = 0;
  const std::string words(release);
  if (std::sscanf(words.c_str(), "%u.%u", &major, &minor) != 2)
    return warn("kernel", fmt::format("release \"{}\" is not understood", release),
                "pspd needs Linux 6.1 or newer");
  if (major < 6 || (major == 6 && minor < 1))
    return fail("kernel", fmt::format("Linux {}", release), "use Linux 6.1 or newer");
  return ok("kernel", fmt::format("Linux {}", release));
}

Verdicts check_host() {
  utsname names{};
  uname(&names);
  Verdicts verdicts;
  verdicts.push_back(judge_kernel(names.release));
  UniqueFd tap;
  unsigned ifindex = 0;
  verdicts.push_back(check_tap(tap, ifindex));
  verdicts.push_back(check_tc(verdicts.back(), ifindex));
  verdicts.push_back(check_btf());
  verdicts.push_back(check_cgroup());
  verdicts.push_back(check_sock_destroy());
  verdicts.push_back(check_processor());
  verdicts.push_back(check_crypto());
  return verdicts;
}

}  // namespace psp::ctl
