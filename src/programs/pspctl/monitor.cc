// SPDX-License-Identifier: Apache-2.0
//
// pspctl monitor: notifications of the family as they come, one a line, written at once.
//
// Notifications can be lost, by the kernel and by pspd, when they come faster than they are read.
// The line "lost" stands in their place: who keeps a picture of the devices must then ask anew. It
// also ends when nobody reads its output any more, without waiting for an event that shows it: `|
// head` has the shell back.
#include <array>
#include <cerrno>
#include <charconv>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>

#include "command.hh"
#include "devices.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl monitor [mgmt | use | all] [count N]

       Prints a line for each notification until interrupted, or until N of them:
       mgmt   dev-add-ntf, dev-del-ntf, dev-change-ntf
       use    key-rotate-ntf
       all    both (default)

       Where some came faster than they were read, a line "lost" stands in their place.

       -t adds the time (UTC); -j prints JSON lines: one object a line, no array.

Example: pspctl -jt monitor use | while read -r event; do ...; done
)";

struct Request {
  bool mgmt = true, use = true;
  std::uint64_t count = 0;  // 0: no end
};

Outcome<Request> take_request(Words& words) {
  Request request;
  if (words.accept("mgmt"))
    request.use = false;
  else if (words.accept("use"))
    request.mgmt = false;
  else
    words.accept("all");
  if (words.accept("count")) {
    const auto word = words.take("N behind \"count\"");
    if (!word) return std::unexpected(word.error());
    const char* end = word->data() + word->size();
    const auto parsed = std::from_chars(word->data(), end, request.count);
    if (parsed.ec != std::errc{} || parsed.ptr != end || request.count == 0)
      return usage_error(fmt::format("\"{}\" is no count", *word));
  }
  if (auto end = words.expect_end(); !end) return std::unexpected(end.error());
  return request;
}

std::string_view name_of(Notification::Kind kind) {
  switch (kind) {
    case Notification::Kind::kDevAdd:
      return "dev-add-ntf";
    case Notification::Kind::kDevDel:
      return "dev-del-ntf";
    case Notification::Kind::kDevChange:
      return "dev-change-ntf";
    case Notification::Kind::kKeyRotate:
      return "key-rotate-ntf";
  }
  return "?";
}

// timestamp is RFC 3339 with microseconds.
std::string timestamp(std::chrono::system_clock::time_point now) {
  const auto since = std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z", fmt::gmtime(std::time_t{seconds.count()}),
                     (since - seconds).count());
}

void print_time(Context& context) {
  if (context.options.timestamps)
    context.out.print("timestamp", "[{}] ", timestamp(context.environment.now()));
}

void print_event(Context& context, const Client& client, const Notification& event) {
  Emitter& out = context.out;
  {
    const auto element = out.element();
    print_time(context);
    out.print("name", "{}", name_of(event.kind));
    out.print("id", " {}:", event.device.id);
    if (event.kind != Notification::Kind::kKeyRotate) {
      out.text(" ");
      print_identity(out, client, event.device);
      out.print_versions("psp-versions-cap", " ", event.device.versions_cap);
      out.print_versions("psp-versions-ena", " ", event.device.versions_ena);
      print_associated(out, event.device, " ");
    } else {
      print_provider(out, client, event.device.provider);
    }
  }
  out.end_event();
}

// print_loss says that notifications are missing here: what they told must be asked for.
void print_loss(Context& context) {
  Emitter& out = context.out;
  {
    const auto element = out.element();
    print_time(context);
    out.print("name", "{}", "lost");
    out.text(": notifications came faster than they were read");
  }
  out.end_event();
}

// await_event waits for a notification; nothing if nobody reads our output any more.
Outcome<std::optional<Notification>> await_event(Context& context, Client& client) {
  while (true) {
    auto event = client.next_notification(std::chrono::milliseconds(0));
    if (!event && event.error().sys_errno == ENOBUFS) {
      print_loss(context);
      continue;
    }
    if (!event) return refused("monitor", event.error());
    if (*event) return std::move(*event);
    // Output that is no descriptor is -1, which poll() skips.
    std::array<pollfd, 2> waits = {
        {{client.notification_fd(), POLLIN, 0}, {fileno(context.environment.out), 0, 0}}};
    poll(waits.data(), waits.size(), -1);
    if ((waits[1].revents & (POLLERR | POLLHUP)) != 0) return std::nullopt;
  }
}

Outcome<void> monitor(Context& context) {
  const auto request = take_request(context.words);
  if (!request) return std::unexpected(request.error());
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  if (auto joined = client->subscribe(request->mgmt, request->use); !joined)
    return refused("monitor", joined.error());
  for (std::uint64_t seen = 0; request->count == 0 || seen < request->count;) {
    const auto event = await_event(context, *client);
    if (!event) return std::unexpected(event.error());
    if (!*event) return {};
    print_event(context, *client, **event);
    if (std::ferror(context.environment.out) != 0) return {};  // the caller says so
    ++seen;
  }
  return {};
}

}  // namespace

Noun monitor_noun() { return {"monitor", kHelp, true, {{"", monitor}}}; }

}  // namespace psp::ctl
