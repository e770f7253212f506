// SPDX-License-Identifier: Apache-2.0
//
// pspctl dev assoc and disassoc: netdevs and network namespaces by their names, and how devices
// with associated netdevs are shown. The server is the real one, over a core with fake drivers
// (FakePspd).
//
// A namespace of another's is that of a thread which the test holds; without the right to make one
// that test is skipped. That packets of a container are then sealed is tested in
// tests/netns/container_test.cc.
#include <algorithm>
#include <future>
#include <sched.h>
#include <sstream>
#include <thread>
#include <unistd.h>

#include "pspctl_fixture.hh"

namespace psp::ctl {
namespace {

using ::testing::EndsWith;

// OtherNetns is a new network namespace: that of a thread which lives as long as this.
class OtherNetns {
 public:
  OtherNetns() {
    std::promise<int> ready;
    thread_ = std::thread([this, &ready] {
      ready.set_value(unshare(CLONE_NEWNET) == 0 ? gettid() : -1);
      done_.get_future().wait();
    });
    id_ = ready.get_future().get();
  }
  ~OtherNetns() {
    done_.set_value();
    thread_.join();
  }
  bool made() const { return id_ > 0; }
  std::string path() const { return "/proc/self/task/" + std::to_string(id_) + "/ns/net"; }

 private:
  std::promise<void> done_;
  std::thread thread_;
  int id_ = -1;
};

TEST_F(Pspctl, AssociatesANetdevOfAnotherNamespace) {
  const OtherNetns other;
  if (!other.made()) GTEST_SKIP() << "needs CAP_SYS_ADMIN, to make a network namespace";
  pspd.start();
  const std::vector<std::string> words = {"id", "2", "netdev", "lo", "netns", other.path()};
  const auto command = [&](const char* verb) {
    std::vector<std::string> all = {"dev", verb};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  };
  EXPECT_EQ(text(command("assoc")), "");
  const auto device = json({"dev", "show", "id", "2"})[0];
  const int nsid = device["assoc-list"][0]["nsid"];
  EXPECT_GE(nsid, 0);
  EXPECT_EQ(device["assoc-list"][0]["ifindex"], 1);
  EXPECT_EQ(device["assoc-list"][0]["ifname"], "lo");  // asked for there
  EXPECT_THAT(text({"-o", "dev", "show", "id", "2"}),
              EndsWith("psp-versions-ena none\\    assoc lo ifindex 1 nsid " +
                       std::to_string(nsid) + "\n"));
  fails(command("assoc"), ExitStatus::kFailed,
        "dev assoc id 2: Device already associated with a PSP device");
  // By its number it is the same one.
  EXPECT_EQ(text({"dev", "disassoc", "id", "2", "netdev", "lo", "nsid", std::to_string(nsid)}), "");
  EXPECT_FALSE(json({"dev", "show", "id", "2"})[0].contains("assoc-list"));
  fails(command("disassoc"), ExitStatus::kFailed,
        "dev disassoc id 2: No such device (bad attribute .ifindex)");
}

TEST_F(Pspctl, TellsWhatCannotBeAssociated) {
  pspd.start();
  const std::string self = "/proc/self/ns/net";
  for (const std::vector<std::string>& place : std::vector<std::vector<std::string>>{
           {}, {"netns", self}, {"pid", std::to_string(getpid())}}) {
    std::vector<std::string> words = {"dev", "assoc", "id", "2", "netdev", "lo"};
    words.insert(words.end(), place.begin(), place.end());
    fails(words, ExitStatus::kFailed,
          "dev assoc id 2: Device already associated with a PSP device");
  }
  fails({"dev", "assoc", "lo", "netdev", "no-such0"}, ExitStatus::kFailed,
        "dev assoc lo: netdev no-such0: no such network interface");
  fails({"dev", "assoc", "lo", "netdev", "lo", "nsid", "54321"}, ExitStatus::kFailed,
        "dev assoc lo: netdev lo nsid 54321: no such network namespace");
  fails({"dev", "assoc", "lo", "netdev", "lo", "netns", "no-such"}, ExitStatus::kFailed,
        "netns no-such: no such network namespace; see ip netns");
  fails({"dev", "assoc", "lo", "netdev", "lo", "pid", "0"}, ExitStatus::kFailed,
        "pid 0: no such process");
  fails({"dev", "assoc", "lo"}, ExitStatus::kUsage, "dev assoc: netdev NAME is missing");
  fails({"dev", "disassoc", "lo", "netdev"}, ExitStatus::kUsage,
        "NAME behind \"netdev\" is missing");
  fails({"dev", "assoc", "lo", "netdev", "lo", "nsid", "x"}, ExitStatus::kUsage,
        "\"x\" is no nsid");
  fails({"dev", "assoc", "lo", "netdev", "lo", "in"}, ExitStatus::kUsage,
        "\"in\" is not expected here");
}

TEST_F(Pspctl, ShowsADeviceThatIsVisibleByAssociation) {
  // As a container sees it: its own lo uses a device whose main netdev is elsewhere.
  device::FakeDriver driver;
  const auto id = pspd.core.add_device({77, 5}, "eth0", VersionSet{0x1}, driver).value();
  ASSERT_TRUE(pspd.core.dev_assoc(77, id, 1, 3).has_value());
  pspd.netns = 103;  // nsid 3 of the fake
  pspd.start();
  EXPECT_EQ(text({"dev"}),
            "3: lo: by-association\n"
            "    psp-versions-cap hdr0-aes-gcm-128\n"
            "    psp-versions-ena none\n"
            "    assoc lo ifindex 1\n");
  EXPECT_EQ(text({"-j", "dev", "show", "lo"}),
            R"([{"id":3,"ifname":"lo","by-association":true,)"
            R"("psp-versions-cap":["hdr0-aes-gcm-128"],"psp-versions-ena":[],)"
            R"("assoc-list":[{"ifname":"lo","ifindex":1,"nsid":-1}]}])"
            "\n");
  fails({"dev", "set", "lo", "psp-versions-ena", "0"}, ExitStatus::kFailed,
        "dev set lo: No such file or directory");
  EXPECT_EQ(json({"stats"})[0]["ifname"], "lo");
  // Nor may it reach into other namespaces.
  fails({"netlink", "dev-assoc", "--json", R"({"id":3,"ifindex":1,"nsid":4})"},
        ExitStatus::kPermission, "dev-assoc: Operation not permitted (bad attribute .nsid)");
}

TEST_F(Pspctl, MonitorsAssociations) {
  pspd.start();
  auto monitor = std::async(std::launch::async, [this] {
    return call_pspd({"-j", "monitor", "count", "2"}).out;
  });
  pspd.wait_for_member();
  text({"netlink", "dev-assoc", "--json", R"({"id":2,"ifindex":1,"nsid":9})"});
  // Of the kernels' ways to tell of this the newer one: afterwards.
  pspd.core.set_compat(device::Compat::kNetNext);
  text({"netlink", "dev-disassoc", "--json", R"({"id":2,"ifindex":1,"nsid":9})"});
  std::istringstream lines(monitor.get());
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  const auto event = nlohmann::json::parse(line);
  EXPECT_EQ(event["name"], "dev-change-ntf");
  EXPECT_EQ(event["assoc-list"][0]["nsid"], 9);
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_FALSE(nlohmann::json::parse(line).contains("assoc-list"));
}

}  // namespace
}  // namespace psp::ctl
