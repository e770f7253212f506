// SPDX-License-Identifier: Apache-2.0
//
// Attachment: a netdev whose sockets use the device of a Daemon: kernel::Attachment over the model,
// with one worker. It has a TAP and programs in the netdev's namespace, with a mark of their own,
// and that namespace's keys. Each step of its coming is a call of its own, so that a crash can come
// between any two.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "datapath/rx_path.hh"
#include "datapath/tx_path.hh"
#include "device/software_driver.hh"

#include "kernel.hh"

namespace psp::sim {

// Counted is what the attachments of a pspd have had to count, also those that have gone.
struct Counted {
  std::uint64_t handed_rx = 0, sealed = 0;       // datagrams: given to RxPath, written by TxPath
  std::vector<std::shared_ptr<Object>> objects;  // whose programs count drops
};

class Attachment {
 public:
  // What it needs of its pspd. All of it outlives this; `frozen` says whether pspd runs.
  struct Owner {
    Schedule& schedule;
    Random& random;
    const Object& sockets;  // the socket programs
    const bool& frozen;
    bool udp_checksum;
    Counted& counted;
  };
  // open makes the TAP, the worker and the programs, which are nowhere yet.
  Attachment(const Owner& owner, Kernel& kernel, device::SoftwareDriver& driver,
             std::uint16_t dev_id);
  ~Attachment();  // without take_off the programs stay at the netdev
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  void place_at_tap();
  void place_at_netdev(bool out);
  // take_off takes the programs of one pspd off the netdev of a namespace.
  static void take_off(Kernel& kernel, std::uint64_t epoch);
  // repair puts back what somebody has taken off. False: the netdev or the TAP has gone.
  bool repair();
  void set_config(VersionSet versions, std::uint32_t rotation);
  // thaw goes on with what has come to the TAP while pspd did not run.
  void thaw();
  void refresh() { engine_->refresh(); }

  Kernel& kernel() const { return kernel_; }
  std::uint32_t tap() const { return tap_; }
  std::uint32_t mark() const { return object_->values.mark; }
  // programs are the ids of those that sockets look for: psp_egress and psp_ingress.
  std::pair<std::uint32_t, std::uint32_t> programs() const { return {out_.id, in_.id}; }

 private:
  class TapSink;
  void load(std::uint16_t dev_id);
  void on_frame();
  void work();

  Owner owner_;
  Kernel& kernel_;
  std::shared_ptr<Object> object_;
  Program out_, in_, tap_in_, tap_out_;
  std::uint32_t tap_;
  std::unique_ptr<device::Engine> engine_;
  std::unique_ptr<TapSink> sink_;
  std::unique_ptr<datapath::TxPath> tx_;
  std::unique_ptr<datapath::RxPath> rx_;
  bool working_ = false, pending_ = false;
  std::shared_ptr<bool> alive_;  // of this object, for events that come later
};

}  // namespace psp::sim
