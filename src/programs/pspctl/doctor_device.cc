// SPDX-License-Identifier: Apache-2.0
//
// Doctor, second part: who serves the psp family here, and the state of its devices. Who serves it
// is asked as programs do, so doctor meets what they would meet.
//
// Three ways of having no pspd have three answers: nobody is there (is it another namespace or
// address?), somebody who is not root is there (do not give him keys), pspd is there and does not
// answer (it hangs). Only in the first two cases what a dead pspd left is looked for: else it
// belongs to a living one.
#include <algorithm>
#include <fmt/format.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/counted.hh"
#include "base/ifreq.hh"
#include "base/udp_port.hh"
#include "base/unique_fd.hh"

#include "doctor.hh"

namespace psp::ctl {

namespace {

// kFewSpis: about one in a hundred of the 2^31 - 1 SPIs of a device key.
constexpr std::uint64_t kFewSpis = 1u << 24;
// kIpv6MinimumMtu: RFC 8200, section 5.
constexpr std::uint32_t kIpv6MinimumMtu = 1280;

void look_at_netdev(const std::string& ifname, DeviceFacts& facts) {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(ifname);
  if (!fd || ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return;
  facts.up = (request.ifr_flags & IFF_UP) != 0;
  if (ioctl(fd.get(), SIOCGIFMTU, &request) == 0)
    facts.mtu = static_cast<std::uint32_t>(request.ifr_mtu);
}

constexpr const char* kItHangs =
    "it hangs: systemctl restart pspd; before, its log: journalctl -u pspd";

Verdicts check_daemon(Client& client) {
  const auto info = daemon_info(client);
  if (!info)
    return {fail("pspd", fmt::format("connected, but does not answer: {}", info.error().message),
                 kItHangs)};
  return {ok("pspd", fmt::format("pspd {} answers, pid {}, {}", info->version, info->pid,
                                 info->crypto_backend))};
}

Verdict judge_connection(const ClientError& error, const std::string& address) {
  const std::string words = error.text.empty() ? error.message : error.text;
  if (error.sys_errno == EPERM || error.sys_errno == EACCES)
    return fail("pspd", fmt::format("at {}: {}", address, words),
                "do not give it keys: find out who listens there (ss -xlp)");
  if (error.sys_errno == ETIMEDOUT) return fail("pspd", words, kItHangs);
  return fail("pspd", words,
              fmt::format("if it runs: is it in this network namespace, and at {}? "
                          "(--socket, $PSP_SOCKET)",
                          address));
}

// hides_kernels: pspd serves a netdev that has a PSP device of the kernel.
bool hides_kernels(const std::vector<DeviceInfo>& devices, const DeviceInfo& device) {
  return device.provider == Provider::kDaemon && !device.by_association &&
         std::ranges::any_of(devices, [&](const DeviceInfo& other) {
           return other.provider == Provider::kKernel && !other.by_association &&
                  other.ifindex == device.ifindex;
         });
}

}  // namespace

Verdicts check_provider(const std::optional<std::string>& socket, std::optional<Client>& client,
                        bool& hangs) {
  const auto chosen = socket ? socket : chosen_socket();
  auto connected = Client::connect(chosen);
  if (!connected) {
    Verdicts verdicts{judge_connection(connected.error(), chosen.value_or(kCommonSocket))};
    hangs = connected.error().sys_errno == ETIMEDOUT;
    if (!hangs)  // else they belong to a living one
      for (Verdict& verdict : check_leftovers()) verdicts.push_back(std::move(verdict));
    return verdicts;
  }
  client.emplace(std::move(*connected));
  const bool daemon = client->has(Provider::kDaemon);
  Verdicts verdicts;
  if (!chosen) {
    const std::string kernel =
        daemon
            ? "the kernel has it, and pspd runs: programs use the device of a connection's netdev"
            : "the kernel has it, and no pspd answers: programs use the kernel's devices";
    verdicts.push_back(ok("psp-family", client->has(Provider::kKernel)
                                            ? kernel
                                            : "the kernel has none: programs use pspd"));
  }
  if (!daemon) return verdicts;
  for (Verdict& verdict : check_daemon(*client)) verdicts.push_back(std::move(verdict));
  return verdicts;
}

Verdicts judge_device(const DeviceFacts& facts) {
  Verdicts verdicts;
  const std::string& name = facts.ifname;
  if (!facts.up)
    verdicts.push_back(fail(name, "there is no such netdev in this network namespace any more",
                            "restart pspd with the netdevs that there are"));
  else if (!*facts.up)
    verdicts.push_back(fail(
        name, "the netdev is down",
        fmt::format("ip link set {} up, and its routes, which went with it, once more", name)));
  else if (facts.mtu < kIpv6MinimumMtu + kTransportOverhead)
    verdicts.push_back(warn(
        name, fmt::format("MTU {}: PSP takes {} octets of a packet", facts.mtu, kTransportOverhead),
        fmt::format("ip link set {} mtu {}, or more", name, kIpv6MinimumMtu + kTransportOverhead)));
  else
    verdicts.push_back(ok(name, fmt::format("up, MTU {}, of which PSP takes {} octets", facts.mtu,
                                            kTransportOverhead)));

  if (facts.versions_ena.bits == 0)
    verdicts.push_back(warn(name, "no version is enabled for receive: PSP packets are not opened",
                            fmt::format("pspctl dev set {} psp-versions-ena all", name)));
  if (!facts.trouble.empty())
    verdicts.push_back(fail(name, facts.trouble,
                            "undo that, or find out who does it (journalctl -u pspd says since "
                            "when); pspd goes on trying"));
  else if (facts.repairs != 0)
    verdicts.push_back(warn(name,
                            fmt::format("pspd has put back {} what somebody else had changed of "
                                        "its own",
                                        counted(facts.repairs, "time")),
                            "journalctl -u pspd says what and when; who does it should leave the "
                            "netdev's qdiscs and pspd's TAP alone"));
  if (!facts.spi_remaining) return verdicts;
  const std::string left =
      counted(*facts.spi_remaining, "SPI is", "SPIs are") + " left under this device key";
  const std::string rotate = fmt::format("pspctl key rotate {}", name);
  if (*facts.spi_remaining == 0)
    verdicts.push_back(fail(name, left + ": no new connection can be secured", rotate));
  else if (*facts.spi_remaining < kFewSpis)
    verdicts.push_back(warn(name, left, rotate));
  else
    verdicts.push_back(ok(name, left));
  return verdicts;
}

Verdicts check_udp_port() {
  if (!udp_port_in_use(kUdpPort)) return {};
  return {warn("udp-port",
               fmt::format("another program uses UDP port {}: where there is a PSP device, it does "
                           "not get what looks like PSP",
                           kUdpPort),
               fmt::format("ss -ulpn sport = {} names it: give it another port", kUdpPort))};
}

Verdicts check_devices(Client& client, const std::optional<DeviceSelector>& selector) {
  const auto devices = select_devices(client, selector, "dev show");
  if (!devices)
    return {fail(selector ? selector->words() : "devices", devices.error().message,
                 "pspctl dev show lists the PSP devices; pspd --dev IFNAME makes one")};
  if (devices->empty())
    return {fail("devices", "there is no PSP device",
                 "pspd --dev IFNAME makes one, as soon as there is that netdev")};
  std::optional<DaemonInfo> daemon;
  if (client.has(Provider::kDaemon))
    if (auto info = daemon_info(client)) daemon = std::move(*info);
  Verdicts verdicts;
  for (const DeviceInfo& device : *devices) {
    DeviceFacts facts;
    facts.ifname = device_name(device);
    facts.versions_ena = device.versions_ena;
    if (const auto* details = daemon_device(daemon, device.id)) {
      facts.spi_remaining = details->spi_remaining;
      facts.repairs = details->repairs;
      facts.trouble = details->trouble;
    }
    look_at_netdev(facts.ifname, facts);
    if (hides_kernels(*devices, device))
      verdicts.push_back(warn(facts.ifname,
                              "the kernel has a PSP device there, too: programs use pspd's",
                              "stop pspd there, if the network card is to do it"));
    for (Verdict& verdict : judge_device(facts)) verdicts.push_back(std::move(verdict));
  }
  return verdicts;
}

}  // namespace psp::ctl
