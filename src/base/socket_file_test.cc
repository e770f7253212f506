// SPDX-License-Identifier: Apache-2.0
//
// What a program that listens at a path does to what is there already: it takes the place of a
// socket that nobody listens at, and leaves all else alone. On real sockets, files and links in a
// directory of the test's own; looked at afterwards is what kind of file stands there and what is
// in it. Not shown: somebody who changes the path between the look at it and the removal.
#include "base/socket_file.hh"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/unix_address.hh"

namespace psp {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class SocketFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "socket-file-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = directory_ / "socket";
  }
  void TearDown() override { fs::remove_all(directory_); }

  static std::expected<SocketFile, SocketFile::Error> listen_at(const std::string& path,
                                                                int type = SOCK_STREAM) {
    return SocketFile::listen_at(path, type, 0666);
  }
  // leave_dead makes what a program that was killed leaves behind.
  void leave_dead(int type) {
    const UniqueFd dead(::socket(AF_UNIX, type, 0));
    const auto address = UnixAddress::parse(path_);
    ASSERT_EQ(::bind(dead.get(), address->get(), address->length()), 0);
  }

  fs::path directory_;
  std::string path_;
};

TEST_F(SocketFileTest, AFileThatIsNoSocketStays) {
  std::ofstream(path_) << "important";
  const auto made = listen_at(path_);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().text, HasSubstr("it is there and not a socket"));
  std::string content;
  std::ifstream(path_) >> content;
  EXPECT_EQ(content, "important");
  fs::remove(path_);
  fs::create_directory(path_);
  EXPECT_FALSE(listen_at(path_));
  EXPECT_TRUE(fs::is_directory(path_));
}

TEST_F(SocketFileTest, ALinkStaysAndWhatItLeadsToIsNotTouched) {
  const fs::path secret = directory_ / "secret";
  std::ofstream(secret) << "important";
  fs::permissions(secret, fs::perms::owner_read);
  for (const fs::path& to : {secret, directory_ / "nothing"}) {
    fs::create_symlink(to, path_);
    EXPECT_FALSE(listen_at(path_)) << to;
    EXPECT_TRUE(fs::is_symlink(path_));
    fs::remove(path_);
  }
  EXPECT_FALSE(fs::exists(directory_ / "nothing"));
  EXPECT_EQ(fs::status(secret).permissions(), fs::perms::owner_read);
  leave_dead(SOCK_STREAM);
  fs::create_symlink(path_, directory_ / "link");
  EXPECT_FALSE(listen_at(directory_ / "link")) << "also if it leads to a dead socket";
  EXPECT_TRUE(fs::exists(path_));
}

TEST_F(SocketFileTest, ASocketThatSomebodyListensAtIsHis) {
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const auto first = listen_at(path_, type);
    ASSERT_TRUE(first) << first.error().text;
    for (const int other : {SOCK_STREAM, SOCK_SEQPACKET}) {
      const auto second = listen_at(path_, other);
      ASSERT_FALSE(second);
      EXPECT_TRUE(second.error().taken);
      EXPECT_TRUE(fs::is_socket(path_));
    }
  }
  EXPECT_FALSE(fs::exists(path_)) << "a clean end takes it along";
}

TEST_F(SocketFileTest, ADeadOneIsTakenOver) {
  leave_dead(SOCK_STREAM);
  const auto made = listen_at(path_);
  ASSERT_TRUE(made) << made.error().text;
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0666u) << "whatever the umask";
}

TEST_F(SocketFileTest, AnEndTakesOnlyItsOwnFileAlong) {
  {
    const auto made = listen_at(path_);
    ASSERT_TRUE(made);
    fs::remove(path_);
    std::ofstream(path_) << "another's";
  }
  EXPECT_TRUE(fs::is_regular_file(path_));
}

TEST_F(SocketFileTest, AddressesThatAreNoneAreRefused) {
  for (const std::string& text : {std::string(), std::string("@"), std::string(108, 'x')})
    EXPECT_THAT(listen_at(text).error().text, HasSubstr("is no address for a socket"));
}

}  // namespace
}  // namespace psp
