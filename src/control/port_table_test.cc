// SPDX-License-Identifier: Apache-2.0
//
// The table of netlink sockets, read from a file that looks like the kernel's: a memfd, which the
// tests write anew between two readings. Shown is what the table says of a port and an inode, that
// a reading counts when it is whole, and that lines of another shape do no harm.
//
// The kernel's own is read in hostile_client_test.cc and in the tests of programs under
// libpsp-genl.so (tests/preload).
#include "port_table.hh"

#include <cstdio>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <sys/mman.h>
#include <unistd.h>

namespace psp::control {
namespace {

constexpr const char* kHead =
    "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";

std::string line(int protocol, std::uint32_t port, ino_t inode) {
  return fmt::format(
      "00000000d0d0d0d0 {:<3} {:<10} 00000000 0        0        0     2        0        "
      "{:<8}\n",
      protocol, port, inode);
}

class PortTableTest : public testing::Test {
 protected:
  // write makes this the content of the file.
  void write(const std::string& text) {
    ASSERT_EQ(::ftruncate(file_, 0), 0);
    ASSERT_EQ(::pwrite(file_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  void read_all() {
    ASSERT_TRUE(table_.start());
    while (table_.read_page()) EXPECT_TRUE(table_.reading());
    EXPECT_FALSE(table_.reading());
  }

  int file_ = ::memfd_create("netlink", MFD_CLOEXEC);
  PortTable table_{UniqueFd(file_)};
};

TEST_F(PortTableTest, HasGenericNetlinkSocketsOnly) {
  write(kHead + line(NETLINK_GENERIC, 100, 7) + line(NETLINK_ROUTE, 200, 8) +
        line(NETLINK_GENERIC, 0, 9));
  read_all();
  EXPECT_TRUE(table_.has(100, 7));
  EXPECT_TRUE(table_.has(0, 9));
  EXPECT_FALSE(table_.has(200, 8));
  EXPECT_EQ(table_.bound(), (PortTable::Bound{{100, 7}}));
}

TEST_F(PortTableTest, APortOfAnotherInodeIsReused) {
  write(kHead + line(NETLINK_GENERIC, 100, 7));
  read_all();
  EXPECT_FALSE(table_.reused(100, 7));
  EXPECT_TRUE(table_.reused(100, 6));
  EXPECT_FALSE(table_.reused(101, 6)) << "it may be newer than the table";
  table_.is_open(100, 6);
  EXPECT_FALSE(table_.reused(100, 6));
}

TEST_F(PortTableTest, ALongTableIsReadByPagesAndCountsWhenItIsWhole) {
  std::string text = kHead;
  for (std::uint32_t port = 1; port <= 1000; port++) text += line(NETLINK_GENERIC, port, port + 1);
  write(text);
  ASSERT_TRUE(table_.start());
  ASSERT_TRUE(table_.read_page());
  EXPECT_FALSE(table_.has(1, 2));
  while (table_.read_page()) {
  }
  EXPECT_EQ(table_.bound().size(), 1000u);
  EXPECT_TRUE(table_.has(1, 2));
  EXPECT_TRUE(table_.has(1000, 1001));
}

TEST_F(PortTableTest, ANewReadingForgetsWhatHasClosed) {
  write(kHead + line(NETLINK_GENERIC, 100, 7) + line(NETLINK_GENERIC, 101, 8));
  read_all();
  write(kHead + line(NETLINK_GENERIC, 101, 8));
  read_all();
  EXPECT_FALSE(table_.has(100, 7));
  EXPECT_TRUE(table_.has(101, 8));
}

TEST_F(PortTableTest, LinesOfAnotherShapeAreLeftOut) {
  write("\n \nsk 16\nsk 16 word\n" + line(NETLINK_GENERIC, 100, 7) + "no end of line");
  read_all();
  EXPECT_EQ(table_.bound().size(), 1u);
}

}  // namespace
}  // namespace psp::control
