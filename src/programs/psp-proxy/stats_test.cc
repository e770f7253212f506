// SPDX-License-Identifier: Apache-2.0
//
// Counters of several workers as one line, and the socket that tells it.
#include "stats.hh"

#include <filesystem>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/un.h>

#include "stats_socket.hh"

namespace psp::proxy {
namespace {

TEST(ProxyStats, WorkersAreSummedUp) {
  Counters one, two;
  one.accepted.add(5);
  two.accepted.add(2);
  two.over.add(3);
  one.refused[static_cast<std::size_t>(Refusal::kPeerName)].add();
  two.ended[static_cast<std::size_t>(Ending::kStopped)].add(2);
  two.octets_from_peer.add(1ULL << 40);
  const auto json = nlohmann::json::parse(to_json({&one, &two}));
  EXPECT_EQ(json["accepted"], 7);
  EXPECT_EQ(json["active"], 4);
  EXPECT_EQ(json["refused"]["peer-name"], 1);
  EXPECT_EQ(json["refused"]["protocol"], 0);
  EXPECT_EQ(json["ended"]["stopped"], 2);
  EXPECT_EQ(json["bytes-from-peer"], 1ULL << 40);
}

TEST(ProxyStats, EachErrorHasItsReason) {
  EXPECT_EQ(to_refusal(keyx::ErrorCode::kAuthentication), Refusal::kAuthentication);
  EXPECT_EQ(to_refusal(keyx::ErrorCode::kPeerRefused), Refusal::kNoPsp);
  EXPECT_EQ(to_refusal(keyx::ErrorCode::kClearData), Refusal::kProtocol);
}

std::string ask(const std::string& path, StatsSocket& socket, const std::string& line) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  path.copy(address.sun_path, path.size());
  const UniqueFd asker(::socket(AF_UNIX, SOCK_STREAM, 0));
  if (connect(asker.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return "?";
  socket.answer(line);
  std::string got(100, '\0');
  got.resize(static_cast<std::size_t>(recv(asker.get(), got.data(), got.size(), MSG_WAITALL)));
  return got;
}

TEST(StatsSocket, AnswersTakesOverWhatIsLeftAndLeavesNothing) {
  const std::string path = testing::TempDir() + "psp-proxy-stats-" + std::to_string(getpid());
  {
    auto socket = StatsSocket::open(path);
    ASSERT_TRUE(socket.has_value()) << socket.error();
    EXPECT_EQ(ask(path, *socket, "line\n"), "line\n");
    const auto second = StatsSocket::open(path);
    ASSERT_FALSE(second.has_value()) << "somebody answers there";
    EXPECT_NE(second.error().find("Address already in use"), std::string::npos);
    // What a proxy that was killed leaves: a file, and nobody behind it.
    std::filesystem::rename(path, path + "-left");
  }
  std::filesystem::rename(path + "-left", path);
  {
    auto socket = StatsSocket::open(path);
    ASSERT_TRUE(socket.has_value()) << socket.error();
    EXPECT_EQ(ask(path, *socket, "again\n"), "again\n");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace psp::proxy
