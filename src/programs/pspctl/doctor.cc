// SPDX-License-Identifier: Apache-2.0
//
// pspctl doctor: what works here, what does not, and what to do about it; one verdict a line. This
// file has the order of the checks and how verdicts are printed; the checks are in doctor_host.cc,
// doctor_device.cc and doctor_peer.cc.
//
// What pspd lacks is excused where the kernel's own devices do the work. It goes on after a
// failure, since the second one may be the reason of the first. A WARN does not change the exit
// status.
#include "doctor.hh"

#include <algorithm>
#include <fmt/format.h>

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp = R"(Usage: pspctl doctor [IFNAME | id N] [--peer HOST]

       Checks kernel, TUN, BPF, cgroup, processor, cryptography, pspd, devices, and with
       --peer the way to that host. Prints a verdict a line: ok, skip (mostly: needs root),
       WARN or FAIL, and under the last two what to do. Changes nothing on the host; as root
       it makes a TAP device that is gone when it ends.

       --peer sends probes to UDP port 1000 of HOST that travel as PSP packets do, small ones and
       of full size, from every family's address, and HOST's pspd answers them; needs root:
       without, it is a FAIL that says so. No answer is a FAIL. It says what is wrong on the way
       and what helps. What it does not try is whether the two ends prove to each other who they
       are; for that, use psp-cat.

       Exit status 0 if nothing FAILed, else 1.
)";

std::string_view key_of(Verdict::Level level) {
  switch (level) {
    case Verdict::Level::kOk:
      return "ok";
    case Verdict::Level::kSkipped:
      return "skipped";
    case Verdict::Level::kWarning:
      return "warn";
    case Verdict::Level::kFail:
      return "fail";
  }
  return "?";
}

void print(Emitter& out, const Verdict& verdict) {
  const auto element = out.element();
  out.set("check", verdict.check);
  out.set("verdict", key_of(verdict.level));
  out.set("text", verdict.text);
  if (!verdict.advice.empty()) out.set("advice", verdict.advice);
  switch (verdict.level) {
    case Verdict::Level::kOk:
      out.text("ok   ", Colour::kGood);
      break;
    case Verdict::Level::kSkipped:
      out.text("skip ");
      break;
    case Verdict::Level::kWarning:
      out.text("WARN ", Colour::kWarning);
      break;
    case Verdict::Level::kFail:
      out.text("FAIL ", Colour::kBad);
      break;
  }
  out.text(fmt::format("{}: {}\n", verdict.check, verdict.text));
  if (!verdict.advice.empty()) out.text(fmt::format("     -> {}\n", verdict.advice));
}

void append(Verdicts& all, Verdicts more) { std::ranges::move(more, std::back_inserter(all)); }

// excuse: what pspd lacks harms nobody where the kernel's devices do the work.
void excuse(Verdicts& host) {
  for (Verdict& verdict : host) {
    if (verdict.level < Verdict::Level::kWarning) continue;
    verdict = skipped(verdict.check, verdict.text + " (only pspd needs it)");
  }
}

Outcome<void> doctor(Context& context) {
  const auto selector = take_optional_device(context.words);
  if (!selector) return std::unexpected(selector.error());
  if (auto end = context.words.expect_end(); !end) return end;

  std::optional<Client> client;
  bool hangs = false;
  Verdicts provider = check_provider(context.options.socket, client, hangs);
  std::vector<DeviceInfo> devices;
  if (client) devices = client->devices().value_or(devices);
  Verdicts verdicts = check_host();
  if (!devices.empty() && !client->has(Provider::kDaemon)) excuse(verdicts);
  append(verdicts, std::move(provider));
  if (client) {
    append(verdicts, check_devices(*client, *selector));
    append(verdicts, check_udp_port());
  }
  if (context.options.peer && hangs)
    verdicts.push_back(fail("peer-route", "not tried: pspd does not say which netdevs are its own",
                            "first what is said of pspd above"));
  else if (context.options.peer)
    append(verdicts, check_peer(*context.options.peer, devices));

  for (const Verdict& verdict : verdicts) print(context.out, verdict);
  context.out.finish();
  const bool failed = std::ranges::any_of(
      verdicts, [](const Verdict& verdict) { return verdict.level == Verdict::Level::kFail; });
  if (failed) return std::unexpected(Failure{ExitStatus::kFailed, {}});
  return {};
}

}  // namespace

Verdict ok(std::string_view check, std::string text) {
  return {std::string(check), Verdict::Level::kOk, std::move(text), {}};
}
Verdict skipped(std::string_view check, std::string text) {
  return {std::string(check), Verdict::Level::kSkipped, std::move(text), {}};
}
Verdict warn(std::string_view check, std::string text, std::string advice) {
  return {std::string(check), Verdict::Level::kWarning, std::move(text), std::move(advice)};
}
Verdict fail(std::string_view check, std::string text, std::string advice) {
  return {std::string(check), Verdict::Level::kFail, std::move(text), std::move(advice)};
}

Noun doctor_noun() { return {"doctor", kHelp, true, {{"", doctor}}}; }

}  // namespace psp::ctl
