// SPDX-License-Identifier: Apache-2.0
//
// The client. A request and its answers travel on one connection; notifications come on a second
// one, opened by subscribe, so that neither has to be sorted from the other.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <psp/netlink/client.hh>
#include <psp/netlink/uapi.h>

#include "codec.hh"
#include "names.hh"
#include "transport.hh"

namespace psp {
namespace {

using namespace netlink;

constexpr std::size_t kReceiveBuffer = 65536;  // the kernel's dumps come in at most 32 KiB

struct FamilyInfo {
  std::uint16_t id = 0;
  std::uint8_t version = 1;
  std::map<std::string, std::uint32_t, std::less<>> groups;
};

// What to ask: beside the attributes.
struct Question {
  const char* what;  // for messages: "tx-assoc"
  std::uint16_t family;
  std::uint8_t version;
  std::uint8_t cmd;
  bool dump = false;
  int attached = -1;
  // Whether to ask for an acknowledgement. Every operation of ours has a reply, which is its end:
  // one message less, and one wakeup.
  bool acknowledged = false;

  std::uint16_t flags() const {
    const int more = dump ? NLM_F_DUMP : acknowledged ? NLM_F_ACK : 0;
    return static_cast<std::uint16_t>(NLM_F_REQUEST | more);
  }
};

using OnMessage = std::function<void(std::span<const std::uint8_t> attributes)>;

// finish makes the one sentence out of the parts of an error.
std::unexpected<ClientError> finish(const char* what, ClientError error) {
  const std::string meaning = std::strerror(error.sys_errno);
  std::string text = error.text;
  if (text.empty() && !error.missing_attribute.empty())
    text = "attribute " + error.missing_attribute + " is missing";
  error.message = std::string(what) + ": ";
  if (text.empty()) {
    error.message += meaning;
  } else {
    error.message += text;
    if (!error.bad_attribute.empty()) error.message += ", attribute " + error.bad_attribute;
    error.message += " (" + meaning + ")";
  }
  return std::unexpected(std::move(error));
}

void read_extack(ClientError& error, std::span<const std::uint8_t> octets,
                 const nlmsghdr* request) {
  std::uint32_t missing = 0, nest = 0;
  for_each_attribute(octets, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case NLMSGERR_ATTR_MSG:
        error.text = get_string(attribute);
        break;
      case NLMSGERR_ATTR_OFFS:
        error.bad_attribute = attribute_at(request, get_u32(attribute));
        break;
      case NLMSGERR_ATTR_MISS_TYPE:
        missing = get_u32(attribute);
        break;
      case NLMSGERR_ATTR_MISS_NEST:
        nest = get_u32(attribute);
        break;
      default:
        break;
    }
  });
  if (missing != 0) error.missing_attribute = missing_attribute(request, missing, nest);
}

// read_error decodes NLMSG_ERROR and NLMSG_DONE; sys_errno 0 is success.
ClientError read_error(const nlmsghdr* answer, const nlmsghdr* request) {
  ClientError error;
  const auto* payload = static_cast<const std::uint8_t*>(mnl_nlmsg_get_payload(answer));
  const std::size_t size = mnl_nlmsg_get_payload_len(answer);
  int code = 0;
  std::size_t used = sizeof code;
  if (answer->nlmsg_type == NLMSG_ERROR) {
    used += sizeof(nlmsghdr);
    if (size < used) {
      error.sys_errno = EPROTO;
      return error;
    }
    nlmsghdr quoted;
    std::memcpy(&quoted, payload + sizeof code, sizeof quoted);
    if ((answer->nlmsg_flags & NLM_F_CAPPED) == 0)
      used = sizeof code + std::max<std::size_t>(NLMSG_ALIGN(quoted.nlmsg_len), sizeof quoted);
  }
  if (size >= sizeof code) std::memcpy(&code, payload, sizeof code);
  error.sys_errno = -code;
  if ((answer->nlmsg_flags & NLM_F_ACK_TLVS) != 0 && size > used)
    read_extack(error, {payload + used, size - used}, request);
  return error;
}

// Buffer receives datagrams; wiped after each.
class Buffer {
 public:
  Buffer() : words_(kReceiveBuffer / sizeof(std::uint64_t)) {}
  std::span<std::uint8_t> octets() {
    return {reinterpret_cast<std::uint8_t*>(words_.data()), kReceiveBuffer};
  }
  void wipe(std::size_t used) { explicit_bzero(words_.data(), used); }

 private:
  std::vector<std::uint64_t> words_;
};

// kDumpsMax is how often a list is asked for again because devices came or went meanwhile.
constexpr int kDumpsMax = 4;

// Link is a connection with its sequence numbers.
struct Link {
  Transport transport;
  std::uint32_t seq = 0;
  Buffer buffer{};
  bool interrupted = false;  // the last dump: rows came or went meanwhile

  ClientResult<void> ask(const Question& question, const std::function<void(Writer&)>& fill,
                         const OnMessage& on_message);
  // scan reads the answers in one datagram. True: the last one was among them.
  ClientResult<bool> scan(const Question& question, std::size_t size, const nlmsghdr* request,
                          const OnMessage& on_message);
};

ClientResult<bool> Link::scan(const Question& question, std::size_t size, const nlmsghdr* request,
                              const OnMessage& on_message) {
  const auto octets = buffer.octets();
  for (std::size_t at = 0; size - at >= NLMSG_HDRLEN;) {
    const auto* message = reinterpret_cast<const nlmsghdr*>(octets.data() + at);
    if (!message_ok(message, size - at)) break;
    at += std::min<std::size_t>(NLMSG_ALIGN(message->nlmsg_len), size - at);
    if (message->nlmsg_seq != seq) continue;  // of a request that was given up
    interrupted = interrupted || (message->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
    if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
      ClientError error = read_error(message, request);
      if (error.sys_errno != 0) return finish(question.what, std::move(error));
      return true;
    }
    if (message->nlmsg_type != question.family) continue;
    if (on_message) on_message(message_attributes(message));
    if (!question.dump && !question.acknowledged) return true;
  }
  return false;
}

ClientResult<void> Link::ask(const Question& question, const std::function<void(Writer&)>& fill,
                             const OnMessage& on_message) {
  Writer request;
  ++seq;
  interrupted = false;
  request.begin(question.family, question.flags(), seq, 0, question.cmd, question.version);
  if (fill) fill(request);
  if (!request.end()) return client_error(EMSGSIZE, "the request is too long");
  const auto named = [&](const ClientError& error) {
    ClientError with = error;
    with.message = std::string(question.what) + ": " + error.message;
    return std::unexpected(std::move(with));
  };
  if (auto sent = transport.send(request.octets(), question.attached); !sent)
    return named(sent.error());
  const auto* sent = reinterpret_cast<const nlmsghdr*>(request.octets().data());
  for (;;) {
    const auto size = transport.receive(buffer.octets());
    if (!size) return named(size.error());
    const auto last = scan(question, *size, sent, on_message);
    buffer.wipe(*size);
    if (!last) return std::unexpected(last.error());
    if (*last) return {};
  }
}

ClientResult<FamilyInfo> resolve(Link& link, const char* name) {
  FamilyInfo info;
  const Question question{
      .what = "getfamily", .family = GENL_ID_CTRL, .version = 1, .cmd = CTRL_CMD_GETFAMILY};
  const auto read_group = [&](const nlattr* group) {
    std::string group_name;
    std::uint32_t id = 0;
    for_each_attribute(get_octets(group), [&](const nlattr* attribute) {
      const auto type = mnl_attr_get_type(attribute);
      if (type == CTRL_ATTR_MCAST_GRP_NAME) group_name = get_string(attribute);
      if (type == CTRL_ATTR_MCAST_GRP_ID) id = get_u32(attribute);
    });
    if (!group_name.empty()) info.groups[group_name] = id;
  };
  const auto done = link.ask(
      question, [&](Writer& writer) { writer.put_string(CTRL_ATTR_FAMILY_NAME, name); },
      [&](std::span<const std::uint8_t> attributes) {
        for_each_attribute(attributes, [&](const nlattr* attribute) {
          const auto type = mnl_attr_get_type(attribute);
          if (type == CTRL_ATTR_FAMILY_ID && mnl_attr_get_payload_len(attribute) == 2)
            info.id = mnl_attr_get_u16(attribute);
          if (type == CTRL_ATTR_VERSION)
            info.version = static_cast<std::uint8_t>(get_u32(attribute));
          if (type == CTRL_ATTR_MCAST_GROUPS) for_each_attribute(get_octets(attribute), read_group);
        });
      });
  if (!done) return std::unexpected(done.error());
  if (info.id == 0) return client_error(EPROTO, "getfamily: the answer lacks a family number");
  return info;
}

AssociatedNetdev read_associated(const nlattr* nest) {
  AssociatedNetdev netdev;
  for_each_attribute(get_octets(nest), [&](const nlattr* attribute) {
    const auto type = mnl_attr_get_type(attribute);
    if (type == PSPNL_ASSOC_DEV_INFO_IFINDEX) netdev.ifindex = get_u32(attribute);
    if (type == PSPNL_ASSOC_DEV_INFO_NSID)
      netdev.nsid = static_cast<std::int32_t>(get_u32(attribute));
  });
  return netdev;
}

DeviceInfo read_device(std::span<const std::uint8_t> attributes) {
  DeviceInfo info;
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case PSPNL_DEV_ID:
        info.id = get_u32(attribute);
        break;
      case PSPNL_DEV_IFINDEX:
        info.ifindex = get_u32(attribute);
        break;
      case PSPNL_DEV_PSP_VERSIONS_CAP:
        info.versions_cap.bits = get_u32(attribute);
        break;
      case PSPNL_DEV_PSP_VERSIONS_ENA:
        info.versions_ena.bits = get_u32(attribute);
        break;
      case PSPNL_DEV_ASSOC_LIST:
        info.associated.push_back(read_associated(attribute));
        break;
      case PSPNL_DEV_BY_ASSOCIATION:
        info.by_association = true;
        break;
      default:
        break;
    }
  });
  // Some kernels tell it, but here it is the number of some other netdev, or of none.
  if (info.by_association) info.ifindex = 0;
  return info;
}

StatsInfo read_stats(std::span<const std::uint8_t> attributes) {
  StatsInfo info;
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case PSPNL_STATS_DEV_ID:
        info.dev_id = get_u32(attribute);
        break;
      case PSPNL_STATS_KEY_ROTATIONS:
        info.key_rotations = get_uint(attribute);
        break;
      case PSPNL_STATS_STALE_EVENTS:
        info.stale_events = get_uint(attribute);
        break;
      case PSPNL_STATS_RX_PACKETS:
        info.rx_packets = get_uint(attribute);
        break;
      case PSPNL_STATS_RX_BYTES:
        info.rx_bytes = get_uint(attribute);
        break;
      case PSPNL_STATS_RX_AUTH_FAIL:
        info.rx_auth_fail = get_uint(attribute);
        break;
      case PSPNL_STATS_RX_ERROR:
        info.rx_error = get_uint(attribute);
        break;
      case PSPNL_STATS_RX_BAD:
        info.rx_bad = get_uint(attribute);
        break;
      case PSPNL_STATS_TX_PACKETS:
        info.tx_packets = get_uint(attribute);
        break;
      case PSPNL_STATS_TX_BYTES:
        info.tx_bytes = get_uint(attribute);
        break;
      case PSPNL_STATS_TX_ERROR:
        info.tx_error = get_uint(attribute);
        break;
      default:
        break;
    }
  });
  return info;
}

RxAssocInfo read_rx_assoc(std::span<const std::uint8_t> attributes) {
  RxAssocInfo info;
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    const auto type = mnl_attr_get_type(attribute);
    if (type == PSPNL_ASSOC_DEV_ID) info.dev_id = get_u32(attribute);
    if (type != PSPNL_ASSOC_RX_KEY) return;
    for_each_attribute(get_octets(attribute), [&](const nlattr* part) {
      const auto part_type = mnl_attr_get_type(part);
      if (part_type == PSPNL_KEYS_SPI) info.rx.spi.value = get_u32(part);
      if (part_type == PSPNL_KEYS_KEY) info.rx.key.assign(get_octets(part));
    });
  });
  return info;
}

AssocInfo read_association(std::span<const std::uint8_t> attributes) {
  AssocInfo info;
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    const auto port = [&] { return static_cast<std::uint16_t>(get_u32(attribute)); };
    switch (mnl_attr_get_type(attribute)) {
      case SOFTPSP_ASSOC_COOKIE:
        info.cookie = get_uint(attribute);
        break;
      case SOFTPSP_ASSOC_DEV_ID:
        info.dev_id = get_u32(attribute);
        break;
      case SOFTPSP_ASSOC_IFNAME:
        info.ifname = get_string(attribute);
        break;
      case SOFTPSP_ASSOC_FAMILY:
        info.family = get_u32(attribute);
        break;
      case SOFTPSP_ASSOC_LOCAL_ADDRESS:
        info.local_address = get_string(attribute);
        break;
      case SOFTPSP_ASSOC_PEER_ADDRESS:
        info.peer_address = get_string(attribute);
        break;
      case SOFTPSP_ASSOC_LOCAL_PORT:
        info.local_port = port();
        break;
      case SOFTPSP_ASSOC_PEER_PORT:
        info.peer_port = port();
        break;
      case SOFTPSP_ASSOC_STATE:
        info.state = get_u32(attribute);
        break;
      case SOFTPSP_ASSOC_TCP_STATE:
        info.tcp_state = get_string(attribute);
        break;
      case SOFTPSP_ASSOC_VERSION:
        info.version = to_version(get_u32(attribute)).value_or(Version::kAesGcm128);
        break;
      case SOFTPSP_ASSOC_GENERATION:
        info.generation = get_u32(attribute);
        break;
      case SOFTPSP_ASSOC_STALE:
        info.stale = true;
        break;
      case SOFTPSP_ASSOC_RX_SPI:
        info.rx_spi.value = get_u32(attribute);
        break;
      case SOFTPSP_ASSOC_TX_SPI:
        info.tx_spi = Spi{get_u32(attribute)};
        break;
      case SOFTPSP_ASSOC_RX_PACKETS:
        info.rx_packets = get_uint(attribute);
        break;
      case SOFTPSP_ASSOC_RX_BYTES:
        info.rx_bytes = get_uint(attribute);
        break;
      case SOFTPSP_ASSOC_TX_PACKETS:
        info.tx_packets = get_uint(attribute);
        break;
      case SOFTPSP_ASSOC_TX_BYTES:
        info.tx_bytes = get_uint(attribute);
        break;
      case SOFTPSP_ASSOC_RX_DROPS:
        info.rx_drops = get_uint(attribute);
        break;
      default:
        break;
    }
  });
  return info;
}

CapturedKey read_captured_key(std::span<const std::uint8_t> attributes) {
  CapturedKey found;
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    const auto type = mnl_attr_get_type(attribute);
    if (type == SOFTPSP_KEY_VERSION)
      found.version = to_version(get_u32(attribute)).value_or(Version::kAesGcm128);
    if (type == SOFTPSP_KEY_SPI) found.spi.value = get_u32(attribute);
    if (type == SOFTPSP_KEY_KEY) found.key.assign(get_octets(attribute));
  });
  return found;
}

KeptPacket read_packet(std::span<const std::uint8_t> attributes) {
  KeptPacket packet;
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case SOFTPSP_PACKET_DEV_ID:
        packet.dev_id = get_u32(attribute);
        break;
      case SOFTPSP_PACKET_NUMBER:
        packet.number = get_uint(attribute);
        break;
      case SOFTPSP_PACKET_TIME:
        packet.nanoseconds = get_uint(attribute);
        break;
      case SOFTPSP_PACKET_TRANSMIT:
        packet.transmit = true;
        break;
      case SOFTPSP_PACKET_REASON:
        packet.reason = static_cast<Drop>(get_u32(attribute));
        break;
      case SOFTPSP_PACKET_LENGTH:
        packet.length = get_u32(attribute);
        break;
      case SOFTPSP_PACKET_OCTETS: {
        const auto octets = get_octets(attribute);
        packet.octets.assign(octets.begin(), octets.end());
        break;
      }
      default:
        break;
    }
  });
  return packet;
}

void read_daemon(std::span<const std::uint8_t> attributes, DaemonInfo& info) {
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case SOFTPSP_INFO_VERSION:
        info.version = get_string(attribute);
        break;
      case SOFTPSP_INFO_CRYPTO_BACKEND:
        info.crypto_backend = get_string(attribute);
        break;
      case SOFTPSP_INFO_PID:
        info.pid = get_u32(attribute);
        break;
      case SOFTPSP_INFO_INSTANCE:
        info.instance = get_uint(attribute);
        break;
      default:
        break;
    }
  });
}

DaemonInfo::Device read_daemon_device(std::span<const std::uint8_t> attributes) {
  DaemonInfo::Device device;
  const auto read_drop = [&](const nlattr* nest) {
    std::pair<std::string, std::uint64_t> drop;
    for_each_attribute(get_octets(nest), [&](const nlattr* attribute) {
      const auto type = mnl_attr_get_type(attribute);
      if (type == SOFTPSP_DROP_NAME) drop.first = get_string(attribute);
      if (type == SOFTPSP_DROP_COUNT) drop.second = get_uint(attribute);
    });
    device.drops.push_back(std::move(drop));
  };
  for_each_attribute(attributes, [&](const nlattr* attribute) {
    switch (mnl_attr_get_type(attribute)) {
      case SOFTPSP_INFO_DEV_ID:
        device.id = get_u32(attribute);
        break;
      case SOFTPSP_INFO_IFNAME:
        device.ifname = get_string(attribute);
        break;
      case SOFTPSP_INFO_TAP:
        device.tap = get_string(attribute);
        break;
      case SOFTPSP_INFO_MTU:
        device.mtu = get_u32(attribute);
        break;
      case SOFTPSP_INFO_GENERATION:
        device.generation = get_u32(attribute);
        break;
      case SOFTPSP_INFO_SPI_REMAINING:
        device.spi_remaining = get_uint(attribute);
        break;
      case SOFTPSP_INFO_REPAIRS:
        device.repairs = get_uint(attribute);
        break;
      case SOFTPSP_INFO_TROUBLE:
        device.trouble = get_string(attribute);
        break;
      case SOFTPSP_INFO_DROP:
        read_drop(attribute);
        break;
      default:
        break;
    }
  });
  return device;
}

std::optional<Notification> read_notification(const nlmsghdr* message) {
  if (message->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN) return std::nullopt;
  Notification notification;
  switch (static_cast<const genlmsghdr*>(mnl_nlmsg_get_payload(message))->cmd) {
    case PSPNL_CMD_DEV_ADD_NTF:
      notification.kind = Notification::Kind::kDevAdd;
      break;
    case PSPNL_CMD_DEV_DEL_NTF:
      notification.kind = Notification::Kind::kDevDel;
      break;
    case PSPNL_CMD_DEV_CHANGE_NTF:
      notification.kind = Notification::Kind::kDevChange;
      break;
    case PSPNL_CMD_KEY_ROTATE_NTF:
      notification.kind = Notification::Kind::kKeyRotate;
      break;
    default:
      return std::nullopt;
  }
  notification.device = read_device(message_attributes(message));
  return notification;
}

}  // namespace

struct Client::Impl {
  Link link;
  std::string socket;
  FamilyInfo psp;
  std::optional<FamilyInfo> softpsp{};  // asked for when needed
  std::optional<Link> events{};
  std::vector<Notification> pending{};  // newest first

  Question question(const char* what, std::uint8_t cmd) const {
    return {.what = what, .family = psp.id, .version = PSPNL_FAMILY_VERSION, .cmd = cmd};
  }
  ClientResult<Question> own_question(const char* what, std::uint8_t cmd);
  ClientResult<void> associate(const char* what, std::uint8_t cmd, std::uint32_t id,
                               std::uint32_t ifindex, std::optional<std::int32_t> nsid);
  ClientResult<void> subscribe_kernel(Link& link, bool mgmt, bool use);
  ClientResult<void> subscribe_daemon(Link& link, bool mgmt, bool use);
  ClientResult<void> receive_notifications();

  static ClientResult<std::unique_ptr<Impl>> open(ClientResult<Transport> transport,
                                                  const std::string& socket);
};

ClientResult<std::unique_ptr<Client::Impl>> Client::Impl::open(ClientResult<Transport> transport,
                                                               const std::string& socket) {
  if (!transport) return std::unexpected(transport.error());
  Link link{.transport = std::move(*transport)};
  auto family = resolve(link, PSPNL_FAMILY_NAME);
  if (!family) return std::unexpected(family.error());
  return std::make_unique<Impl>(
      Impl{.link = std::move(link), .socket = socket, .psp = std::move(*family)});
}

ClientResult<Question> Client::Impl::own_question(const char* what, std::uint8_t cmd) {
  if (link.transport.is_kernel()) {
    ClientError error;
    error.sys_errno = EOPNOTSUPP;
    error.text = "only pspd can answer this, and the kernel's own PSP is in use";
    return finish(what, std::move(error));
  }
  if (!softpsp) {
    auto family = resolve(link, SOFTPSP_FAMILY_NAME);
    if (!family) return std::unexpected(family.error());
    softpsp = std::move(*family);
  }
  return Question{
      .what = what, .family = softpsp->id, .version = SOFTPSP_FAMILY_VERSION, .cmd = cmd};
}

std::string default_socket() {
  const char* name = std::getenv("PSP_SOCKET");
  return name != nullptr && name[0] != '\0' ? name : "@softpsp";
}

ClientResult<Client> Client::connect(const std::string& socket) {
  auto kernel = Impl::open(Transport::open_kernel(), socket);
  std::optional<Client> kernel_client;
  if (kernel) {
    kernel_client = Client(std::move(*kernel));
    // A kernel that has the family but no device cannot secure anything: pspd, if it runs, can.
    const auto devices = kernel_client->devices();
    if (devices && !devices->empty()) return std::move(*kernel_client);
  }
  auto daemon = connect_daemon(socket);
  if (daemon) return daemon;
  if (kernel_client) return std::move(*kernel_client);
  if (daemon.error().sys_errno != ENOENT) return daemon;
  return client_error(ENOENT, "this kernel has no PSP (CONFIG_INET_PSP) and no pspd answers at " +
                                  socket + ": start one with 'pspd --dev IFNAME'");
}

ClientResult<Client> Client::connect_daemon(const std::string& socket) {
  auto impl = Impl::open(Transport::open_daemon(socket), socket);
  if (!impl) return std::unexpected(impl.error());
  return Client(std::move(*impl));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Client::Provider Client::provider() const {
  return impl_->link.transport.is_kernel() ? Provider::kKernel : Provider::kDaemon;
}

ClientResult<std::vector<DeviceInfo>> Client::devices() {
  std::vector<DeviceInfo> devices;
  Question question = impl_->question("dev-get", PSPNL_CMD_DEV_GET);
  question.dump = true;
  for (int attempt = 0;; ++attempt) {
    const auto done = impl_->link.ask(question, {}, [&](std::span<const std::uint8_t> attributes) {
      devices.push_back(read_device(attributes));
    });
    if (!done) return std::unexpected(done.error());
    if (!impl_->link.interrupted || attempt == kDumpsMax) return devices;
    devices.clear();
  }
}

ClientResult<DeviceInfo> Client::device(std::uint32_t id) {
  DeviceInfo device;
  const auto done = impl_->link.ask(
      impl_->question("dev-get", PSPNL_CMD_DEV_GET),
      [&](Writer& writer) { writer.put_u32(PSPNL_DEV_ID, id); },
      [&](std::span<const std::uint8_t> attributes) { device = read_device(attributes); });
  if (!done) return std::unexpected(done.error());
  return device;
}

ClientResult<void> Client::set_versions(std::uint32_t id, VersionSet ena) {
  return impl_->link.ask(impl_->question("dev-set", PSPNL_CMD_DEV_SET),
                         [&](Writer& writer) {
                           writer.put_u32(PSPNL_DEV_ID, id);
                           writer.put_u32(PSPNL_DEV_PSP_VERSIONS_ENA, ena.bits);
                         },
                         {});
}

ClientResult<void> Client::key_rotate(std::uint32_t id) {
  return impl_->link.ask(impl_->question("key-rotate", PSPNL_CMD_KEY_ROTATE),
                         [&](Writer& writer) { writer.put_u32(PSPNL_DEV_ID, id); }, {});
}

ClientResult<void> Client::Impl::associate(const char* what, std::uint8_t cmd, std::uint32_t id,
                                           std::uint32_t ifindex,
                                           std::optional<std::int32_t> nsid) {
  return link.ask(question(what, cmd),
                  [&](Writer& writer) {
                    writer.put_u32(PSPNL_DEV_ID, id);
                    writer.put_u32(PSPNL_DEV_IFINDEX, ifindex);
                    if (nsid) writer.put_u32(PSPNL_DEV_NSID, static_cast<std::uint32_t>(*nsid));
                  },
                  {});
}

ClientResult<void> Client::dev_assoc(std::uint32_t id, std::uint32_t ifindex,
                                     std::optional<std::int32_t> nsid) {
  return impl_->associate("dev-assoc", PSPNL_CMD_DEV_ASSOC, id, ifindex, nsid);
}

ClientResult<void> Client::dev_disassoc(std::uint32_t id, std::uint32_t ifindex,
                                        std::optional<std::int32_t> nsid) {
  return impl_->associate("dev-disassoc", PSPNL_CMD_DEV_DISASSOC, id, ifindex, nsid);
}

namespace {

// explain adds the cause where the socket tells it and the answer does not.
ClientError explain(int fd, std::string_view what, ClientError error) {
  std::string cause;
  int protocol = 0;
  socklen_t size = sizeof protocol;
  if (error.missing_attribute == ".dev-id")
    cause =
        "the connection's route leads by a netdev without PSP device, or stays on this host (lo)";
  else if (error.sys_errno == EOPNOTSUPP &&
           getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
           protocol == IPPROTO_MPTCP)
    cause = "an MPTCP socket, and PSP is for plain TCP (in Go: GODEBUG=multipathtcp=0)";
  if (cause.empty()) return error;
  error.text = error.text.empty() ? cause : error.text + ": " + cause;
  error.message =
      std::string(what) + ": " + error.text + " (" + std::strerror(error.sys_errno) + ")";
  return error;
}

}  // namespace

ClientResult<RxAssocInfo> Client::rx_assoc(int fd, Version version,
                                           std::optional<std::uint32_t> dev_id) {
  RxAssocInfo info;
  Question question = impl_->question("rx-assoc", PSPNL_CMD_RX_ASSOC);
  question.attached = fd;
  const auto done = impl_->link.ask(
      question,
      [&](Writer& writer) {
        if (dev_id) writer.put_u32(PSPNL_ASSOC_DEV_ID, *dev_id);
        writer.put_u32(PSPNL_ASSOC_VERSION, static_cast<std::uint32_t>(version));
        writer.put_u32(PSPNL_ASSOC_SOCK_FD, static_cast<std::uint32_t>(fd));
      },
      [&](std::span<const std::uint8_t> attributes) { info = read_rx_assoc(attributes); });
  if (!done) return std::unexpected(explain(fd, "rx-assoc", done.error()));
  if (info.rx.key.size() != key_size(version) || !info.rx.spi.valid())
    return client_error(EPROTO, "rx-assoc: the answer holds no usable key");
  return info;
}

ClientResult<void> Client::tx_assoc(int fd, Version version, const KeyInfo& tx,
                                    std::optional<std::uint32_t> dev_id) {
  Question question = impl_->question("tx-assoc", PSPNL_CMD_TX_ASSOC);
  question.attached = fd;
  return impl_->link.ask(question,
                         [&](Writer& writer) {
                           if (dev_id) writer.put_u32(PSPNL_ASSOC_DEV_ID, *dev_id);
                           writer.put_u32(PSPNL_ASSOC_VERSION, static_cast<std::uint32_t>(version));
                           nlattr* nest = writer.nest(PSPNL_ASSOC_TX_KEY);
                           writer.put_u32(PSPNL_KEYS_SPI, tx.spi.value);
                           writer.put_octets(PSPNL_KEYS_KEY, tx.key.span());
                           writer.end_nest(nest);
                           writer.put_u32(PSPNL_ASSOC_SOCK_FD, static_cast<std::uint32_t>(fd));
                         },
                         {});
}

ClientResult<std::vector<StatsInfo>> Client::stats() {
  std::vector<StatsInfo> all;
  Question question = impl_->question("get-stats", PSPNL_CMD_GET_STATS);
  question.dump = true;
  for (int attempt = 0;; ++attempt) {
    const auto done = impl_->link.ask(question, {}, [&](std::span<const std::uint8_t> attributes) {
      all.push_back(read_stats(attributes));
    });
    if (!done) return std::unexpected(done.error());
    if (!impl_->link.interrupted || attempt == kDumpsMax) return all;
    all.clear();
  }
}

ClientResult<StatsInfo> Client::stats(std::uint32_t dev_id) {
  StatsInfo stats;
  const auto done = impl_->link.ask(
      impl_->question("get-stats", PSPNL_CMD_GET_STATS),
      [&](Writer& writer) { writer.put_u32(PSPNL_STATS_DEV_ID, dev_id); },
      [&](std::span<const std::uint8_t> attributes) { stats = read_stats(attributes); });
  if (!done) return std::unexpected(done.error());
  return stats;
}

ClientResult<void> Client::Impl::subscribe_kernel(Link& to, bool mgmt, bool use) {
  for (const auto& [wanted, name] : {std::pair{mgmt, PSPNL_MCGRP_MGMT}, {use, PSPNL_MCGRP_USE}}) {
    if (!wanted) continue;
    const auto group = psp.groups.find(name);
    if (group == psp.groups.end())
      return client_error(EPROTO, std::string("subscribe: there is no group ") + name);
    if (auto joined = to.transport.join(group->second); !joined) return joined;
  }
  return {};
}

ClientResult<void> Client::Impl::subscribe_daemon(Link& to, bool mgmt, bool use) {
  const auto question = own_question("subscribe", SOFTPSP_CMD_SUBSCRIBE);
  if (!question) return std::unexpected(question.error());
  return to.ask(*question,
                [&](Writer& writer) {
                  writer.put_u32(SOFTPSP_SUBSCRIBE_GROUPS,
                                 (mgmt ? SOFTPSP_GROUP_MGMT : 0u) | (use ? SOFTPSP_GROUP_USE : 0u));
                },
                {});
}

ClientResult<void> Client::subscribe(bool mgmt, bool use) {
  const bool kernel = impl_->link.transport.is_kernel();
  auto transport = kernel ? Transport::open_kernel() : Transport::open_daemon(impl_->socket);
  if (!transport) return std::unexpected(transport.error());
  Link link{.transport = std::move(*transport)};
  auto joined =
      kernel ? impl_->subscribe_kernel(link, mgmt, use) : impl_->subscribe_daemon(link, mgmt, use);
  if (!joined) return joined;
  impl_->events = std::move(link);
  impl_->pending.clear();
  return {};
}

ClientResult<void> Client::Impl::receive_notifications() {
  const auto size = events->transport.receive(events->buffer.octets());
  if (!size) return std::unexpected(size.error());
  const auto octets = events->buffer.octets();
  for (std::size_t at = 0; *size - at >= NLMSG_HDRLEN;) {
    const auto* message = reinterpret_cast<const nlmsghdr*>(octets.data() + at);
    if (!message_ok(message, *size - at)) break;
    // The sign stands alone in its datagram, which is asked for when none is pending.
    if (message->nlmsg_type == NLMSG_OVERRUN && message->nlmsg_seq == SOFTPSP_OVERRUN_SEQ)
      return notifications_lost();
    if (message->nlmsg_type == psp.id)
      if (auto notification = read_notification(message))
        pending.insert(pending.begin(), *notification);
    at += std::min<std::size_t>(NLMSG_ALIGN(message->nlmsg_len), *size - at);
  }
  return {};
}

ClientResult<std::optional<Notification>> Client::next_notification(
    std::chrono::milliseconds timeout) {
  if (!impl_->events) return client_error(EINVAL, "subscribe first, then wait for notifications");
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (impl_->pending.empty()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd ready = {.fd = impl_->events->transport.fd(), .events = POLLIN, .revents = 0};
    const auto wait = std::clamp<std::int64_t>(left.count(), 0, INT32_MAX);
    const int count = ::poll(&ready, 1, static_cast<int>(wait));
    if (count < 0 && errno != EINTR) return client_error(errno, "cannot wait for notifications");
    if (count == 0) return std::optional<Notification>();
    if (count < 0) continue;
    if (auto got = impl_->receive_notifications(); !got) return std::unexpected(got.error());
  }
  const Notification next = impl_->pending.back();
  impl_->pending.pop_back();
  return std::optional(next);
}

int Client::notification_fd() const { return impl_->events ? impl_->events->transport.fd() : -1; }

ClientResult<std::vector<KeptPacket>> Client::kept_packets() {
  auto question = impl_->own_question("packet-get", SOFTPSP_CMD_PACKET_GET);
  if (!question) return std::unexpected(question.error());
  question->dump = true;
  std::vector<KeptPacket> packets;
  const auto done = impl_->link.ask(*question, {}, [&](std::span<const std::uint8_t> attributes) {
    packets.push_back(read_packet(attributes));
  });
  if (!done) return std::unexpected(done.error());
  return packets;
}

ClientResult<CapturedKey> Client::captured_key(std::span<const std::uint8_t> datagram) {
  const auto question = impl_->own_question("key-get", SOFTPSP_CMD_KEY_GET);
  if (!question) return std::unexpected(question.error());
  CapturedKey found;
  const auto done = impl_->link.ask(
      *question,
      [&](Writer& writer) {
        if (!datagram.empty()) writer.put_octets(SOFTPSP_KEY_DATAGRAM, datagram);
      },
      [&](std::span<const std::uint8_t> attributes) { found = read_captured_key(attributes); });
  if (!done) return std::unexpected(done.error());
  return found;
}

ClientResult<void> Client::request(const Request& request, const OnMessage& on_answer) {
  Question question = impl_->question(request.name, request.cmd);
  question.dump = request.dump;
  question.attached = request.fd;
  question.acknowledged = true;  // a newer family's operation may have no reply
  return impl_->link.ask(
      question,
      [&](Writer& writer) {
        for_each_attribute(request.attributes, [&](const nlattr* attribute) {
          writer.put_octets(attribute->nla_type, get_octets(attribute));
        });
      },
      on_answer);
}

ClientResult<std::vector<AssocInfo>> Client::associations() {
  auto question = impl_->own_question("assoc-get", SOFTPSP_CMD_ASSOC_GET);
  if (!question) return std::unexpected(question.error());
  question->dump = true;
  std::vector<AssocInfo> all;
  const auto done = impl_->link.ask(*question, {}, [&](std::span<const std::uint8_t> attributes) {
    all.push_back(read_association(attributes));
  });
  if (!done) return std::unexpected(done.error());
  return all;
}

ClientResult<DaemonInfo> Client::daemon_info() {
  auto question = impl_->own_question("info-get", SOFTPSP_CMD_INFO_GET);
  if (!question) return std::unexpected(question.error());
  DaemonInfo info;
  auto done = impl_->link.ask(*question, {}, [&](std::span<const std::uint8_t> attributes) {
    read_daemon(attributes, info);
  });
  if (!done) return std::unexpected(done.error());
  question->dump = true;
  done = impl_->link.ask(*question, {}, [&](std::span<const std::uint8_t> attributes) {
    info.devices.push_back(read_daemon_device(attributes));
  });
  if (!done) return std::unexpected(done.error());
  return info;
}

}  // namespace psp
