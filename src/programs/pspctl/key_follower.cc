// SPDX-License-Identifier: Apache-2.0
//
// A pair of SPI and destination is asked about until pspd has a key for it, but not for ever: an
// attacker can send packets under any SPI, and must not make the capture ask for each. A key goes
// to the file in one write and is wiped here. From open() on the process leaves no core file.
#include "key_follower.hh"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pcap/keys.hh"
#include "wire/bytes.hh"
#include "wire/ip_octets.hh"
#include "wire/packet.hh"

namespace psp::ctl {

namespace {

std::unexpected<Failure> failed(const std::string& path, const char* what) {
  return std::unexpected(Failure{ExitStatus::kFailed, fmt::format("capture: {}: {}", path, what)});
}

// open_log makes the file, or opens one to which nobody else has access.
Outcome<UniqueFd> open_log(const std::string& path) {
  UniqueFd file(::open(path.c_str(),
                       O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return failed(path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) return failed(path, "a key log must be a regular file");
  if (status.st_uid != ::geteuid() || (status.st_mode & 077) != 0)
    return failed(path, "is there already and others can read it: keys are not written to it");
  return file;
}

// psp_datagram is the UDP payload of a packet that is not cut; empty if there is none to look at.
std::span<const std::uint8_t> psp_datagram(std::span<const std::uint8_t> packet) {
  const auto ip = wire::parse_ip(packet);
  if (!ip || ip->fragment || ip->protocol != wire::kProtocolUdp ||
      ip->total_length < ip->header_length + kUdpHeader + kPspBaseHeader + kIcv)
    return {};
  const auto udp = packet.subspan(ip->header_length, ip->total_length - ip->header_length);
  if (wire::load_be<std::uint16_t>(udp.data() + wire::kUdpLengthAt) != udp.size()) return {};
  return udp.subspan(kUdpHeader);
}

pcap::IpHost destination_of(std::span<const std::uint8_t> packet) {
  pcap::IpHost address{.family = static_cast<std::uint8_t>(packet[0] >> 4)};
  std::memcpy(address.octets.data(), packet.data() + (address.family == 4 ? 16 : 24),
              address.family == 4 ? 4 : 16);
  return address;
}

}  // namespace

Outcome<KeyFollower> KeyFollower::open(Client client, const std::string& path) {
  ::prctl(PR_SET_DUMPABLE, 0);  // there will be keys: no core file
  if (const auto may = captured_key(client, {}); !may)
    return refused("capture --key-log", may.error());
  auto file = open_log(path);
  if (!file) return std::unexpected(file.error());
  return KeyFollower(std::move(client), std::move(*file), path);
}

Outcome<void> KeyFollower::see(std::span<const std::uint8_t> packet) {
  const auto datagram = psp_datagram(packet);
  if (datagram.empty() || !problem_.empty()) return {};
  const auto header = wire::parse_header(datagram);
  if (!header || !header->version() || !header->spi.valid()) return {};
  const pcap::IpHost destination = destination_of(packet);
  std::string id(1, static_cast<char>(*header->version()));
  id.append(reinterpret_cast<const char*>(datagram.data() + 4), 4);  // the SPI
  id.append(reinterpret_cast<const char*>(&destination), sizeof destination);
  auto known = seen_.find(id);
  if (known == seen_.end()) {
    if (seen_.size() == kSeenMax) return {};
    known = seen_.emplace(std::move(id), kAttemptsMax).first;
  }
  if (known->second == 0) return {};
  const auto found = ask(packet, datagram);
  if (!found) return std::unexpected(found.error());
  known->second = *found ? 0 : known->second - 1;
  return {};
}

Outcome<bool> KeyFollower::ask(std::span<const std::uint8_t> packet,
                               std::span<const std::uint8_t> datagram) {
  auto key = captured_key(client_, datagram);
  if (!key) {
    const int error = key.error().sys_errno;
    if (error != ENOENT && error != EMSGSIZE && error != EINVAL) problem_ = key.error().message;
    return false;
  }
  pcap::KeyEntry entry{.version = key->version, .spi = key->spi};
  entry.key = std::move(key->key);
  entry.destination = destination_of(packet);
  std::string line = pcap::key_log_line(entry);
  const ssize_t written = ::write(file_.get(), line.data(), line.size());
  const bool whole = written == static_cast<ssize_t>(line.size());
  const int error = written < 0 ? errno : ENOSPC;
  ::explicit_bzero(line.data(), line.size());
  if (!whole) return failed(path_, std::strerror(error));
  ++keys_;
  return true;
}

}  // namespace psp::ctl
