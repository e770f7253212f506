// SPDX-License-Identifier: Apache-2.0
//
// Counting rotations per connection: a ticket notes how often its device had rotated, and compares
// with what notifications have told since. It begins before the upgrade and is bound to a device
// behind it, so that a rotation in the middle is not missed; until then it counts for all. What was
// lost (ENOBUFS, a pspd that went) is no good news: unknown, never fresh. Tickets are held weakly:
// who drops his connection need not say so.
#include "keyx/rotation.hh"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

namespace psp::keyx {
namespace {

class ClientSource final : public NotificationSource {
 public:
  explicit ClientSource(Client client) : client_(std::move(client)) {}
  int fd() const override { return client_.notification_fd(); }
  ClientResult<std::optional<Notification>> next() override {
    return client_.next_notification(std::chrono::milliseconds(0));
  }

 private:
  Client client_;
};

}  // namespace

// Counts is what has happened to one connection's devices since begin().
struct RotationWatch::Ticket::Counts {
  struct Device {
    std::uint32_t id = 0;
    unsigned rotations = 0;
    bool gone = false;
  };
  std::vector<Device> devices;
  std::optional<std::uint32_t> bound;
  bool lost = false;

  // note is true if the connection's freshness may have changed.
  bool note(const Notification& notification) {
    const bool rotated = notification.kind == Notification::Kind::kKeyRotate;
    const bool gone = notification.kind == Notification::Kind::kDevDel;
    const std::uint32_t id = notification.device.id;
    if ((!rotated && !gone) || (bound && *bound != id)) return false;
    auto device = std::find_if(devices.begin(), devices.end(),
                               [&](const Device& known) { return known.id == id; });
    if (device == devices.end()) device = devices.insert(device, {.id = id});
    device->rotations += rotated;
    device->gone |= gone;
    return true;
  }
};

struct RotationWatch::Impl {
  std::unique_ptr<NotificationSource> source;
  std::vector<std::weak_ptr<Ticket::Counts>> tickets;
  unsigned untold = 0;  // changes of which process() has not told yet

  template <typename Change>
  unsigned for_each(Change&& change) {
    unsigned changed = 0;
    std::erase_if(tickets, [&](const std::weak_ptr<Ticket::Counts>& weak) {
      const auto counts = weak.lock();
      if (counts && change(*counts)) ++changed;
      return counts == nullptr;
    });
    return changed;
  }
};

ClientResult<RotationWatch> RotationWatch::connect(const std::optional<std::string>& socket) {
  auto client = Client::connect(socket);
  if (!client) return std::unexpected(client.error());
  if (auto done = client->subscribe(true, true); !done) return std::unexpected(done.error());
  return RotationWatch(std::make_unique<ClientSource>(std::move(*client)));
}

RotationWatch::RotationWatch(std::unique_ptr<NotificationSource> source)
    : impl_(std::make_unique<Impl>(Impl{.source = std::move(source), .tickets = {}})) {}
RotationWatch::RotationWatch(RotationWatch&&) noexcept = default;
RotationWatch& RotationWatch::operator=(RotationWatch&&) noexcept = default;
// What happens from now on nobody tells.
RotationWatch::~RotationWatch() {
  if (impl_) impl_->for_each([](Ticket::Counts& counts) { return counts.lost = true; });
}

int RotationWatch::fd() const { return impl_->source ? impl_->source->fd() : -1; }

unsigned RotationWatch::process() {
  // What begin found is told to who asks next.
  unsigned changed = std::exchange(impl_->untold, 0);
  // What we have missed nobody can tell.
  const auto lose = [&] {
    changed +=
        impl_->for_each([](Ticket::Counts& counts) { return !std::exchange(counts.lost, true); });
  };
  try {
    while (impl_->source) {
      const auto next = impl_->source->next();
      if (!next) {
        lose();
        if (next.error().sys_errno == ENOBUFS) continue;  // but the source goes on
        impl_->source.reset();
        break;
      }
      if (!*next) break;
      changed += impl_->for_each([&](Ticket::Counts& counts) { return counts.note(**next); });
    }
  } catch (const std::exception&) {  // out of memory, with a notification half noted
    lose();
    impl_->source.reset();
  }
  return changed;
}

RotationWatch::Ticket RotationWatch::begin() {
  // What waits unread happened before: it is not this connection's.
  impl_->untold = process();
  Ticket ticket;
  ticket.counts_ = std::make_shared<Ticket::Counts>();
  ticket.counts_->lost = impl_->source == nullptr;
  // Between two notifications many connections may come and go: forget those that have gone before
  // there is more room needed, which keeps the list within twice of those that live.
  if (impl_->tickets.size() == impl_->tickets.capacity())
    std::erase_if(impl_->tickets, [](const auto& weak) { return weak.expired(); });
  impl_->tickets.push_back(ticket.counts_);
  return ticket;
}

void RotationWatch::Ticket::bind(std::uint32_t dev_id) {
  counts_->bound = dev_id;
  std::erase_if(counts_->devices, [&](const Counts::Device& known) { return known.id != dev_id; });
}

Freshness RotationWatch::Ticket::state() const {
  if (!counts_) return Freshness::kUnknown;
  Freshness worst = counts_->lost ? Freshness::kUnknown : Freshness::kFresh;
  for (const Counts::Device& device : counts_->devices) {
    if (device.gone || device.rotations > 1) return Freshness::kStale;
    if (device.rotations == 1) worst = Freshness::kRenew;
  }
  return worst;
}

}  // namespace psp::keyx
