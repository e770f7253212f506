// SPDX-License-Identifier: Apache-2.0
//
// Workload: the applications of both hosts. They connect, write, read, secure their connections at
// any time, and end them in any way. How the keys come to the peer is libpsp-tls's affair for some
// connections (workload_keyx.cc); for the others it is not modelled: they arrive, some time later.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "coverage.hh"
#include "daemon.hh"
#include "link.hh"
#include "observer.hh"
#include "plan.hh"
#include "random.hh"
#include "tls_end.hh"

namespace psp::sim {

class Workload {
 public:
  // Hosts are the machines and the pspds that run there now (null: none).
  struct Hosts {
    std::array<Machine*, 2> machines;
    std::function<Daemon*(unsigned host)> daemon;
  };

  Workload(Schedule& schedule, Random random, const Plan& plan, Hosts hosts, Observer& observer,
           Coverage& coverage);

  // begin lets the applications live.
  void begin();
  // calm: no new connections; what can be finished is. judge decides which connections can live,
  // and ends the others; complain says which of the former have not delivered everything.
  void calm() { calm_ = true; }
  // end_in ends all that is in a namespace: its processes are killed.
  void end_in(unsigned place);
  void judge();
  void complain();
  void abort_all();

  std::vector<Link::Target> targets() const;
  // ends are all that are known of a host, also those that are over.
  std::vector<std::shared_ptr<End>> ends(unsigned host) const;
  std::uint64_t connections() const { return number_; }

 private:
  struct Key {
    Spi spi{};
    Version version{};
    std::vector<std::uint8_t> octets;
    Time known_at = 0;  // to the peer
  };
  // Side is one end with its application.
  struct Side {
    std::shared_ptr<End> end;
    std::shared_ptr<Tcp> socket;
    std::optional<Key> key;  // that it has been given to receive under
    bool wants_key = false, has_tx = false, closed = false, rests = false;
    bool doubtful = false;  // the answer to tx-assoc did not come
    Time secures_at = 0;
    std::size_t written = 0, read = 0;
    // Of one that is secured by the key exchange.
    bool by_tls = false;
    keyx::Policy policy;
    std::size_t early = 0;  // octets that it sends inside TLS first
    std::unique_ptr<TlsEnd> tls;
    Time tls_next = 0, tls_until = 0;
    std::uint32_t first_place = 0;  // in its stream, of the application's first octet under PSP
  };
  struct Connection {
    std::uint64_t number = 0;
    std::array<Side, 2> sides;  // 0 has connected
    Version version{};
    unsigned acts = 0;  // left, before it is finished
    bool accepted = false, can_live = false, judged = false, tampered = false;
    bool patient = false;  // writes nothing in clear
  };
  using Handle = std::shared_ptr<Connection>;

  void connect();
  std::pair<unsigned, unsigned> choose_places();
  bool has_place(unsigned place) const;
  Kernel& kernel_of(unsigned place) { return hosts_.machines[place % 2]->kernel_of(place); }
  void accept(unsigned place, const std::shared_ptr<Tcp>& socket);
  void schedule_act(const Handle& connection, unsigned which);
  void act(const Handle& connection, unsigned which);
  void deed(const Handle& connection, unsigned which);
  void finish(Side& side);
  void write(Side& side);
  void read(Side& side);
  void secure(Connection& connection, Side& side, Side& other);
  // workload_keyx.cc
  void plan_exchange(Connection& connection);
  bool exchange(const Handle& connection, unsigned which);
  void begin_exchange(Connection& connection, unsigned which);
  void end_exchange(Connection& connection, unsigned which);
  void check_exchange(const Connection& connection, unsigned which);
  void check_secured(const Connection& connection, unsigned which);
  ClientResult<RxAssocInfo> exchange_rx(Side& side, Version version);
  ClientResult<void> exchange_tx(Side& side, Version version, const KeyInfo& tx);
  void take_rx(Side& side, Version version);
  void take_tx(Side& side, const Key& key);
  static void secured(Side& side, Spi spi);
  static void doubt(Side& side, const ClientError& error, Spi spi);
  void reconnect(const Handle& connection, unsigned which);
  void connect_again(Connection& connection, unsigned which, Tuple to);
  void close(Side& side, bool hard);
  bool can_live(const Connection& connection) const;
  void forget_finished();

  Schedule& schedule_;
  Random random_;
  const Plan& plan_;
  Hosts hosts_;
  Observer& observer_;
  Coverage& coverage_;
  std::vector<Handle> connections_;
  std::uint64_t number_ = 0, last_stream_ = 0;
  bool calm_ = false;
};

}  // namespace psp::sim
