// SPDX-License-Identifier: Apache-2.0
//
// Line: two sockets of the modelled TCP and a line between them that a test can do with what it
// likes. No programs run here, and time is virtual. The server's side of the handshake is played by
// the line: there is no listener.
#pragma once

#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

#include "content.hh"
#include "tcp.hh"

namespace psp::sim {

// Line is two hosts, each the network of one socket.
class Line {
 public:
  class Host final : public Network {
   public:
    Host(Line& line, unsigned number) : line_(line), number_(number) {}
    Schedule& schedule() override { return line_.schedule; }
    Random& random() override { return line_.random; }
    std::size_t mtu(const Tuple&) const override { return path; }
    std::uint32_t timestamp_base() override { return 77; }
    void send(const Segment& segment, std::shared_ptr<Sock> /*sk*/) override {
      line_.carry(1 - number_, segment);
    }
    void to_time_wait(Tcp&, unsigned substate) override { time_waits.push_back(substate); }
    void unhash(Tcp&) override { ++unhashed; }
    void has_ended(Tcp&) override { ++ended; }
    void refuse(const Segment& segment) override {
      Segment answer{.tuple = segment.tuple.turned(), .seq = segment.ack_seq};
      answer.rst = true;
      line_.carry(1 - number_, answer);
    }
    std::vector<unsigned> time_waits;
    int unhashed = 0, ended = 0;
    std::size_t path = 1500;

   private:
    Line& line_;
    unsigned number_;
  };

  // The server offers that; what the client does is drawn.
  explicit Line(Options offered = {}) : ours(offered) {
    client->stream = 1;
    server->stream = 2;
  }
  void connect() {
    Tuple tuple;
    tuple.local_port = 1000;
    tuple.remote_port = 2000;
    client->connect(tuple);
    run();
  }
  void run(Time time = 30 * kSecond) {
    const Time end = schedule.now() + time;
    while (!schedule.empty() && schedule.next() <= end) schedule.step();
  }
  void carry(unsigned to, const Segment& segment) {
    sent.push_back(segment);
    if (lose && lose(segment)) return;
    schedule.after(kMillisecond, [this, to, segment] { arrive(to, segment); });
  }
  void arrive(unsigned to, const Segment& segment) {
    if (to == 1 && segment.syn) {
      Begin begin{500, segment.seq, answer_offer(ours, segment.options), segment.options};
      begin.window = segment.window;
      begin.recent = segment.options.value;
      server->accepted(segment.tuple.turned(), begin);
      Segment answer{.tuple = segment.tuple.turned(), .seq = 500, .ack_seq = segment.seq + 1};
      answer.syn = answer.ack = true;
      answer.window = 60000;
      answer.options = begin.ours;
      return carry(0, answer);
    }
    (to == 0 ? client : server)->receive(segment);
  }
  // receive_all reads at the server, and checks each octet.
  std::size_t receive_all() {
    const std::uint32_t from = server->copied_seq - server->irs - 1;
    const Octets octets = server->read(1 << 20);
    for (std::size_t i = 0; i < octets.size(); ++i)
      EXPECT_EQ(octets[i], content_octet(1, from + static_cast<std::uint32_t>(i)));
    return octets.size();
  }

  Options ours;
  Schedule schedule{1000 * kSecond};
  Random random{7};
  std::function<bool(const Segment&)> lose;
  std::vector<Segment> sent;
  Host hosts[2] = {{*this, 0}, {*this, 1}};
  std::shared_ptr<Tcp> client = std::make_shared<Tcp>(hosts[0], 1);
  std::shared_ptr<Tcp> server = std::make_shared<Tcp>(hosts[1], 2);
};

}  // namespace psp::sim
