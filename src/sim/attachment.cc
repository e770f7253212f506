// SPDX-License-Identifier: Apache-2.0
//
// The order of the steps is the Daemon's. Programs are put first in line, in the place of an
// earlier pspd's, without a gap; what somebody has taken off is put back by repair.
//
// The worker takes turns of 16 frames, as Worker::Loop has them, some time after the first frame. A
// pspd that is frozen does nothing, but its TAPs fill.
#include "attachment.hh"

#include <algorithm>

#include "datapath/frame.hh"
#include "kernel/programs.hh"
#include "wire/constants.h"

namespace psp::sim {
namespace {

constexpr std::size_t kBudget = 16;  // frames in one go
constexpr std::uint32_t kConfig = 0;

// psp_datagrams is how many a frame of the TAP has, if they are PSP's.
std::uint64_t psp_datagrams(std::span<const std::uint8_t> frame) {
  const auto vnet = datapath::load_vnet(frame.data());
  const auto ip = frame.subspan(datapath::kVnetHeader + kEthernet);
  if (!is_psp(ip)) return 0;
  if (vnet.gso_type != datapath::kGsoUdpL4 || vnet.gso_size == 0) return 1;
  const std::size_t payload = ip.size() - ((ip[0] >> 4) == 4 ? 20 : 40) - PSP_UDP_HEADER;
  return (payload + vnet.gso_size - 1) / vnet.gso_size;
}

void put_first(std::vector<Program>& list, const Program& program) {
  std::erase_if(list, [&](const Program& other) { return other.name == program.name; });
  list.insert(list.begin(), program);
}

void keep_first(std::vector<Program>& list, const Program& program) {
  if (list.empty() || list.front().id != program.id) put_first(list, program);
}

}  // namespace

// TapSink is the way of finished frames to the TAP.
class Attachment::TapSink final : public datapath::Sink {
 public:
  explicit TapSink(const Attachment& attachment) : attachment_(attachment) {}
  bool write(std::span<const iovec> parts) override {
    Octets frame;
    for (const iovec& part : parts) {
      const auto* octets = static_cast<const std::uint8_t*>(part.iov_base);
      frame.insert(frame.end(), octets, octets + part.iov_len);
    }
    attachment_.owner_.counted.sealed += psp_datagrams(frame);
    return attachment_.kernel_.write_tap(attachment_.tap_, std::move(frame));
  }

 private:
  const Attachment& attachment_;
};

Attachment::Attachment(const Owner& owner, Kernel& kernel, device::SoftwareDriver& driver,
                       std::uint16_t dev_id)
    : owner_(owner),
      kernel_(kernel),
      tap_(kernel.add_tap().numbers.ifindex),
      engine_(driver.make_engine()),
      sink_(std::make_unique<TapSink>(*this)),
      alive_(std::make_shared<bool>(true)) {
  Random& random = owner_.random;
  datapath::TxOptions options;
  options.mtu = static_cast<std::uint32_t>(kernel.options().mtu);
  options.port_key = {random.next(), random.next()};
  options.udp_checksum = owner_.udp_checksum;
  options.uso = !random.chance(100'000);
  tx_ = std::make_unique<datapath::TxPath>(*engine_, *sink_, options);
  rx_ = std::make_unique<datapath::RxPath>(*engine_, *sink_,
                                           datapath::RxOptions{.mtu = options.mtu, .peers = {}});
  load(dev_id);
  kernel_.on_tap_frame = [this] { on_frame(); };
}

Attachment::~Attachment() {
  *alive_ = false;
  *object_->living = false;
  kernel_.on_tap_frame = {};
  kernel_.remove_tap(tap_);
}

void Attachment::load(std::uint16_t dev_id) {
  object_ = std::make_shared<Object>();
  object_->netdev = true;
  owner_.counted.objects.push_back(object_);
  object_->living = std::make_shared<bool>(true);
  shim_values& values = object_->values;
  values = owner_.sockets.values;
  values.mark = static_cast<std::uint32_t>(owner_.random.next()) | 1;
  values.netdev_ifindex = Kernel::kNetdev;
  values.tap_ifindex = tap_;
  values.dev_id = dev_id;
  values.netns = kernel_.options().netns;
  for (const shim_map map : {SHIM_ASSOC, SHIM_DEPARTED, SHIM_NOTED, SHIM_BY_TX_SPI})
    object_->maps[map] = owner_.sockets.maps[map];
  object_->maps[SHIM_DROPS] = Map::array(sizeof(std::uint64_t), PSP_DROP_MAX);
  object_->maps[SHIM_CONFIG] = Map::array(sizeof(psp_device_config), 1);
  out_ = {kernel_.common->next_program(), object_, "psp_egress", psp_egress};
  in_ = {kernel_.common->next_program(), object_, "psp_ingress", psp_ingress};
  tap_in_ = {kernel_.common->next_program(), object_, "psp_tap_ingress", psp_tap_ingress};
  tap_out_ = {kernel_.common->next_program(), object_, "psp_tap_egress", psp_tap_egress};
}

void Attachment::set_config(VersionSet versions, std::uint32_t rotation) {
  auto* config = static_cast<psp_device_config*>(object_->maps[SHIM_CONFIG]->lookup(&kConfig));
  config->mac[0] = 2;
  config->mac[kBoxedAt] = kernel_.options().boxed();
  config->versions_ena = versions.bits;
  config->rotation = rotation;
}

void Attachment::place_at_tap() {
  Netdev& tap = kernel_.netdev(tap_);
  put_first(tap.in.tcx, tap_in_);
  put_first(tap.out.tcx, tap_out_);
}

void Attachment::place_at_netdev(bool out) {
  Netdev& netdev = kernel_.netdev(Kernel::kNetdev);
  Netdev::Hook& hook = out ? netdev.out : netdev.in;
  if (kernel_.options().tcx) put_first(hook.tcx, out ? out_ : in_);
  netdev.clsact = true;
  put_first(hook.filters, out ? out_ : in_);
}

void Attachment::take_off(Kernel& kernel, std::uint64_t epoch) {
  Netdev& netdev = kernel.netdev(Kernel::kNetdev);
  for (auto* hook : {&netdev.in, &netdev.out})
    for (auto* list : {&hook->filters, &hook->tcx})
      std::erase_if(*list, [epoch](const Program& p) { return p.object->values.epoch == epoch; });
}

bool Attachment::repair() {
  Netdev& netdev = kernel_.netdev(Kernel::kNetdev);
  Netdev* tap = kernel_.find_netdev(tap_);
  if (!netdev.present || tap == nullptr) return false;
  for (auto [hook, program] : {std::pair{&netdev.out, &out_}, std::pair{&netdev.in, &in_}}) {
    if (kernel_.options().tcx) keep_first(hook->tcx, *program);
    keep_first(hook->filters, *program);
  }
  netdev.clsact = true;
  keep_first(tap->in.tcx, tap_in_);
  keep_first(tap->out.tcx, tap_out_);
  return true;
}

void Attachment::thaw() {
  if (std::exchange(pending_, false)) on_frame();
}

void Attachment::on_frame() {
  if (working_) return;
  working_ = true;
  const std::weak_ptr<bool> alive = alive_;
  owner_.schedule.after(owner_.random.below(80 * kMicrosecond), [this, alive] {
    const auto still = alive.lock();
    if (!still || !*still) return;
    working_ = false;
    pending_ = owner_.frozen;
    if (!pending_) work();
  });
}

// work is Worker::Loop::run, one turn.
void Attachment::work() {
  auto& queue = kernel_.tap_queue;
  for (std::size_t i = 0; i < kBudget && !queue.empty(); ++i) {
    Octets frame = std::move(queue.front());
    queue.pop_front();
    switch (datapath::classify(frame)) {
      case datapath::FrameKind::kTx:
        tx_->process(frame);
        break;
      case datapath::FrameKind::kRx:
        // Damaged ones, too, which are no PSP any more.
        owner_.counted.handed_rx += std::max<std::uint64_t>(psp_datagrams(frame), 1);
        rx_->process(frame);
        break;
      case datapath::FrameKind::kOther:
        break;
    }
  }
  tx_->flush();
  rx_->flush();
  if (!queue.empty()) on_frame();
}

}  // namespace psp::sim
