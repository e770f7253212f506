// SPDX-License-Identifier: Apache-2.0
//
// pspctl netlink: any operation of the family by the names of its specification, as the kernel's
// ynl tool does it. Keys come by a file or the standard input, and are printed only if asked for.
//
// Nothing is judged here but whether the JSON fits the specification: limits and rights are the
// server's, so that its answers can be tried out. A key on the command line is refused, since all
// users of the host see it there. What held a key is wiped, no error quotes the request, and there
// is no core dump.
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/unique_fd.hh"
#include "netlink/spec.hh"

#include "attribute_json.hh"
#include "command.hh"
#include "nearest.hh"

namespace psp::ctl {

namespace {

using Json = nlohmann::ordered_json;
namespace spec = netlink::spec;

constexpr std::string_view kHelp =
    R"(Usage: pspctl netlink OP [--json TEXT | @FILE | -] [--dump] [--show-keys]

       Sends one operation of the psp family and prints the answer: a JSON object, or with
       --dump an array of them; -p over several lines. Names and values are those of psp.yaml:
       enumerations by name or number, masks as lists of names, nests as objects, keys as hex
       digits. Limits are left to the kernel or pspd to judge.

       --json       attributes of the request: the text itself, that of a file, or of the
                    standard input. A key must not stand on the command line.
       --show-keys  prints keys; without it they are null
       sock-fd      a descriptor that pspctl inherits: 3 after `exec 3<>...` in a shell

Operations and what they take:
)";

constexpr std::string_view kExamples = R"(
Examples:
       pspctl netlink dev-get --dump
       pspctl netlink dev-set --json '{"id": 1, "psp-versions-ena": ["hdr0-aes-gcm-128"]}'
       pspctl -p netlink rx-assoc --json '{"version": 0, "sock-fd": 3}' 3<>/dev/tcp/hostb/7
)";

// signature is one line of help: name, attributes, what else there is to it.
std::string signature(const spec::Operation& operation) {
  std::string line = fmt::format("       {:<12}", operation.name);
  for (const std::uint16_t number : operation.do_request.attributes)
    line += fmt::format(" {}", operation.attributes->find(number)->name);
  if (operation.dump_reply.exists) line += "; --dump";
  if (operation.admin_perm) line += "; CAP_NET_ADMIN";
  return line + "\n";
}

const std::string& help() {
  static const std::string text = [] {
    std::string all(kHelp);
    for (const spec::Operation& operation : spec::operations())
      if (!operation.is_notification()) all += signature(operation);
    return all + std::string(kExamples);
  }();
  return text;
}

Outcome<const spec::Operation*> take_operation(Words& words) {
  const auto name = words.take("OP");
  if (!name) return std::unexpected(name.error());
  if (auto end = words.expect_end(); !end) return std::unexpected(end.error());
  const spec::Operation* operation = spec::find_operation(*name);
  if (operation == nullptr) {
    std::vector<std::string> names;
    for (const spec::Operation& one : spec::operations()) names.emplace_back(one.name);
    return usage_error(fmt::format("\"{}\" is no operation{}; see pspctl netlink help", *name,
                                   did_you_mean(nearest(*name, names))));
  }
  if (operation->is_notification())
    return usage_error(fmt::format("\"{}\" is a notification; see pspctl monitor", *name));
  return operation;
}

// Text is what --json gives; wiped when dropped.
struct Text {
  ~Text() { explicit_bzero(octets.data(), used); }
  std::array<char, 65536> octets{};  // no request is as long
  std::size_t used = 0;
  bool exposed = false;  // it stood on the command line
};

Outcome<void> read_stream(std::FILE* file, const std::string& what, Text& text) {
  text.used = std::fread(text.octets.data(), 1, text.octets.size(), file);
  if (std::ferror(file) != 0)
    return std::unexpected(
        Failure{ExitStatus::kFailed, fmt::format("--json {}: {}", what, std::strerror(errno))});
  if (text.used == text.octets.size()) return usage_error(fmt::format("--json {}: too long", what));
  return {};
}

Outcome<void> read_text(const Context& context, Text& text) {
  const std::string given = context.options.request.value_or("{}");
  if (given == "-" || given == "@-") return read_stream(context.environment.in, given, text);
  if (given.starts_with("@")) {
    std::FILE* file = std::fopen(given.c_str() + 1, "re");
    if (file == nullptr)
      return usage_error(fmt::format("--json {}: {}", given, std::strerror(errno)));
    std::setvbuf(file, nullptr, _IONBF, 0);  // no copy of a key in a buffer
    auto outcome = read_stream(file, given, text);
    std::fclose(file);
    return outcome;
  }
  if (given.size() > text.octets.size()) return usage_error("--json: too long");
  text.used = given.copy(text.octets.data(), given.size());
  text.exposed = context.options.request.has_value();
  return {};
}

// Attributes is a request read from JSON.
struct Attributes {
  AttributeOctets octets;
  int fd = -1;
};

Outcome<void> read_attributes(const Context& context, const spec::Operation& operation,
                              Attributes& attributes) {
  Text text;
  if (auto read = read_text(context, text); !read) return read;
  Json object;
  try {
    object = Json::parse(text.octets.data(), text.octets.data() + text.used);
  } catch (const Json::parse_error& error) {  // its text may quote a key
    return usage_error(fmt::format("--json: no JSON from octet {} on", error.byte));
  }
  if (text.exposed && has_binary(object, *operation.attributes))
    return usage_error(
        "--json: a key on the command line is there for all to see; use --json @FILE or --json -");
  if (object.is_object() && object.contains("sock-fd") && object["sock-fd"].is_number_unsigned()) {
    const auto number = object["sock-fd"].get<std::uint64_t>();
    // One that is not open is not passed on, and so refused as the kernel does.
    if (number <= INT32_MAX && fcntl(static_cast<int>(number), F_GETFD) >= 0)
      attributes.fd = static_cast<int>(number);
  }
  return encode(object, *operation.attributes, "", attributes.octets);
}

Outcome<void> netlink(Context& context) {
  const auto operation = take_operation(context.words);
  if (!operation) return std::unexpected(operation.error());
  const std::string name((*operation)->name);
  prctl(PR_SET_DUMPABLE, 0);  // there may be keys: no core file
  Attributes attributes;
  if (auto read = read_attributes(context, **operation, attributes); !read)
    return std::unexpected(Failure{read.error().status, name + ": " + read.error().message});
  auto client = context.connect();
  if (!client) return std::unexpected(client.error());
  const bool dump = context.options.dump;
  Json answers = Json::array();
  const auto asked = client->request(
      {.name = name.c_str(),
       .cmd = (*operation)->cmd,
       .dump = dump,
       .fd = attributes.fd,
       .attributes = attributes.octets.span()},
      [&](std::span<const std::uint8_t> answer) {
        answers.push_back(decode(answer, *(*operation)->attributes, context.options.show_keys));
      });
  if (!asked) return refused(name, asked.error());
  context.out.document(dump ? answers : answers.empty() ? Json::object() : answers.front());
  return {};
}

}  // namespace

Noun netlink_noun() { return {"netlink", help(), false, {{"", netlink}}, Tail::kNetlink}; }

}  // namespace psp::ctl
