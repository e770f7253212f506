// SPDX-License-Identifier: Apache-2.0
//
// psp-cat as a program, without pspd: usage, exit statuses, and transfers that stay on TLS, which
// take the same way through the program as those under PSP.
//
// Each test forks the real psp-cat, mostly two of them over loopback, and looks at what a user
// sees: exit status, standard error, the octets that arrive. Peers that misbehave are sockets of
// the test. No root is needed, and no packet is sealed: PSP itself is in tests/tls/psp_cat_test.cc.
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "running_cat.hh"

namespace psp::cat {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// kNoPspd is a socket where nobody listens.
const std::string kNoPspd = "@psp-cat-test-nobody";

class PspCat : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/psp-cat-test-XXXXXX";
    directory_ = mkdtemp(name);
    null_ = open("/dev/null", O_RDWR | O_CLOEXEC);
    std::signal(SIGPIPE, SIG_IGN);
  }
  void TearDown() override {
    close(null_);
    std::filesystem::remove_all(directory_);
  }
  std::string file(const std::string& name) const { return directory_ + "/" + name; }
  std::string write_file(const std::string& name, const std::string& content) const {
    std::ofstream(file(name)) << content;
    chmod(file(name).c_str(), 0600);
    return file(name);
  }
  static std::string content(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static std::string some_data(std::size_t size) {
    std::string out(size, '\0');
    std::uint32_t state = 1;
    for (char& c : out) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
    return out;
  }
  // tls is the arguments of an end that has no PSP and may stay on TLS.
  static Args tls(const Args& more) {
    Args args{"--socket", kNoPspd, "--allow-tls"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static int connect_to(const std::string& port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(port)));
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static nlohmann::json summary(const Cat& cat) {
    const std::size_t at = cat.said().rfind("\n{");
    return nlohmann::json::parse(cat.said().substr(at == std::string::npos ? 0 : at + 1), nullptr,
                                 false);
  }

  std::string directory_;
  int null_ = -1;
};

TEST_F(PspCat, WrongArgumentsAreUsageErrorsInOneLine) {
  const Args table[] = {
      {},
      {"host"},
      {"-l"},
      {"-l", "a", "b", "c"},
      {"host", "1", "--no-such-option"},
      {"-4", "-6", "host", "1"},
      {"--psp-version", "7", "host", "1"},
      {"--version", "0", "host", "1"},
      {"--protocol", "ike", "host", "1"},
      {"--protocol", "fizz-v0", "host", "1"},
      {"--protocol", "fizz-v0", "--psp-version", "0", "--allow-tls", "host", "1"},
      {"--psp-version", "aes-gcm-512", "host", "1"},
      {"--timeout", "0", "host", "1"},
      {"--send-only", "--recv-only", "host", "1"},
      {"--cert", "a.pem", "host", "1"},
      {"--psk-file", "/nonexistent", "host", "1"},
      {"--insecure-first-use", "--psk-file", "/nonexistent", "host", "1"},
      {"-l", "1", "--mutual"},
      {"--protocol", "kernel-selftest", "--psp-version", "0", "--psk-file", "/dev/null", "host",
       "1"},
      {"--protocol", "kernel-selftest", "--psp-version", "0", "--ca", "/dev/null", "host", "1"},
      {"--protocol", "kernel-selftest", "--psp-version", "0", "--cert", "a", "--key", "b", "-l",
       "1"},
      {"--protocol", "kernel-selftest", "--psp-version", "0", "--insecure-first-use", "host", "1"},
      {"host", "1", "--ca", "/nonexistent", "--mutual"},
  };
  for (const Args& args : table) {
    Cat cat(args, null_, null_);
    EXPECT_EQ(cat.status(), 2) << fmt::format("{}", fmt::join(args, " "));
    EXPECT_THAT(cat.said(), ::testing::StartsWith("psp-cat: error: "));
    EXPECT_EQ(std::count(cat.said().begin(), cat.said().end(), '\n'), 1) << cat.said();
  }
}

TEST_F(PspCat, VersionsThatDoNotEncryptAreNamedAndWarnedOfAtTheStart) {
  const std::string warning = "warning: hdr0-aes-gmac-128, hdr0-aes-gmac-256 would NOT encrypt";
  Cat named(tls({"127.0.0.1", "1", "-q", "--psp-version", "2,3,1"}), null_, null_);
  EXPECT_EQ(named.status(), 1);
  EXPECT_THAT(named.said(), HasSubstr(warning));
  Cat all(tls({"127.0.0.1", "1", "--psp-version", "all"}), null_, null_);
  EXPECT_EQ(all.status(), 1);
  EXPECT_THAT(all.said(), Not(HasSubstr("NOT encrypt"))) << "all are those that encrypt";
}

TEST_F(PspCat, VersionIsThatOfTheProgram) {
  const int out = open(file("version").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  Cat cat({"--version"}, null_, out);
  EXPECT_EQ(cat.status(), 0);
  close(out);
  EXPECT_THAT(content(file("version")), ::testing::StartsWith("psp-cat of softpsp "));
}

TEST_F(PspCat, HelpTeachesByExample) {
  const int out = open(file("help").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  Cat cat({"--help"}, null_, out);
  EXPECT_EQ(cat.status(), 0);
  close(out);
  EXPECT_THAT(content(file("help")), HasSubstr("psp-cat host 7000 < file"));
}

TEST_F(PspCat, WithoutPspdItSaysSoBeforeItConnects) {
  for (const Args& args : {Args{"127.0.0.1", "1"}, Args{"-l", "0"}}) {
    Args all{"--socket", kNoPspd};
    all.insert(all.end(), args.begin(), args.end());
    Cat cat(all, null_, null_);
    EXPECT_EQ(cat.status(), 3);
    EXPECT_THAT(cat.said(), HasSubstr("no PSP on this host"));
    EXPECT_THAT(cat.said(), Not(HasSubstr("listening")));
  }
}

TEST_F(PspCat, ARefusedConnectionIsAFailure) {
  Cat cat(tls({"127.0.0.1", "1"}), null_, null_);
  EXPECT_EQ(cat.status(), 1);
  EXPECT_THAT(cat.said(), HasSubstr("Connection refused"));
}

TEST_F(PspCat, AFileArrivesWholeInBothDirections) {
  const std::string there = some_data(3'000'001), back = some_data(1'000'003);
  const int in = open(write_file("there", there).c_str(), O_RDONLY | O_CLOEXEC);
  const int in2 = open(write_file("back", back).c_str(), O_RDONLY | O_CLOEXEC);
  const int out = open(file("got-there").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  const int out2 = open(file("got-back").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  for (const char* host : {"127.0.0.1", "::1"}) {
    if (std::string(host) == "::1" && access("/proc/net/if_inet6", R_OK) != 0) continue;
    Cat listener(tls({"-l", "0", "--json"}), in2, out);
    Cat client(tls({host, listener.port(), "--json"}), in, out2);
    EXPECT_EQ(client.status(), 0) << client.said();
    EXPECT_EQ(listener.status(), 0) << listener.said();
    EXPECT_EQ(content(file("got-there")), there);
    EXPECT_EQ(content(file("got-back")), back);
    const auto json = summary(client);
    EXPECT_EQ(json["state"], "tls");
    EXPECT_EQ(json["psp-version"], "");
    EXPECT_EQ(json["bytes-sent"], there.size());
    EXPECT_EQ(json["bytes-received"], back.size());
    EXPECT_EQ(json["exit-status"], 0);
    EXPECT_EQ(json["authenticated"], false);
    for (int fd : {in, in2, out, out2}) lseek(fd, 0, SEEK_SET);
  }
  for (int fd : {in, in2, out, out2}) close(fd);
}

TEST_F(PspCat, WithoutCredentialsItWarnsAndBothEndsShowTheSameFingerprints) {
  Cat listener(tls({"-l", "0", "-q"}), null_, null_);
  Cat other(tls({"-l", "0"}), null_, null_);
  Cat client(tls({"127.0.0.1", other.port()}), null_, null_);
  EXPECT_EQ(client.status(), 0);
  EXPECT_EQ(other.status(), 0);
  for (const Cat* cat : {&client, &other}) EXPECT_THAT(cat->said(), HasSubstr("NOT authenticated"));
  const auto after = [](const Cat& cat, const std::string& key) {
    const std::size_t at = cat.said().find(key);
    return at == std::string::npos ? "" : cat.said().substr(at + key.size(), 95);
  };
  EXPECT_EQ(after(client, "this end:  SHA256 "), after(other, "other end: SHA256 "));
  EXPECT_EQ(after(other, "this end:  SHA256 "), after(client, "other end: SHA256 "));
}

TEST_F(PspCat, APipeThatIsSharedKeepsItsFlags) {
  int in[2], out[2];
  ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
  Cat listener(tls({"-l", "0"}), null_, out[1]);
  Cat client(tls({"127.0.0.1", listener.port()}), in[0], null_);
  ASSERT_EQ(write(in[1], "hello", 5), 5);
  char buffer[8];
  EXPECT_EQ(read(out[0], buffer, sizeof buffer), 5);
  EXPECT_EQ(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
  close(in[1]);
  EXPECT_EQ(client.status(), 0);
  EXPECT_EQ(listener.status(), 0);
  for (int fd : {in[0], out[0], out[1]}) close(fd);
}

TEST_F(PspCat, NeverSilentlyWithoutPsp) {
  // The listener allows TLS, the client does not say so: with neither pspd the client does not even
  // start; a listener whose client hangs up in front of the exchange fails.
  Cat listener(tls({"-l", "0"}), null_, null_);
  const int fd = connect_to(listener.port());
  ASSERT_EQ(send(fd, "\x16", 1, 0), 1);  // as TLS begins
  close(fd);
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("closed the connection"));
}

TEST_F(PspCat, ASilentPeerIsGivenUp) {
  Cat listener(tls({"-l", "0", "--timeout", "0.2"}), null_, null_);
  const int fd = connect_to(listener.port());
  ASSERT_EQ(send(fd, "\x16", 1, 0), 1);  // as TLS begins, and nothing more
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("gave up after 0.2 s"));
  close(fd);
}

// Flood is a listener that answers its one connection with the same octets without end.
class Flood {
 public:
  explicit Flood(std::string octets) : octets_(std::move(octets)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      while (send(fd, octets_.data(), octets_.size(), MSG_NOSIGNAL) > 0) {
      }
      close(fd);
    });
  }
  ~Flood() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  Flood(const Flood&) = delete;
  Flood& operator=(const Flood&) = delete;
  const std::string& port() const { return port_; }

 private:
  std::string octets_, port_;
  int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::thread thread_;
};

TEST_F(PspCat, APeerThatNeverStopsIsGivenUpAsASilentOneIs) {
  // HelloRequests, which OpenSSL skips in every handshake: they come faster than it can.
  std::string many;
  for (unsigned i = 0; i < 8192; ++i) many.append("\x16\x03\x03\0\4\0\0\0\0", 9);
  const Flood flood(many);
  Cat cat(tls({"127.0.0.1", flood.port(), "--timeout", "0.2"}), null_, null_);
  EXPECT_EQ(cat.status(), 1);
  EXPECT_THAT(cat.said(), HasSubstr("gave up after 0.2 s"));
}

TEST_F(PspCat, StrangersWhoSayNothingDoNotTakeThePlaceOfThePeer) {
  Cat listener(tls({"-l", "0", "--timeout", "20"}), null_, null_);
  const std::string port = listener.port();
  close(connect_to(port));  // as a port scanner does
  std::vector<int> strangers;
  for (int i = 0; i < 100; ++i) strangers.push_back(connect_to(port));
  Cat client(tls({"127.0.0.1", port}), null_, null_);
  EXPECT_EQ(client.status(), 0) << client.said();
  EXPECT_EQ(listener.status(), 0) << listener.said();
  for (int fd : strangers) close(fd);
}

TEST_F(PspCat, AStrangerWhoSaysNothingForTooLongIsHungUpOn) {
  Cat listener(tls({"-l", "0", "--timeout", "0.1"}), null_, null_);
  const int fd = connect_to(listener.port());
  char octet = 0;
  EXPECT_EQ(recv(fd, &octet, 1, 0), 0);
  Cat client(tls({"127.0.0.1", listener.port(), "--timeout", "20"}), null_, null_);
  EXPECT_EQ(client.status(), 0) << client.said();
  EXPECT_EQ(listener.status(), 0) << listener.said();
  close(fd);
}

TEST_F(PspCat, APeerThatSpeaksSomethingElseIsSaidSo) {
  Cat listener(tls({"-l", "0"}), null_, null_);
  const int fd = connect_to(listener.port());
  ASSERT_EQ(send(fd, "hello, I am nc\n", 15, 0), 15);
  // It takes leave politely: it waits a moment for us to hang up.
  shutdown(fd, SHUT_WR);
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("does not speak TLS"));
  close(fd);
}

TEST_F(PspCat, AnotherPskIsAnAuthenticationFailureOnBothEnds) {
  const std::string one = write_file("one", "00112233445566778899aabbccddeeff\n");
  const std::string two = write_file("two", "00112233445566778899aabbccddeefe\n");
  Cat listener(tls({"-l", "0", "--psk-file", one}), null_, null_);
  Cat client(tls({"127.0.0.1", listener.port(), "--psk-file", two}), null_, null_);
  EXPECT_EQ(client.status(), 6) << client.said();
  EXPECT_EQ(listener.status(), 6) << listener.said();
}

TEST_F(PspCat, TheSamePskAuthenticates) {
  const std::string psk = write_file("psk", "00112233445566778899aabbccddeeff\n");
  Cat listener(tls({"-l", "0", "--psk-file", psk, "--json"}), null_, null_);
  Cat client(tls({"127.0.0.1", listener.port(), "--psk-file", psk, "--json"}), null_, null_);
  EXPECT_EQ(client.status(), 0) << client.said();
  EXPECT_EQ(listener.status(), 0) << listener.said();
  EXPECT_EQ(summary(client)["authenticated"], true);
  EXPECT_EQ(summary(listener)["authenticated"], true);
  EXPECT_THAT(client.said(), Not(HasSubstr("NOT authenticated")));
}

TEST_F(PspCat, AFullDiskIsOneSentence) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  const int in = open(write_file("data", some_data(100'000)).c_str(), O_RDONLY | O_CLOEXEC);
  Cat listener(tls({"-l", "0"}), null_, full);
  Cat client(tls({"127.0.0.1", listener.port()}), in, null_);
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("cannot write the output: No space left on device"));
  client.status();
  close(full);
  close(in);
}

TEST_F(PspCat, AReaderThatGoesLeavesPartialOutput) {
  int out[2];
  ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
  const int in = open(write_file("data", some_data(8'000'000)).c_str(), O_RDONLY | O_CLOEXEC);
  Cat listener(tls({"-l", "0"}), null_, out[1]);
  close(out[1]);
  Cat client(tls({"127.0.0.1", listener.port()}), in, null_);
  char buffer[1000];
  EXPECT_GT(read(out[0], buffer, sizeof buffer), 0);
  close(out[0]);
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("its reader has gone; output is partial: "));
  EXPECT_EQ(client.status(), 1) << "what was sent did not all arrive";
  close(in);
}

TEST_F(PspCat, ATransferThatIsCutOffIsNamedPartial) {
  int in[2];
  ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
  int out[2];
  ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
  Cat listener(tls({"-l", "0"}), null_, out[1]);
  Cat client(tls({"127.0.0.1", listener.port()}), in[0], null_);
  ASSERT_EQ(write(in[1], "hello", 5), 5);
  char buffer[8];
  ASSERT_EQ(read(out[0], buffer, sizeof buffer), 5);
  client.kill_it();
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("output is partial: 5 bytes"));
  for (int fd : {in[0], in[1], out[0], out[1]}) close(fd);
}

TEST_F(PspCat, AnInterruptIsAFailureThatCounts) {
  int in[2], out[2];
  ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
  Cat listener(tls({"-l", "0", "--json"}), null_, out[1]);
  Cat client(tls({"127.0.0.1", listener.port()}), in[0], null_);
  ASSERT_EQ(write(in[1], "hello", 5), 5);
  char buffer[8];
  ASSERT_EQ(read(out[0], buffer, sizeof buffer), 5);
  listener.interrupt();
  EXPECT_EQ(listener.status(), 1);
  EXPECT_THAT(listener.said(), HasSubstr("interrupted; output is partial: 5 bytes"));
  EXPECT_EQ(summary(listener)["exit-status"], 1);
  for (int fd : {in[0], in[1], out[0], out[1]}) close(fd);
}

TEST_F(PspCat, AListenerWithoutADescriptorRestsAndGoesOn) {
  Cat listener(tls({"-l", "0"}), null_, null_);
  const std::string port = listener.port();
  listener.let_open(false);
  Cat client(tls({"127.0.0.1", port}), null_, null_);
  const auto before = listener.processor_time();
  std::this_thread::sleep_for(std::chrono::seconds(2));
  EXPECT_LT(listener.processor_time() - before, std::chrono::milliseconds(200));
  listener.let_open(true);
  EXPECT_EQ(client.status(), 0) << client.said();
  EXPECT_EQ(listener.status(), 0) << listener.said();
}

TEST_F(PspCat, OneWayTransfersEnd) {
  const std::string data = some_data(500'000);
  const int in = open(write_file("data", data).c_str(), O_RDONLY | O_CLOEXEC);
  const int out = open(file("got").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  // Standard input of the receiver never ends: --recv-only does not wait for it.
  int never[2];
  ASSERT_EQ(pipe2(never, O_CLOEXEC), 0);
  Cat listener(tls({"-l", "0", "--recv-only"}), never[0], out);
  Cat client(tls({"127.0.0.1", listener.port(), "--send-only"}), in, null_);
  EXPECT_EQ(client.status(), 0) << client.said();
  EXPECT_EQ(listener.status(), 0) << listener.said();
  EXPECT_EQ(content(file("got")), data);
  for (int fd : {in, out, never[0], never[1]}) close(fd);
}

}  // namespace
}  // namespace psp::cat
