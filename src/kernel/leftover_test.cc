// SPDX-License-Identifier: Apache-2.0
//
// What becomes of secured sockets when the programs go that block them: pspd aborts them, and notes
// that their applications were told. A socket that was told nothing counts as alive, for it can
// connect again, and would then send in clear. Needs root and BPF; skipped else.
#include "leftover.hh"

#include <netinet/in.h>

#include "socket_table_fixture.hh"

namespace psp::kernel {
namespace {

class EndSecuredSocketsTest : public SocketTableTest {
 protected:
  // begin_noted makes another connection that is noted, as it is when it is given a Tx key.
  void begin_noted(psp_state state) {
    begin(in_state(state));
    socklen_t size = sizeof cookie_;
    ASSERT_EQ(::getsockopt(socket_.get(), SOL_SOCKET, SO_COOKIE, &cookie_, &size), 0);
    const psp_noted_entry noted{};
    ASSERT_EQ(bpf_map_update_elem(shared_->maps().noted, &cookie_, &noted, BPF_ANY), 0);
  }
  // end ends this socket, and no other.
  Ended end(const std::function<void()>& meanwhile = {}) {
    const NetnsTable here = NetnsTable::open().value();
    Ended ended;
    const auto done = end_secured_sockets(
        {shared_->maps().assoc, shared_->maps().noted}, here,
        [&](const SecuredSocket& socket) {
          if (socket.cookie() != cookie_) return false;
          if (meanwhile) meanwhile();
          return true;
        },
        ended);
    EXPECT_TRUE(done) << done.error();
    return ended;
  }
  // unseen is what is noted of this socket, of which nobody has seen the end.
  std::size_t unseen(const Ended& ended) const {
    auto noted = noted_sockets(shared_->maps().noted).value();
    std::erase_if(noted, [this](const Noted& socket) { return socket.cookie != cookie_; });
    EXPECT_EQ(noted.size(), 1u);
    return count_unseen(noted, ended.aborted);
  }

  std::uint64_t cookie_ = 0;
};

TEST_P(EndSecuredSocketsTest, TellTheApplicationThatItsConnectionIsAborted) {
  begin_noted(PSP_STATE_TX);
  const Ended ended = end();
  EXPECT_TRUE(ended.aborted.contains(cookie_));
  EXPECT_EQ(ended.left, 0u);
  EXPECT_EQ(unseen(ended), 0u);
  EXPECT_EQ(unseen({}), 0u) << "another pspd does not know";
  char octet;
  EXPECT_EQ(::recv(socket_.get(), &octet, 1, 0), -1);
  EXPECT_EQ(errno, ECONNABORTED);
}

TEST_P(EndSecuredSocketsTest, CountASocketAsAliveThatDisconnectsItselfMeanwhile) {
  begin_noted(PSP_STATE_TX);
  const Ended ended = end([this] {
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    EXPECT_EQ(::connect(socket_.get(), &nobody, sizeof nobody), 0);
  });
  EXPECT_FALSE(ended.aborted.contains(cookie_));
  EXPECT_EQ(unseen(ended), 1u);
  EXPECT_EQ(unseen({}), 1u) << "another pspd does not know";
}

TEST_P(EndSecuredSocketsTest, LetASocketGoOnThatHasNoTxKeyYet) {
  begin_noted(PSP_STATE_RX);
  const Ended ended = end();
  EXPECT_FALSE(ended.aborted.contains(cookie_));
  EXPECT_EQ(unseen(ended), 0u);
  EXPECT_EQ(::send(socket_.get(), "a", 1, MSG_NOSIGNAL), 1);
}

INSTANTIATE_TEST_SUITE_P(Families, EndSecuredSocketsTest, testing::Values(4u, 6u), kFamilyName);

}  // namespace
}  // namespace psp::kernel
