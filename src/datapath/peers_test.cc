// SPDX-License-Identifier: Apache-2.0
//
// Whose PSP packets are taken, and how networks are written. An administrator's list must mean what
// a firewall's would: a prefix with bits set behind its length is refused, not rounded. Addresses
// are tried at both edges of each network; a list for one family lets in nobody of the other. That
// the packet path asks, and counts: probe_answer_test.cc.
#include "peers.hh"

#include <arpa/inet.h>
#include <gtest/gtest.h>

namespace psp::datapath::test {
namespace {

// allowed: an IP packet from that address.
bool allowed(const Peers& peers, const std::string& source) {
  std::array<std::uint8_t, 40> ip{};
  const bool v4 = source.find(':') == std::string::npos;
  EXPECT_EQ(inet_pton(v4 ? AF_INET : AF_INET6, source.c_str(), ip.data() + (v4 ? 12 : 8)), 1);
  return peers.allow(ip.data(), v4 ? 4 : 6);
}

Peers peers(const std::vector<std::string>& words) {
  std::vector<Network> networks;
  for (const std::string& word : words) networks.push_back(Network::parse(word).value());
  return Peers(networks);
}

TEST(Peers, WithoutAListAreAll) {
  EXPECT_TRUE(allowed({}, "192.0.2.1"));
  EXPECT_TRUE(allowed({}, "2001:db8::1"));
}

TEST(Peers, AreThoseOfTheNetworksAndNoOthers) {
  const Peers some = peers({"10.77.0.0/23", "192.0.2.7", "2001:db8:8000::/33", "fd00::1"});
  for (const char* in : {"10.77.0.0", "10.77.1.255", "192.0.2.7", "2001:db8:8000::1",
                         "2001:db8:ffff:ffff::", "fd00::1"})
    EXPECT_TRUE(allowed(some, in)) << in;
  for (const char* out : {"10.77.2.0", "10.76.255.255", "192.0.2.6", "2001:db8:7fff::1", "fd00::2",
                          "::ffff:10.78.0.0", "::1"})
    EXPECT_FALSE(allowed(some, out)) << out;
  EXPECT_FALSE(allowed(peers({"0.0.0.0/0"}), "2001:db8::1")) << "a list for one family";
  EXPECT_TRUE(allowed(peers({"0.0.0.0/0"}), "203.0.113.1"));
  EXPECT_FALSE(allowed(peers({"::/96"}), "0.0.0.1"));
}

TEST(Peers, AreWrittenWithoutSurprises) {
  for (const char* bad : {"", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "fd00::/129",
                          "fd00::1/64", "host", "10.0.0", "10.0.0.0/8 ", "10.0.0.0/8/8"})
    EXPECT_FALSE(Network::parse(bad)) << bad;
}

}  // namespace
}  // namespace psp::datapath::test
