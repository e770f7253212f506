// SPDX-License-Identifier: Apache-2.0
//
// psp_setsockopt, psp_getsockopt and psp_released, a row a case: what pspd asks of a socket and
// nobody else may, what an application may no longer ask of a secured one, and that its end is
// noted.
#include <cerrno>
#include <netinet/tcp.h>

#include "socket_table_fixture.hh"

namespace psp::kernel {
namespace {

constexpr std::uint32_t kNothingCarried = ~0u;

struct Asked {
  const char* what;
  Change sock;
  std::function<int(int fd)> ask;  // 0 or an errno
  int error = 0;
  std::uint32_t state_after = kNothingCarried;
};

class SocketOptionTest : public SocketTableTest {
 protected:
  // request is one of pspd's; with a wrong token it is one of the socket's owner.
  std::function<int(int)> request(int option, bool right_token = true,
                                  std::size_t size = sizeof(psp_sockopt)) const {
    psp_sockopt sent{};
    sent.token[0] = secrets_.token[0];
    sent.token[1] = right_token ? secrets_.token[1] : secrets_.token[1] + 1;
    sent.rx = {.spi = 0x80001234, .rotation = 0, .dev_id = kDevId, .generation = 3, .version = 1};
    return [=](int fd) {
      return ::setsockopt(fd, PSP_SOL, option, &sent, static_cast<socklen_t>(size)) == 0 ? 0
                                                                                         : errno;
    };
  }
  static std::function<int(int)> set(int level, int option, int value) {
    return [=](int fd) {
      return ::setsockopt(fd, level, option, &value, sizeof value) == 0 ? 0 : errno;
    };
  }
  void check(const Asked& row) {
    SCOPED_TRACE(row.what);
    begin(row.sock);
    EXPECT_EQ(row.ask(socket_.get()), row.error) << std::strerror(row.error);
    const auto after = carried();
    EXPECT_EQ(after ? after->state : kNothingCarried, row.state_after);
  }
};

TEST_P(SocketOptionTest, RequestsOfPspdAreItsAlone) {
  const auto rx = in_state(PSP_STATE_RX), tx = in_state(PSP_STATE_TX);
  const Asked table[] = {
      {"rx-assoc", {}, request(PSP_SO_RX_ATTACH), 0, PSP_STATE_RX},
      {"rx-assoc of the socket's owner", {}, request(PSP_SO_RX_ATTACH, false), ENOPROTOOPT},
      {"rx-assoc cut short",
       {},
       request(PSP_SO_RX_ATTACH, true, sizeof(psp_sockopt) - 1),
       ENOPROTOOPT},
      {"what there is not", {}, request(PSP_SO_MSS_RESERVED + 1), ENOPROTOOPT},
      {"rx-assoc again", rx, request(PSP_SO_RX_ATTACH), EBUSY, PSP_STATE_RX},
      {"rx-assoc behind an earlier pspd", in_state(PSP_STATE_RX, earlier),
       request(PSP_SO_RX_ATTACH), 0, PSP_STATE_RX},
      {"rx-assoc of what an earlier pspd secured", in_state(PSP_STATE_TX, earlier),
       request(PSP_SO_RX_ATTACH), EBUSY, PSP_STATE_TX},
      {"tx-assoc without rx-assoc", {}, request(PSP_SO_TX_ATTACH), ENOENT},
      {"tx-assoc", rx, request(PSP_SO_TX_ATTACH), 0, PSP_STATE_TX},
      {"tx-assoc of the socket's owner", rx, request(PSP_SO_TX_ATTACH, false), ENOPROTOOPT,
       PSP_STATE_RX},
      {"tx-assoc when the peer has sent PSP",
       in_state(PSP_STATE_RX, [](psp_sock& sock) { sock.peer_tx = 1; }), request(PSP_SO_TX_ATTACH),
       0, PSP_STATE_FULL},
      {"tx-assoc again", tx, request(PSP_SO_TX_ATTACH), EALREADY, PSP_STATE_TX},
      {"room in the MSS", tx, request(PSP_SO_MSS_RESERVED), 0, PSP_STATE_TX},
      {"room in the MSS of nothing", {}, request(PSP_SO_MSS_RESERVED), ENOENT},
  };
  for (const Asked& row : table) check(row);
}

TEST_P(SocketOptionTest, ApplicationsCannotTakeBackWhatASecuredSocketNeeds) {
  const auto ulp = [](int fd) {
    return ::setsockopt(fd, IPPROTO_TCP, TCP_ULP, "none", 4) == 0 ? 0 : errno;
  };
  const Asked table[] = {
      {"another layer, no association", {}, ulp, ENOENT},
      {"another layer in NONE", in_state(PSP_STATE_NONE), ulp, ENOENT, PSP_STATE_NONE},
      {"another layer in RX", in_state(PSP_STATE_RX), ulp, EINVAL, PSP_STATE_RX},
      {"another layer in RX of an earlier pspd", in_state(PSP_STATE_RX, earlier), ulp, ENOENT,
       PSP_STATE_RX},
      {"another layer in TX of an earlier pspd", in_state(PSP_STATE_TX, earlier), ulp, EINVAL,
       PSP_STATE_TX},
      {"urgent data in line", in_state(PSP_STATE_TX), set(SOL_SOCKET, SO_OOBINLINE, 1), 0,
       PSP_STATE_TX},
      {"urgent data out of line, none waits", in_state(PSP_STATE_TX),
       set(SOL_SOCKET, SO_OOBINLINE, 0), 0, PSP_STATE_TX},
      {"an option of nobody", in_state(PSP_STATE_TX), set(PSP_SOL, 99, 0), ENOPROTOOPT,
       PSP_STATE_TX},
  };
  for (const Asked& row : table) check(row);
}

TEST_P(SocketOptionTest, SeesTheMssThatPspLeaves) {
  const auto mss = [this] {
    int value = 0;
    socklen_t size = sizeof value;
    EXPECT_EQ(::getsockopt(socket_.get(), IPPROTO_TCP, TCP_MAXSEG, &value, &size), 0);
    return value;
  };
  begin({});
  const int whole = mss();
  struct Row {
    const char* what;
    Change sock;
    int less;
  };
  const Row table[] = {
      {"RX", in_state(PSP_STATE_RX), 0},
      {"TX", in_state(PSP_STATE_TX), PSP_OVERHEAD},
      {"TX, with room in the socket's own",
       in_state(PSP_STATE_TX, [](psp_sock& sock) { sock.mss_reserved = 1; }), 0},
  };
  for (const Row& row : table) {
    begin(row.sock);
    EXPECT_EQ(mss(), whole - row.less) << row.what;
  }
}

TEST_P(SocketOptionTest, ShowsASocketToPspdOnly) {
  begin(in_state(PSP_STATE_TX, [](psp_sock& sock) { sock.clear_boundary = 77; }));
  const auto look = [this](std::uint32_t option, std::size_t size, psp_sock_view& view) {
    auto length = static_cast<socklen_t>(size);
    return ::getsockopt(socket_.get(), PSP_SOL, static_cast<int>(option), &view, &length) == 0
               ? 0
               : errno;
  };
  psp_sock_view view{};
  const int of_nobody = look(12345, sizeof view, view);  // as the kernel says it
  EXPECT_NE(of_nobody, 0);
  EXPECT_EQ(look(secrets_.view_optname ^ 1, sizeof view, view), of_nobody);
  EXPECT_EQ(look(secrets_.view_optname, sizeof view - 1, view), of_nobody);
  EXPECT_EQ(view.valid, 0u);
  ASSERT_EQ(look(secrets_.view_optname, sizeof view, view), 0);
  EXPECT_EQ(view.valid, 1u);
  EXPECT_EQ(view.tcp_state, PSP_TCP_ESTABLISHED + 0u);
  EXPECT_EQ(view.clear_boundary, 77u);
  EXPECT_EQ(view.connected, 1u);
  EXPECT_EQ(view.tuple.family, GetParam());
  EXPECT_EQ(view.tuple.netns, here_);
  EXPECT_EQ(ntohs(view.tuple.local_port), flow_.local_port);
  EXPECT_EQ(ntohs(view.tuple.remote_port), flow_.remote_port);
}

TEST_P(SocketOptionTest, ThatASecuredSocketWasClosedIsNoted) {
  struct Row {
    const char* what;
    Change sock;
    unsigned released;
  };
  for (const Row& row : {Row{"carries nothing", {}, 0u}, Row{"TX", in_state(PSP_STATE_TX), 1u}}) {
    begin(row.sock);
    std::uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    ASSERT_EQ(::getsockopt(socket_.get(), SOL_SOCKET, SO_COOKIE, &cookie, &size), 0);
    psp_noted_entry noted{};
    ASSERT_EQ(bpf_map_update_elem(shared_->maps().noted, &cookie, &noted, BPF_ANY), 0);
    const int copy = ::dup(socket_.get());
    socket_.reset();
    ASSERT_EQ(bpf_map_lookup_elem(shared_->maps().noted, &cookie, &noted), 0);
    EXPECT_EQ(noted.released, 0u) << row.what << ": another descriptor is open";
    ::close(copy);
    ASSERT_EQ(bpf_map_lookup_elem(shared_->maps().noted, &cookie, &noted), 0);
    EXPECT_EQ(noted.released, row.released) << row.what;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SocketOptionTest, testing::Values(4u, 6u), kFamilyName);

}  // namespace
}  // namespace psp::kernel
