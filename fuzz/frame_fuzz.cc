// SPDX-License-Identifier: Apache-2.0
//
// Any frame on the TAP through both paths. The first octet chooses: take the frame as it is, or
// give it a tag and the handle of a key first; set a clear boundary; damage what was sealed. What
// was sealed goes on to the receiver. Whatever comes out must be a whole frame; sanitizers see to
// the rest.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "crypto/aead.hh"
#include "datapath/frame.hh"
#include "datapath/rx_path.hh"
#include "datapath/tx_path.hh"
#include "device/software_driver.hh"

namespace {

using namespace psp;
using namespace psp::datapath;

// CheckingSink wants every frame to be one that the kernel could take.
class CheckingSink final : public Sink {
 public:
  bool write(std::span<const iovec> frame) override {
    std::vector<std::uint8_t> octets;
    for (const auto& part : frame) {
      const auto* p = static_cast<const std::uint8_t*>(part.iov_base);
      octets.insert(octets.end(), p, p + part.iov_len);
    }
    if (octets.size() < kIpAt) std::abort();
    const auto ip = wire::parse_ip(std::span(octets).subspan(kIpAt));
    if (!ip || ip->total_length != octets.size() - kIpAt) std::abort();
    frames.push_back(std::move(octets));
    return true;
  }
  std::vector<std::vector<std::uint8_t>> frames;
};

struct Paths {
  Paths()
      : ivs([this] { return ++clock; }),
        driver({.backend = &crypto::openssl_backend(), .ivs = &ivs}),
        engine(driver.make_engine()),
        tx(*engine, sealed, {}),
        rx(*engine, opened) {
    driver.enable(VersionSet::all());
    const auto key = driver.rx_spi_alloc(Version::kAesGcm128).value();
    spi = key.spi;
    handle = driver.tx_key_add(Version::kAesGcm128, spi, key.key.span()).value();
  }
  std::uint64_t clock = 0;
  device::IvAllocator ivs;
  device::SoftwareDriver driver;
  std::unique_ptr<device::Engine> engine;
  CheckingSink sealed;
  CheckingSink opened;
  TxPath tx;
  RxPath rx;
  Spi spi;
  std::uint32_t handle = 0;
};

void run(Paths& paths, std::vector<std::uint8_t> frame, std::uint8_t choice) {
  if (choice & 1 && frame.size() >= kIpAt) {
    static constexpr std::uint8_t kKinds[] = {PSP_FRAME_SEAL, PSP_FRAME_SPAN, PSP_FRAME_CLEAR};
    store_tag(frame.data(), {kKinds[choice / 4 % 3], 0, paths.handle});
  }
  if (choice & 2) paths.driver.set_clear_boundary(paths.handle, choice * 16u);
  switch (classify(frame)) {
    case FrameKind::kTx:
      return paths.tx.process(frame);
    case FrameKind::kRx:
      return paths.rx.process(frame);
    case FrameKind::kOther:
      // Both must stand what classify would not have given them.
      if (frame.size() >= kIpAt) paths.tx.process(frame);
      paths.rx.process(frame);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Paths paths;
  if (size < 1) return 0;
  run(paths, {data + 1, data + size}, data[0]);
  paths.tx.flush();
  for (auto& frame : paths.sealed.frames) {
    if (data[0] & 0x80) frame[data[size - 1] * frame.size() / 256] ^= 1;
    if (frame.size() >= kIpAt) paths.rx.process(frame);
  }
  paths.rx.flush();
  paths.sealed.frames.clear();
  paths.opened.frames.clear();
  return 0;
}
