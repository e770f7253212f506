// SPDX-License-Identifier: Apache-2.0
//
// DrillHost: one modelled host with pspd, for the scripts of tests/drill. It does what they have an
// application do, takes the packets of the peer and gives those of the host, in virtual time.
//
// psp-drill runs the same scripts on the sockets of a real kernel: so the model is held against
// Linux, and where the two differ the model is wrong. What it does not have it says ("lacks").
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "sim/daemon.hh"

namespace psp::sim {

class DrillHost {
 public:
  using Json = nlohmann::json;

  // answer does a request, {"op": NAME, ...}. The answer has "ok" and a value, or "errno" and
  // "text", or "lacks" and a text; and "now", in seconds. Octets are in hex.
  Json answer(const Json& request);

 private:
  // File is what descriptors have in common: a socket, and what a listener has accepted.
  struct File {
    std::shared_ptr<Tcp> socket;
    std::uint16_t port = 0;  // of a listener
    std::deque<std::shared_ptr<Tcp>> accepted{};
  };
  struct Call;

  Json begin(const Json& request);
  Json receive(const Json& request);
  Json send_packet(const Json& request);
  Json route(const Json& request);
  Json start_pspd(const Json& request);
  Json stop_pspd(const Json& request);
  Json kill_pspd(const Json& request);

  // calls.cc
  Json listen(const Json& request);
  Json open(const Json& request);
  Json connect(const Json& request);
  Json disconnect(const Json& request);
  Json accept(const Json& request);
  Json send(const Json& request);
  Json recv(const Json& request);
  Json shutdown(const Json& request);
  Json close(const Json& request);
  Json abort(const Json& request);
  Json close_all(const Json& request);
  Json dup(const Json& request);
  Json setsockopt(const Json& request);
  Json getsockopt(const Json& request);
  Json tcp(const Json& request);
  Json error(const Json& request);

  // associations.cc
  Json rx_assoc(const Json& request);
  Json tx_assoc(const Json& request);
  Json state(const Json& request);
  Json counters(const Json& request);
  Json devices(const Json& request);
  Json rotate(const Json& request);
  Json enable(const Json& request);

  static const std::map<std::string, Call>& calls();
  void advance(Time time);
  void advance_until(const std::function<bool()>& done, Time most);
  std::shared_ptr<Tcp> new_socket(unsigned family);
  void let_go(const std::string& name, bool hard);
  File& file(const Json& request) { return *files_.at(request.at("name").get<std::string>()); }
  Tcp& socket(const Json& request) { return *file(request).socket; }
  Daemon& serving();

  Schedule schedule_{1000 * kSecond};
  std::deque<std::pair<Time, Octets>> sent_;  // IP packets
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Daemon> daemon_;
  unsigned lives_ = 0;
  std::map<std::string, std::shared_ptr<File>> files_;
  std::uint16_t last_port_ = 30000;
};

}  // namespace psp::sim
