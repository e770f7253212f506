// SPDX-License-Identifier: Apache-2.0
//
// What an application calls, as tests/drill/drill/app.py has it for real sockets: the names of the
// requests and what waits for how long are the same.
//
// An option that the model does not have is said to be lacking: to take it and do nothing would let
// a script pass that shows something else then.
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <ranges>

#include "drill/host.hh"
#include "drill/refusal.hh"

namespace psp::sim {
namespace {

constexpr Time kPatience = 3 * kSecond;
constexpr int kPeek = 2;  // MSG_PEEK
constexpr std::array kStates = {
    "?",     "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",   "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "CLOSING",   "NEW_SYN_RECV"};

unsigned family_of(const nlohmann::json& request) { return request.at("family").get<unsigned>(); }

Address address_of(unsigned family, const std::string& text) {
  Address address;
  if (inet_pton(family == 4 ? AF_INET : AF_INET6, text.c_str(), address.octets.data()) != 1)
    throw Refused{EINVAL};
  return address;
}

struct Option {
  int level, name;
};

Option option_of(const std::string& name) {
  static const std::map<std::string, Option> known = {
      {"TCP_NODELAY", {IPPROTO_TCP, TCP_NODELAY}},
      {"TCP_MAXSEG", {IPPROTO_TCP, TCP_MAXSEG}},
      {"IP_OPTIONS", {IPPROTO_IP, IP_OPTIONS}},
  };
  const auto found = known.find(name);
  if (found == known.end()) throw Lacks(name);
  return found->second;
}

// raise_error takes the error that waits on a socket.
void raise_error(Tcp& socket) {
  if (const int number = std::exchange(socket.error, 0)) throw Refused{number};
}

}  // namespace

std::shared_ptr<Tcp> DrillHost::new_socket(unsigned family) {
  auto socket = machine_->kernel.open();
  socket->tuple.family = family;
  socket->nagle = true;
  return socket;
}

DrillHost::Json DrillHost::listen(const Json& request) {
  if (!request.at("options").empty()) throw Lacks("options of a listener");
  auto listener = std::make_shared<File>();
  listener->port = ++last_port_;
  File* to = listener.get();
  listener->socket = machine_->kernel.listen(last_port_, [to](const std::shared_ptr<Tcp>& socket) {
    socket->nagle = true;
    to->accepted.push_back(socket);
  });
  files_[request.at("name").get<std::string>()] = std::move(listener);
  return last_port_;
}

DrillHost::Json DrillHost::open(const Json& request) {
  const File made{.socket = new_socket(family_of(request))};
  const auto kind = request.at("kind").get<std::string>();
  if (kind == "udp") {
    made.socket->type = SOCK_DGRAM;
    made.socket->protocol = IPPROTO_UDP;
  } else if (kind == "mptcp") {
    made.socket->protocol = IPPROTO_MPTCP;
  }
  files_[request.at("name").get<std::string>()] = std::make_shared<File>(made);
  return nullptr;
}

DrillHost::Json DrillHost::connect(const Json& request) {
  if (!request.at("options").empty()) throw Lacks("options before connect");
  const unsigned family = family_of(request);
  auto& file = files_[request.at("name").get<std::string>()];
  if (!file) file = std::make_shared<File>(File{.socket = new_socket(family)});
  machine_->kernel.connect(*file->socket,
                           {.family = family,
                            .local = address_of(family, request.at("address")),
                            .remote = address_of(family, request.at("peer")),
                            .local_port = request.at("port").get<std::uint16_t>(),
                            .remote_port = request.at("peer_port").get<std::uint16_t>()});
  return file->socket->tuple.local_port;
}

DrillHost::Json DrillHost::disconnect(const Json& request) {
  socket(request).disconnect();
  return nullptr;
}

DrillHost::Json DrillHost::accept(const Json& request) {
  File& listener = *files_.at(request.at("listener").get<std::string>());
  advance_until([&] { return !listener.accepted.empty(); }, kPatience);
  if (listener.accepted.empty()) throw Refused{EAGAIN};
  files_[request.at("name").get<std::string>()] =
      std::make_shared<File>(File{.socket = listener.accepted.front()});
  listener.accepted.pop_front();
  return nullptr;
}

DrillHost::Json DrillHost::send(const Json& request) {
  Tcp& to = socket(request);
  const std::size_t size = to.write(from_hex(request.at("data").get<std::string>()));
  if (size != 0) return size;
  raise_error(to);
  throw Refused{to.state == PSP_TCP_ESTABLISHED || to.state == Tcp::kCloseWait ? EAGAIN : EPIPE};
}

// recv: up to `size` octets; less at the end of the stream or of patience.
DrillHost::Json DrillHost::recv(const Json& request) {
  Tcp& from = socket(request);
  const auto size = request.at("size").get<std::size_t>();
  const bool peeks = request.at("flags") == kPeek;
  const auto ended = [&] { return from.at_end() || from.is_over() || from.deaf; };
  const auto done = [&] { return from.readable() >= size || from.error != 0 || ended(); };
  advance_until(done, request.at("wait").get<bool>() ? kPatience : 0);
  if (from.readable() == 0 && !from.at_end()) raise_error(from);
  if (from.readable() == 0 && !ended()) throw Refused{EAGAIN};
  return to_hex(peeks ? from.peek(size) : from.read(size));
}

DrillHost::Json DrillHost::shutdown(const Json& request) {
  const auto how = request.at("how").get<std::string>();
  if (how != "wr") socket(request).deaf = true;
  if (how != "rd") socket(request).shutdown();
  return nullptr;
}

// let_go ends a descriptor, and the socket with the last one.
void DrillHost::let_go(const std::string& name, bool hard) {
  const auto held = files_.extract(name);
  if (held.empty()) throw std::out_of_range(name);
  const std::shared_ptr<File>& file = held.mapped();
  for (const auto& other : files_ | std::views::values)
    if (other == file) return;
  if (file->port != 0) {
    machine_->kernel.release(*file->socket);
    for (const auto& socket : file->accepted) socket->abort();
    return;
  }
  machine_->kernel.release(*file->socket);
  hard ? file->socket->abort() : file->socket->close();
}

DrillHost::Json DrillHost::close(const Json& request) {
  let_go(request.at("name"), false);
  return nullptr;
}

DrillHost::Json DrillHost::abort(const Json& request) {
  let_go(request.at("name"), true);
  return nullptr;
}

// close_all is what the kernel does for an application that has been killed.
DrillHost::Json DrillHost::close_all(const Json& /*request*/) {
  while (!files_.empty()) let_go(files_.begin()->first, false);
  return nullptr;
}

DrillHost::Json DrillHost::dup(const Json& request) {
  files_[request.at("other").get<std::string>()] = files_.at(request.at("name").get<std::string>());
  return nullptr;
}

DrillHost::Json DrillHost::setsockopt(const Json& request) {
  const Option option = option_of(request.at("option"));
  const Json& said = request.at("value");
  Octets value(sizeof(std::int32_t));
  if (said.is_string()) {
    const auto text = said.get<std::string>();
    if (!text.starts_with("hex:")) throw Lacks("options that are texts");
    value = from_hex(text.substr(4));
  } else {
    const auto number = said.get<std::int32_t>();
    std::memcpy(value.data(), &number, sizeof number);
  }
  const int result = machine_->kernel.setsockopt(socket(request), option.level, option.name,
                                                 value.data(), value.size());
  if (result < 0) throw Refused{-result};
  return nullptr;
}

DrillHost::Json DrillHost::getsockopt(const Json& request) {
  const Option option = option_of(request.at("option"));
  std::uint32_t value = 0, size = sizeof value;
  const int result =
      machine_->kernel.getsockopt(socket(request), option.level, option.name, &value, size);
  if (result < 0) throw Refused{-result};
  return value;
}

DrillHost::Json DrillHost::tcp(const Json& request) { return kStates.at(socket(request).state); }

// error is the number of that which waits on the socket, or comes within patience.
DrillHost::Json DrillHost::error(const Json& request) {
  Tcp& of = socket(request);
  advance_until([&] { return of.error != 0; }, kPatience);
  return std::exchange(of.error, 0);
}

}  // namespace psp::sim
