// SPDX-License-Identifier: Apache-2.0
//
// Asked: a pspd that serves and is asked to change something, and meets a fault in that (see
// fault_lab.hh). What was asked is refused with an error and all is as before, or it is done; pspd
// serves on, its secured connections go on or are aborted, its stop is clean; what it dies of the
// next one mends; and never does the wire see an octet of a secured connection in clear.
//
// Threading: as FaultLab; a request of which pspd dies has a thread of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "fault_lab.hh"

namespace psp::lab {

class Asked {
 public:
  Asked(FaultLab::With with, unsigned links) : lab_(with, links) {}
  virtual ~Asked();  // stops it
  Asked(const Asked&) = delete;
  Asked& operator=(const Asked&) = delete;

  // try_all lets each call of such a request fail, in labs side by side, die_of_all lets pspd die
  // after each that changes something.
  template <typename Request>
  static void try_all() {
    each<Request>(nullptr, [](Asked& asked, const NotedCall& call, std::uint32_t number,
                              Tally& tally) { asked.fail_at(call, number, tally); });
  }
  template <typename Request>
  static void die_of_all() {
    each<Request>(changes, [](Asked& asked, const NotedCall& call, std::uint32_t, Tally& tally) {
      asked.die_after(call, tally);
    });
  }

 protected:
  // takes_away: what prepare makes is not there any more when it was done.
  virtual bool takes_away() const { return false; }
  // warm makes what a pspd that has done such a thing once goes on to have.
  virtual void warm() {}
  // prepare makes what the request is to change; ask asks, and returns why it is refused.
  virtual void prepare() {}
  virtual std::optional<std::string> ask() = 0;
  // What has to be so after it was done, refused, or pspd has died of it and another one serves,
  // which `before_next` tells what to serve. All is ready to be prepared again then.
  virtual void expect_done() = 0;
  virtual void expect_refused() = 0;
  virtual void before_next() {}
  virtual void expect_mended() = 0;

  Client client() {
    if (ended(*daemon_)) throw std::runtime_error("it has ended: " + daemon_->log());
    return lab_.lab().client(From::kA);
  }
  std::vector<DeviceInfo> devices() { return client().devices().value(); }

  FaultLab lab_;
  std::optional<Pspd> daemon_;
  NotedCall died_after_;  // for expect_mended

 private:
  template <typename Request, typename One>
  static void each(bool (*wanted)(const NotedCall&), One one) {
    const Calls calls = Request().calls();
    Tally tally;
    side_by_side(
        chosen_calls(calls, wanted), [] { return std::make_unique<Request>(); },
        [&](Asked& asked, const NotedCall& call, std::uint32_t number) {
          one(asked, call, number, tally);
        });
    tally.print(calls);
  }
  void start();
  Calls calls();
  void fail_at(const NotedCall& call, std::uint32_t number, Tally& tally);
  void start_next();
  void expect_next_mends(const std::vector<unsigned>& programs);
  void expect_untouched(const std::string& was, std::size_t said);
  void die_after(const NotedCall& call, Tally& tally);

  std::optional<Connection> open_;          // for all cases
  std::vector<unsigned> prepared_;          // programs of what was prepared, if that is known
  std::optional<std::size_t> descriptors_;  // after the case before
};

}  // namespace psp::lab
