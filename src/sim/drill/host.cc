// SPDX-License-Identifier: Apache-2.0
//
// Requests, virtual time and the wire; and pspd, that comes and goes.
//
// Time goes on in two places: where a script waits for a packet, and a millisecond before each call
// of the application, in which what is under way arrives. So a script sees what it would see of a
// host that has nothing else to do.
#include "drill/host.hh"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <utility>

#include "drill/refusal.hh"

namespace psp::sim {
namespace {

constexpr Time kCallTakes = kMillisecond;

Address address(std::initializer_list<std::uint8_t> octets) {
  Address made;
  std::ranges::copy(octets, made.octets.begin());
  return made;
}

// time_of rounds up: who waits again and again for what is left of a time comes to its end.
Time time_of(const nlohmann::json& seconds) {
  return static_cast<Time>(std::ceil(seconds.get<double>() * static_cast<double>(kSecond)));
}

double seconds_of(Time time) { return static_cast<double>(time) / static_cast<double>(kSecond); }

// take_options does what a script has pspd started with.
void take_options(Machine& machine, const std::vector<std::string>& options) {
  for (std::size_t i = 0; i + 1 < options.size(); i += 2) {
    const auto& [name, value] = std::pair(options[i], options[i + 1]);
    if (name == "--compat" && value == "net-next")
      machine.compat = device::Compat::kNetNext;
    else if (name == "--compat" && value == "linux-7.2")
      machine.compat = device::Compat::kLinux72;
    else if (name == "--udp-checksum")
      machine.udp_checksum = value == "on";
    else
      throw Lacks("pspd with " + name + " " + value);
  }
}

}  // namespace

struct DrillHost::Call {
  Json (DrillHost::*run)(const Json&);
  bool of_application = true;
};

const std::map<std::string, DrillHost::Call>& DrillHost::calls() {
  static const std::map<std::string, Call> all = {
      {"route", {&DrillHost::route, false}},
      {"begin", {&DrillHost::begin, false}},
      {"receive", {&DrillHost::receive, false}},
      {"send_packet", {&DrillHost::send_packet, false}},
      {"start_pspd", {&DrillHost::start_pspd}},
      {"stop_pspd", {&DrillHost::stop_pspd}},
      {"kill_pspd", {&DrillHost::kill_pspd}},
      {"listen", {&DrillHost::listen}},
      {"socket", {&DrillHost::open}},
      {"connect", {&DrillHost::connect}},
      {"unconnect", {&DrillHost::disconnect}},
      {"accept", {&DrillHost::accept}},
      {"send", {&DrillHost::send}},
      {"recv", {&DrillHost::recv}},
      {"shutdown", {&DrillHost::shutdown}},
      {"close", {&DrillHost::close}},
      {"abort", {&DrillHost::abort}},
      {"close_all", {&DrillHost::close_all}},
      {"dup", {&DrillHost::dup}},
      {"setsockopt", {&DrillHost::setsockopt}},
      {"getsockopt", {&DrillHost::getsockopt}},
      {"tcp", {&DrillHost::tcp}},
      {"error", {&DrillHost::error}},
      {"rx_assoc", {&DrillHost::rx_assoc}},
      {"tx_assoc", {&DrillHost::tx_assoc}},
      {"state", {&DrillHost::state}},
      {"counters", {&DrillHost::counters}},
      {"devices", {&DrillHost::devices}},
      {"rotate", {&DrillHost::rotate}},
      {"enable", {&DrillHost::enable}},
  };
  return all;
}

DrillHost::Json DrillHost::answer(const Json& request) {
  Json answer;
  try {
    const auto name = request.at("op").get<std::string>();
    const auto call = calls().find(name);
    if (call == calls().end()) throw Lacks(name);
    if (call->second.of_application) advance(kCallTakes);
    answer = {{"ok", (this->*call->second.run)(request)}};
  } catch (const Refused& refused) {
    answer = {{"errno", refused.number}, {"text", refused.text}};
  } catch (const Lacks& lacks) {
    answer = {{"lacks", lacks.what()}};
  } catch (const std::out_of_range& nothing) {
    answer = {{"lacks", "what the request names"}};
  }
  answer["now"] = seconds_of(schedule_.now());
  return answer;
}

void DrillHost::advance(Time time) {
  advance_until([] { return false; }, time);
}

// advance_until lets time go on until something is so, but not for longer than `most`.
void DrillHost::advance_until(const std::function<bool()>& done, Time most) {
  const Time end = schedule_.now() + most;
  schedule_.after(most, [] {});
  while (!done() && !schedule_.empty() && schedule_.next() <= end) schedule_.step();
}

DrillHost::Json DrillHost::begin(const Json& request) {
  KernelOptions options;
  options.mtu = request.at("mtu").get<std::size_t>();
  options.netns = 4711;
  options.address4 = address({10, 99, 0, 1});
  options.address6 = address({0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
  // As tests/drill has the real host.
  options.pause = 0;
  options.draws = options.gro = false;
  KernelOptions box = options;  // which no script uses
  box.netns = options.netns + 1;
  box.place = 2;
  machine_ =
      std::make_unique<Machine>(schedule_, Random(request.at("seed").get<std::uint64_t>()), options,
                                box, Kernel::kNetdev, [this](Octets packet, const Skb& /*skb*/) {
                                  packet.erase(packet.begin(), packet.begin() + kEthernet);
                                  sent_.emplace_back(schedule_.now(), std::move(packet));
                                });
  machine_->max_secured = 4096;
  take_options(*machine_, request.at("pspd").get<std::vector<std::string>>());
  return start_pspd(request);
}

// receive waits for a packet of the host's: its time and octets, or nothing.
DrillHost::Json DrillHost::receive(const Json& request) {
  advance_until([this] { return !sent_.empty(); }, time_of(request.at("timeout")));
  if (sent_.empty()) return nullptr;
  const auto [time, packet] = std::move(sent_.front());
  sent_.pop_front();
  return {seconds_of(time), to_hex(packet)};
}

DrillHost::Json DrillHost::send_packet(const Json& request) {
  const Octets packet = from_hex(request.at("packet").get<std::string>());
  const bool four = packet.at(0) >> 4 == 4;
  Octets frame(kEthernet);
  frame[0] = frame[6] = 2;
  frame[12] = four ? 0x08 : 0x86;
  frame[13] = four ? 0x00 : 0xdd;
  frame.insert(frame.end(), packet.begin(), packet.end());
  machine_->kernel.receive(std::move(frame), Kernel::kNetdev, false);
  return nullptr;
}

// route: packets go by the netdev with PSP, or by another.
DrillHost::Json DrillHost::route(const Json& request) {
  machine_->kernel.route = request.at("other").get<bool>() ? Kernel::kOther : Kernel::kNetdev;
  return nullptr;
}

DrillHost::Json DrillHost::start_pspd(const Json& /*request*/) {
  daemon_ = std::make_unique<Daemon>(*machine_, ++lives_);
  while (daemon_->step()) advance(kMillisecond);
  if (!daemon_->serving()) throw Refused{EIO, "pspd does not start"};
  return nullptr;
}

DrillHost::Json DrillHost::stop_pspd(const Json& /*request*/) {
  while (const auto pause = serving().stop()) advance(*pause);
  const bool left = daemon_->left_in_place();
  daemon_.reset();
  return left ? 1 : 0;
}

DrillHost::Json DrillHost::kill_pspd(const Json& /*request*/) {
  daemon_.reset();
  return nullptr;
}

Daemon& DrillHost::serving() {
  if (!daemon_) throw Refused{ECONNREFUSED};
  return *daemon_;
}

}  // namespace psp::sim
