// SPDX-License-Identifier: Apache-2.0
//
// When credentials are read again, and what becomes of those that are no good: a real file that is
// replaced as tools replace certificates, by rename, with a pre-shared key in it.
//
// Nothing waits here: each look() is one that the program would take at an interval. Files that are
// being written must not be read, and a mistake in a file must not take away the credentials that
// connections use. That peers are let in or not by them is tested in tests/proxy.
#include "credentials.hh"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <unistd.h>

namespace psp::proxy {
namespace {

class CredentialsFile : public testing::Test {
 protected:
  CredentialsFile() { write(std::string(64, 'a')); }
  ~CredentialsFile() override { std::filesystem::remove(path_); }
  void write(const std::string& content) {
    std::ofstream(path_ + "-new") << content << '\n';
    std::filesystem::permissions(path_ + "-new", std::filesystem::perms::owner_read);
    std::filesystem::rename(path_ + "-new", path_);
  }

  std::string path_ = testing::TempDir() + "psp-proxy-psk-" + std::to_string(getpid());
  Credentials credentials_{{.psk_file = path_}};
};

TEST_F(CredentialsFile, AreReadAgainOnceTheyHaveSettled) {
  ASSERT_TRUE(credentials_.reload());
  const auto first = credentials_.context();
  EXPECT_FALSE(credentials_.look());
  write(std::string(64, 'b'));
  EXPECT_FALSE(credentials_.look()) << "it may still be changing";
  write(std::string(66, 'c'));
  EXPECT_FALSE(credentials_.look()) << "as it did";
  EXPECT_TRUE(credentials_.look());
  ASSERT_TRUE(credentials_.reload());
  EXPECT_NE(credentials_.context(), first);
  EXPECT_FALSE(credentials_.look());
}

TEST_F(CredentialsFile, ThatAreNoGoodLeaveThoseBefore) {
  ASSERT_TRUE(credentials_.reload());
  const auto first = credentials_.context();
  write("short");
  const auto done = credentials_.reload();
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().find("too short"), std::string::npos) << done.error();
  EXPECT_EQ(credentials_.context(), first);
  credentials_.look();
  EXPECT_FALSE(credentials_.look()) << "the same file is not tried again and again";
  std::filesystem::remove(path_);
  credentials_.look();
  EXPECT_TRUE(credentials_.look());
  EXPECT_FALSE(credentials_.reload());
  EXPECT_EQ(credentials_.context(), first);
  write(std::string(64, 'a'));
  credentials_.look();
  EXPECT_TRUE(credentials_.look());
  EXPECT_TRUE(credentials_.reload());
}

}  // namespace
}  // namespace psp::proxy
