// SPDX-License-Identifier: Apache-2.0
//
// Blocks of pcapng (draft-ietf-opsawg-pcapng), each written with a length that is filled in at its
// end. A block's length stands at both its ends, and all is padded to 32 bits; options end with one
// of type 0. Times are nanoseconds (if_tsresol 9) in two halves, the high one first, whatever the
// byte order. There is one interface, so its number is always 0.
#include "pcap/capture_writer.hh"

#include "octets.hh"

namespace psp::pcap {
namespace {

constexpr std::uint16_t kComment = 1;              // opt_comment
constexpr std::uint16_t kSectionProgram = 4;       // shb_userappl
constexpr std::uint16_t kInterfaceName = 2;        // if_name
constexpr std::uint16_t kInterfaceResolution = 9;  // if_tsresol
constexpr std::uint16_t kInterfaceFilter = 11;     // if_filter
constexpr std::uint16_t kPacketFlags = 2;          // epb_flags
constexpr std::uint16_t kReceived = 4;             // isb_ifrecv
constexpr std::uint16_t kDropped = 5;              // isb_ifdrop
constexpr std::uint8_t kNanoseconds = 9;           // 10^-9 s
constexpr std::uint8_t kFilterText = 0;            // a filter as people write it

// Block appends one block and completes it when it goes.
class Block {
 public:
  Block(std::uint32_t type, Buffer& out) : out_(out), start_(out.size()) { put(type).put(0u); }
  ~Block() {
    const auto size = static_cast<std::uint32_t>(out_.size() - start_ + kBlockTrailer);
    put(size);
    std::memcpy(out_.data() + start_ + 4, &size, sizeof size);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  template <typename Number>
  Block& put(Number value) {
    std::memcpy(out_.room(sizeof value), &value, sizeof value);
    out_.add(sizeof value);
    return *this;
  }
  Block& time(std::uint64_t nanoseconds) {
    return put(static_cast<std::uint32_t>(nanoseconds >> 32))
        .put(static_cast<std::uint32_t>(nanoseconds));
  }
  Block& octets(std::span<const std::uint8_t> some) {
    out_.append(some);
    constexpr std::uint8_t kZero[4] = {};
    out_.append(std::span(kZero).first(padded(some.size()) - some.size()));
    return *this;
  }
  Block& option(std::uint16_t code, std::span<const std::uint8_t> value) {
    return put(code).put(static_cast<std::uint16_t>(value.size())).octets(value);
  }
  template <typename Number>
  Block& option_number(std::uint16_t code, Number value) {
    return option(code, {reinterpret_cast<const std::uint8_t*>(&value), sizeof value});
  }
  Block& option_text(std::uint16_t code, std::string_view text) {
    return option(code, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }
  Block& end_of_options() { return put(0u); }

 private:
  Buffer& out_;
  std::size_t start_;
};

}  // namespace

void begin_capture(const CaptureInterface& interface, Buffer& out) {
  constexpr std::uint64_t kLengthNotSaid = ~std::uint64_t{0};
  Block(kSectionHeader, out)
      .put(kByteOrderMagic)
      .put(std::uint16_t{1})
      .put(std::uint16_t{0})
      .put(kLengthNotSaid)
      .option_text(kSectionProgram, interface.program)
      .end_of_options();
  std::string filter(1, static_cast<char>(kFilterText));
  filter += interface.filter;
  Block(kInterfaceDescription, out)
      .put(static_cast<std::uint16_t>(interface.link_type))
      .put(std::uint16_t{0})
      .put(interface.snap_length)
      .option_text(kInterfaceName, interface.name)
      .option_number(kInterfaceResolution, kNanoseconds)
      .option_text(kInterfaceFilter, filter)
      .end_of_options();
}

void add_packet(const CapturedPacket& packet, Buffer& out) {
  Block block(kEnhancedPacket, out);
  block
      .put(0u)  // the interface
      .time(packet.nanoseconds)
      .put(static_cast<std::uint32_t>(packet.octets.size()))
      .put(packet.original)
      .octets(packet.octets)
      .option_number(kPacketFlags, static_cast<std::uint32_t>(packet.direction));
  if (!packet.comment.empty()) block.option_text(kComment, packet.comment);
  block.end_of_options();
}

void end_capture(std::uint64_t nanoseconds, const CaptureCounts& counts, Buffer& out) {
  Block(kInterfaceStatistics, out)
      .put(0u)
      .time(nanoseconds)
      .option_number(kReceived, counts.received)
      .option_number(kDropped, counts.dropped)
      .end_of_options();
}

}  // namespace psp::pcap
