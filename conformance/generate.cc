// SPDX-License-Identifier: Apache-2.0
//
// psp-conformance DIRECTORY [SEED]: writes the corpus: corpus.json, and the same packets over
// Ethernet as clear.pcap, sealed.pcap (line by line the same packets) and received.pcap.
//
// The octets must not depend on the machine, since the check in CI compares them with the committed
// files: so pcap is written here octet by octet, little-endian, the time of a packet is its number,
// and OpenSSL seals, whatever else the processor could do.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

#include "corpus.hh"
#include "tool.hh"

namespace psp::conformance {
namespace {

void put32(Octets& out, std::uint32_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(value >> 8 * i));
}

// Pcap is a file that is little-endian wherever it is made.
class Pcap {
 public:
  Pcap() {
    for (const std::uint32_t word : {0xa1b2c3d4u, 0x00040002u, 0u, 0u, 65535u, 1u})
      put32(octets_, word);
  }
  void add(const Octets& packet) {
    const auto size = static_cast<std::uint32_t>(packet.size() + 14);
    for (const std::uint32_t word : {count_++, 0u, size, size}) put32(octets_, word);
    const std::uint8_t header[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    octets_.insert(octets_.end(), std::begin(header), std::end(header));
    const bool six = !packet.empty() && packet[0] >> 4 == 6;
    octets_.push_back(six ? 0x86 : 0x08);
    octets_.push_back(six ? 0xdd : 0x00);
    octets_.insert(octets_.end(), packet.begin(), packet.end());
  }
  const Octets& octets() const { return octets_; }

 private:
  Octets octets_;
  std::uint32_t count_ = 0;
};

template <typename Content>
void write(const std::filesystem::path& path, const Content& content) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
  if (!stream.flush()) throw std::runtime_error("cannot write " + path.string());
}

void run(const std::filesystem::path& directory, std::uint64_t seed) {
  Keys keys(crypto::openssl_backend());
  const auto cases = make_cases(keys, seed);
  Pcap clear, sealed, received;
  std::size_t counts[3] = {};
  for (const Case& one : cases) {
    ++counts[static_cast<std::size_t>(one.kind)];
    if (one.kind == Case::Kind::kSeal) {
      clear.add(one.clear);
      sealed.add(one.packet);
    } else {
      received.add(one.packet);
    }
  }
  write(directory / "corpus.json", to_json(keys, cases, seed));
  write(directory / "clear.pcap", clear.octets());
  write(directory / "sealed.pcap", sealed.octets());
  write(directory / "received.pcap", received.octets());
  std::printf("%zu cases: %zu seal, %zu open, %zu drop\n", cases.size(), counts[0], counts[1],
              counts[2]);
}

}  // namespace
}  // namespace psp::conformance

int main(int argc, char** argv) {
  std::string directory;
  std::uint64_t seed = psp::conformance::kDefaultSeed;
  CLI::App app(
      "Writes the conformance corpus: corpus.json, clear.pcap, sealed.pcap, received.pcap.\n"
      "Usage: psp-conformance DIRECTORY [SEED]");
  psp::name_tool(app, "psp-conformance");
  app.add_option("directory", directory)->required();
  app.add_option("seed", seed);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    psp::conformance::run(directory, seed);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "psp-conformance: %s\n", error.what());
    return 1;
  }
  return 0;
}
