// SPDX-License-Identifier: Apache-2.0
//
// The command line of psp-pcap, as the commands read it. Whatever is here fits together: encrypt
// has a configuration file, or an SPI and a version; a key of one SA has both.
//
// Files are not opened here: one that is not there is reported by whoever needs it, with the exit
// code for it.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>

#include "wire/tunnel.hh"

namespace psp::pcap_tool {

// Exit codes. Part of the interface: see psp-pcap(1).
inline constexpr int kExitOk = 0;
inline constexpr int kExitPackets = 1;  // packets were broken, or check found something
inline constexpr int kExitUsage = 2;
inline constexpr int kExitFile = 3;  // a capture cannot be read or written, or is damaged
inline constexpr int kExitKeys = 4;  // keys cannot be read, or there are none where they are needed
inline constexpr int kExitSelfTest = 5;
inline constexpr int kExitUnread = 6;  // packets were not understood, or nothing of PSP was there

enum class Command { kEncrypt, kDecrypt, kCheck, kExplain };

struct Options {
  Command command = Command::kCheck;
  std::string in;
  std::string out;
  std::string backend = "auto";

  // Keys: any of them, together.
  std::string configuration;
  std::string device_keys;
  std::string sa_key;
  std::string key_log;

  // How to encrypt; with a configuration file it is the file that says.
  std::optional<std::uint32_t> spi;
  std::optional<Version> version;
  bool tunnel = false;
  CryptOffset crypt_offset = {};
  std::optional<std::uint64_t> cookie;
  std::uint64_t first_iv = 1;
  std::optional<std::uint16_t> source_port;
  wire::TunnelPolicy policy;

  bool merge_ecn = true;  // decrypt
  bool keep = false;      // encrypt, decrypt: packets that are none of ours go through unchanged
  VersionSet enabled = VersionSet::all();  // explain

  bool json = false;
  bool progress = false;
  bool quiet = false;
};

// parse_options reads the command line; on --help or an error, which it reports, the exit code.
std::expected<Options, int> parse_options(int argc, char** argv);

}  // namespace psp::pcap_tool
