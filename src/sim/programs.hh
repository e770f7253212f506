// SPDX-License-Identifier: Apache-2.0
//
// BPF programs in the modelled kernel: an Object is what one pspd has loaded, values and maps; a
// Program is one entry of it, with an id of its own. Running is the one place where they run, and
// what their helpers (helpers.cc) see of the kernel meanwhile.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "bpf/native.h"

#include "map.hh"
#include "packet.hh"
#include "sock.hh"

namespace psp::sim {

struct Object {
  bool netdev = false;  // which of the two sources
  shim_values values{};
  std::array<std::shared_ptr<Map>, SHIM_MAPS> maps;
  // living: the socket of pspd in psp_living; false when the process has gone.
  std::shared_ptr<bool> living;
  // dropped: how many packets its programs have refused. Whether they have counted them is another
  // matter.
  std::uint64_t dropped = 0;
};

struct Program {
  std::uint32_t id = 0;
  std::shared_ptr<Object> object;
  std::string_view name;
  int (*run)(shim_skb*) = nullptr;  // programs that see packets
  // What somebody else's program writes on them; 0: nothing.
  std::uint32_t mark = 0;
  std::uint16_t sign = 0;
};

// Redirect is what a program has asked for.
struct Redirect {
  std::uint32_t ifindex = 0;
  bool ingress = false;
};

// Surroundings is what helpers ask the kernel.
class Surroundings {
 public:
  virtual ~Surroundings() = default;
  // find_socket is that which TCP finds for a packet to `tuple`, as its receiver has it.
  virtual Sock* find_socket(const Tuple& tuple) = 0;
  virtual std::uint64_t boot_ns() const = 0;
  virtual bool has_tcx() const = 0;
  virtual bool is_local(const Address& address) const = 0;
};

// Running is a call of a program; one at a time.
class Running {
 public:
  Running(Surroundings& kernel, Object& object);
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  std::optional<Redirect> redirect;
  int retval = 0;  // bpf_set_retval

  Surroundings& kernel;
  Object& object;
};

}  // namespace psp::sim
