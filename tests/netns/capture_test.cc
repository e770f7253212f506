// SPDX-License-Identifier: Apache-2.0
//
// pspctl capture beside real secured connections: what is in the file, who gets keys and which, and
// that psp-pcap and Wireshark can read it all; and what tcpdump makes of them.
//
// The programs run as processes in the namespace of host A. The oracle is what the sockets have
// sent: it must be found in what was opened with the keys, and nowhere else. The threat is a key
// too many: for another connection, for who is not root of the host, in a log, or in a file that
// others can read. tcpdump and tshark are asked where they are installed.
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <grp.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/state_table.h"
#include "pcap/keys.hh"

#include "container.hh"

namespace psp::lab {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;
constexpr auto npos = std::string::npos;

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream all;
  all << file.rdbuf();
  return std::move(all).str();
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
}

std::string text_of(const Octets& octets) { return {octets.begin(), octets.end()}; }

std::string hex(const KeyInfo& key) {
  std::string text;
  for (const std::uint8_t octet : key.key.span()) text += fmt::format("{:02x}", octet);
  return text;
}

// Program is a program of this build in a namespace, its output in a file. `in` is what it reads,
// if that is not what this program does.
class Program {
 public:
  Program(const Netns& netns, const std::string& path, const Words& words, const std::string& out,
          int in = STDIN_FILENO) {
    Words all{path};
    all.insert(all.end(), words.begin(), words.end());
    std::vector<char*> argv;
    for (std::string& word : all) argv.push_back(word.data());
    argv.push_back(nullptr);
    const InNetns inside(netns);
    pid_ = ::fork();
    if (pid_ != 0) return;
    const int fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(in, STDIN_FILENO);
    ::dup2(fd, STDOUT_FILENO);
    ::dup2(fd, STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ~Program() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    wait();
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  int interrupt() {
    ::kill(pid_, SIGINT);
    return wait();
  }
  int wait() {
    int status = 0;
    if (pid_ > 0) ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
};

// Captures share one lab, whose pspd at A allows what `options` say.
class CaptureLab : public testing::Test {
 protected:
  static void start(const Words& options) {
    if (missing()) return;
    lab_ = std::make_unique<Lab>();
    lab_->start(From::kA, options);
    lab_->start(From::kB);
  }
  static void TearDownTestSuite() { lab_.reset(); }
  void SetUp() override {
    PSP_NEEDS_LAB();
    const std::string pattern = testing::TempDir() + "captureXXXXXX";
    std::vector<char> name(pattern.begin(), pattern.end());
    name.push_back('\0');
    directory_ = ::mkdtemp(name.data());
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  Words words(const Words& more = {}) const {
    Words all{"capture", "--dev", "eth0", "-w", path("eth0.pcapng")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Words with_keys() const { return words({"--key-log", path("keys")}); }
  // begin starts a capture and waits until it runs.
  std::unique_ptr<Program> begin(const Words& arguments) {
    auto program = std::make_unique<Program>(lab_->ns(From::kA), PSPCTL_PATH, arguments, said());
    EXPECT_TRUE(eventually([&] { return !content(path("eth0.pcapng")).empty(); }))
        << content(said());
    return program;
  }
  int run(const Words& arguments) {
    return Program(lab_->ns(From::kA), PSPCTL_PATH, arguments, said()).wait();
  }
  std::string said() const { return path("said"); }

  int psp_pcap(const std::string& arguments) const {
    return std::system(fmt::format("{} {} 2>{}", PSP_PCAP_PATH, arguments, path("log")).c_str()) >>
           8;
  }
  Json checked() const {
    EXPECT_EQ(psp_pcap(fmt::format("check --json --key-log {} -r {} >{}", path("keys"),
                                   path("eth0.pcapng"), path("check.json"))),
              0)
        << content(said()) << content(path("log")) << content(path("check.json"));
    return Json::parse(content(path("check.json")));
  }
  void exchange(const Connection& connection, const Octets& there, const Octets& back) {
    send_all(connection.a.get(), there);
    EXPECT_EQ(receive(connection.b.get(), there.size()), there);
    send_all(connection.b.get(), back);
    EXPECT_EQ(receive(connection.a.get(), back.size()), back);
  }

  static inline std::unique_ptr<Lab> lab_;
  std::string directory_;
};

class Captures : public CaptureLab {
 protected:
  static void SetUpTestSuite() { start({"--allow-key-export"}); }
};

class CapturesWithoutKeys : public CaptureLab {
 protected:
  static void SetUpTestSuite() { start({}); }
};

constexpr std::size_t kMuch = 300'000;  // sent in frames that are many packets on the wire

TEST_F(Captures, KeysOpenWhatWasCaptured) {
  const auto program = begin(with_keys());
  std::vector<Octets> sent;
  std::vector<KeyInfo> keys;
  for (const Kind kind : {Kind::kIpv4, Kind::kIpv6}) {
    const Connection connection = lab_->connect(kind);
    Secured secured = secure(*lab_, connection);
    keys.push_back(std::move(secured.a_rx));
    keys.push_back(std::move(secured.b_rx));
    sent.push_back(random_octets(kMuch));
    sent.push_back(random_octets(kMuch));
    exchange(connection, sent.rbegin()[1], sent.back());
  }
  EXPECT_EQ(program->interrupt(), 0) << content(said());

  const Json report = checked();
  EXPECT_EQ(report["flows"].size(), 4u);
  for (const Json& flow : report["flows"]) {
    EXPECT_GE(flow["icv-good"], kMuch / 1500) << "packets one by one, as on the wire";
    EXPECT_EQ(flow["icv-unchecked"], 0);
    EXPECT_EQ(flow["udp-checksum-wrong"], 0);
    EXPECT_EQ(flow["inner-checksum-wrong"], 0);
  }
  ASSERT_EQ(psp_pcap(fmt::format("decrypt --key-log {} -r {} -w {}", path("keys"),
                                 path("eth0.pcapng"), path("clear.pcapng"))),
            0)
      << content(path("log"));
  const std::string sealed = content(path("eth0.pcapng")), clear = content(path("clear.pcapng"));
  for (const Octets& octets : sent) {
    const std::string start_of_text = text_of(octets).substr(0, 500);
    EXPECT_EQ(sealed.find(start_of_text), std::string::npos);
    EXPECT_NE(clear.find(start_of_text), std::string::npos);
  }
  EXPECT_EQ(mode_of(path("keys")), 0600u);
  EXPECT_EQ(mode_of(path("eth0.pcapng")), 0600u);
  const std::string log = content(path("keys"));
  for (const KeyInfo& key : keys) EXPECT_NE(log.find(hex(key)), std::string::npos);
}

TEST_F(Captures, OfTcpdumpHoldJoinedDatagramsThatAreTakenApart) {
  const std::string tcpdump = "/usr/bin/tcpdump";
  if (::access(tcpdump.c_str(), X_OK) != 0) GTEST_SKIP() << "needs tcpdump";
  const auto program = begin(with_keys());  // for the keys
  Program dump(lab_->ns(From::kA), tcpdump,
               {"-Z", "root", "-U", "-i", "eth0", "-w", path("td.pcap"), "udp", "port", "1000"},
               path("td.said"));
  ASSERT_TRUE(eventually(
      [&] { return content(path("td.said")).find("listening on") != std::string::npos; }));
  const Octets sent = random_octets(kMuch);
  {
    const Connection connection = lab_->connect(Kind::kIpv4);
    secure(*lab_, connection);
    exchange(connection, sent, random_octets(kMuch));
  }
  const auto check = [&] {
    return psp_pcap(fmt::format("check --json --key-log {} -r {} >{}", path("keys"),
                                path("td.pcap"), path("td.json")));
  };
  ASSERT_TRUE(eventually([&] {  // tcpdump gets packets when the kernel hands over a block
    if (check() != 0) return false;
    const Json now = Json::parse(content(path("td.json")));
    return now["flows"].size() == 2 && now["flows"][0]["octets"] > kMuch;
  })) << content(path("log"))
      << content(path("td.json"));
  EXPECT_EQ(dump.interrupt(), 0);
  EXPECT_EQ(program->interrupt(), 0) << content(said());
  EXPECT_EQ(check(), 0) << content(path("log"));
  const Json report = Json::parse(content(path("td.json")));
  EXPECT_GE(report["joined"], 1) << "else this shows nothing";
  EXPECT_GT(report["psp"], report["packets"]);
  for (const Json& flow : report["flows"]) {
    EXPECT_GE(flow["icv-good"], 1);
    EXPECT_EQ(flow["icv-wrong"], 0);
  }
  ASSERT_EQ(psp_pcap(fmt::format("decrypt --key-log {} -r {} -w {}", path("keys"), path("td.pcap"),
                                 path("clear.pcap"))),
            0)
      << content(path("log"));
  EXPECT_NE(content(path("clear.pcap")).find(text_of(sent).substr(0, 500)), std::string::npos);
}

TEST_F(Captures, AreOpenedByWireshark) {
  if (std::system("command -v tshark >/dev/null") != 0) GTEST_SKIP() << "needs tshark";
  const auto program = begin(with_keys());
  for (const Kind kind : {Kind::kIpv4, Kind::kIpv6}) {
    const Connection connection = lab_->connect(kind);
    secure(*lab_, connection);
    exchange(connection, octets_of("a question to be found"), octets_of("an answer to be found"));
  }
  EXPECT_EQ(program->interrupt(), 0) << content(said());
  const std::string command = fmt::format(
      "HOME={0} tshark -n -X lua_script:{1}/wireshark/psp.lua -o psp.keylog:{0}/keys -r "
      "{0}/eth0.pcapng -T fields -e psp.icv.status -e tcp.payload >{0}/fields 2>{0}/log",
      directory_, PSP_SOURCE_DIR);
  ASSERT_EQ(std::system(command.c_str()), 0) << content(path("log"));
  std::istringstream lines(content(path("fields")));
  std::size_t packets = 0;
  std::string payloads;
  for (std::string line; std::getline(lines, line); ++packets) {
    EXPECT_TRUE(line.starts_with("1")) << line;
    payloads += line;
  }
  EXPECT_GE(packets, 3u);
  for (const std::string text : {"a question to be found", "an answer to be found"}) {
    std::string digits;
    for (const char letter : text) digits += fmt::format("{:02x}", letter);
    EXPECT_NE(payloads.find(digits), payloads.rfind(digits)) << text << ": in both families";
  }
}

TEST_F(Captures, HoldNoKeysUnlessAsked) {
  const std::size_t said_before = lab_->pspd(From::kA).log().size();
  const auto program = begin(words());
  const Connection connection = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, connection);
  exchange(connection, random_octets(5000), random_octets(5000));
  EXPECT_EQ(program->interrupt(), 0);
  const std::string all = content(path("eth0.pcapng")) + content(said()) +
                          lab_->pspd(From::kA).log() + lab_->pspd(From::kB).log();
  for (const KeyInfo* key : {&keys.a_rx, &keys.b_rx}) {
    const auto octets = key->key.span();
    EXPECT_EQ(all.find(std::string(octets.begin(), octets.end())), std::string::npos);
    EXPECT_EQ(all.find(hex(*key)), std::string::npos);
  }
  EXPECT_EQ(lab_->pspd(From::kA).log().find("KEY EXPORT", said_before), std::string::npos);
}

// in_memory: is it anywhere in the memory of a process?
bool in_memory(pid_t pid, const std::string& octets) {
  std::ifstream maps(fmt::format("/proc/{}/maps", pid)), memory(fmt::format("/proc/{}/mem", pid));
  for (std::string line; std::getline(maps, line);) {
    std::size_t from = 0, to = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%zx-%zx %4s", &from, &to, mode) != 3 || mode[0] != 'r') continue;
    std::string all(to - from, '\0');
    memory.clear();
    memory.seekg(static_cast<std::streamoff>(from));
    memory.read(all.data(), static_cast<std::streamsize>(all.size()));
    all.resize(static_cast<std::size_t>(memory.gcount()));
    if (all.find(octets) != std::string::npos) return true;
  }
  return false;
}

TEST_F(Captures, HaveKeysThatNoPspCatHasInItsMemoryWhileItUsesThem) {
  const auto program = begin(with_keys());
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const Words first_use{"--insecure-first-use"};
  Words listen = first_use, dial = first_use;
  listen.insert(listen.end(), {"-l", "7000"});
  dial.insert(dial.end(), {Lab::address(From::kB, Kind::kIpv4), "7000"});
  const Program server(lab_->ns(From::kB), PSP_CAT_PATH, listen, path("server"), read_end.get());
  ASSERT_TRUE(eventually([&] { return content(path("server")).find("listening") != npos; }));
  const Program client(lab_->ns(From::kA), PSP_CAT_PATH, dial, path("client"), read_end.get());
  const auto connected = [&](const char* name) {
    return content(path(name)).find("by PSP") != npos;
  };
  ASSERT_TRUE(eventually([&] { return connected("server") && connected("client"); }))
      << content(path("server")) << content(path("client"));
  ASSERT_EQ(::write(write_end.get(), "hello", 5), 5);
  ASSERT_TRUE(eventually(
      [&] { return (content(path("server")) + content(path("client"))).find("hello") != npos; }));
  EXPECT_EQ(program->interrupt(), 0) << content(said());
  const auto keys = pcap::parse_key_log(content(path("keys")));
  ASSERT_TRUE(keys) << keys.error();
  EXPECT_GE(keys->size(), 2u) << "of both directions";
  for (const pid_t pid : {server.pid(), client.pid()}) {
    EXPECT_TRUE(in_memory(pid, "--insecure-first-use")) << "nothing is found at all";
    for (const pcap::KeyEntry& entry : *keys) {
      const auto key = entry.key.span();
      EXPECT_FALSE(in_memory(pid, {key.begin(), key.end()}));
    }
  }
}

TEST_F(Captures, LogWhoGotWhichKeysAndGiveNoOthers) {
  const Connection other = lab_->connect(Kind::kIpv4);
  const Secured quiet = secure(*lab_, other);
  exchange(other, random_octets(100), random_octets(100));
  eventually([] { return false; }, 300ms);  // its last acknowledgements are on their way
  const auto program = begin(with_keys());
  const pid_t pid = program->pid();
  const Connection connection = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, connection);
  exchange(connection, random_octets(100), random_octets(100));
  EXPECT_EQ(program->interrupt(), 0);

  const std::string written = content(path("keys"));
  EXPECT_EQ(std::ranges::count(written, '\n'), 2);
  const std::string& log = lab_->pspd(From::kA).log();
  for (const auto& [direction, key] : {std::pair{"Rx", &keys.a_rx}, std::pair{"Tx", &keys.b_rx}})
    EXPECT_NE(log.find(fmt::format("KEY EXPORT: uid 0, pid {} was given the {} key of SPI {:08x}",
                                   pid, direction, key->spi.value)),
              std::string::npos)
        << log;
  for (const KeyInfo* key : {&keys.a_rx, &keys.b_rx, &quiet.a_rx, &quiet.b_rx})
    EXPECT_EQ(log.find(hex(*key)), std::string::npos);
  for (const KeyInfo* key : {&quiet.a_rx, &quiet.b_rx})
    EXPECT_EQ(written.find(hex(*key)), std::string::npos);
}

TEST_F(CapturesWithoutKeys, AreAllThatPspdAllowsByDefault) {
  Words arguments = with_keys();
  arguments.insert(arguments.end(), {"--duration", "1s"});
  EXPECT_EQ(run(arguments), 5);
  EXPECT_NE(content(said()).find("pspd was not started with --allow-key-export"), std::string::npos)
      << content(said());
  EXPECT_FALSE(std::filesystem::exists(path("keys")));
  EXPECT_FALSE(std::filesystem::exists(path("eth0.pcapng")));
  EXPECT_NE(lab_->pspd(From::kA).log().find("uid 0, pid "), std::string::npos);
}

TEST_F(Captures, GetNoKeysForAnybodyButRoot) {
  const InNetns inside(lab_->ns(From::kA));
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)
      ::_exit(254);
    auto client = Client::connect_daemon("@softpsp");
    if (!client) ::_exit(253);
    const auto key = captured_key(*client, {});
    ::_exit(key ? 0 : key.error().sys_errno);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), EPERM);
}

TEST_F(Captures, OfAContainerGiveKeysToTheHostOnly) {
  Container box(*lab_);
  ASSERT_TRUE(box.associate());
  Client client = box.client();
  const auto refused = captured_key(client, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().sys_errno, EPERM) << "root in a container is not root of the host";

  const auto program = begin(with_keys());
  const Connection connection = box.connect(Kind::kIpv4);
  box.secure(connection);
  exchange(connection, random_octets(kMuch), random_octets(kMuch));
  EXPECT_EQ(program->interrupt(), 0) << content(said());
  for (const Json& flow : checked()["flows"]) EXPECT_EQ(flow["icv-unchecked"], 0);

  std::filesystem::remove(path("eth0.pcapng"));
  const auto inside = std::make_unique<Program>(box.ns(), PSPCTL_PATH, words(), said());
  ASSERT_TRUE(eventually([&] { return !content(path("eth0.pcapng")).empty(); }));
  exchange(connection, random_octets(2000), random_octets(2000));
  EXPECT_EQ(inside->interrupt(), 0) << content(said());
  EXPECT_GE(checked()["psp"], 2) << "the container's own view, with the keys that the host got";
}

TEST_F(Captures, EndByCountAndCutPackets) {
  const auto program = begin(words({"--count", "3", "--snaplen", "80", "--filter", "ip or ip6"}));
  const Connection connection = lab_->connect(Kind::kIpv4);
  secure(*lab_, connection);
  exchange(connection, random_octets(10000), random_octets(10000));
  EXPECT_EQ(program->wait(), 0);
  EXPECT_NE(content(said()).find("eth0: 3 packets, "), std::string::npos) << content(said());
  EXPECT_EQ(psp_pcap(fmt::format("explain --json -r {} >{}", path("eth0.pcapng"), path("json"))),
            0);
  const std::string explained = content(path("json"));
  EXPECT_EQ(std::ranges::count(explained, '\n'), 3) << explained;
  EXPECT_NE(explained.find("cut short by the capture"), std::string::npos) << explained;
}

TEST_F(Captures, ShowWhatFailedAndWhy) {
  const auto program = begin(words({"--failed"}));
  const Connection connection = lab_->connect(Kind::kIpv4);
  const Secured keys = secure(*lab_, connection);
  const KeyInfo forged{keys.a_rx.spi, random_key(Version::kAesGcm128).key};
  for (int i = 0; i < 1000; ++i)
    lab_->cable().send(From::kB, seal(clear_packet(connection.flow, From::kB, {.seq = 1}),
                                      with(Version::kAesGcm128, forged)));
  ASSERT_TRUE(eventually([&] { return lab_->drops(From::kA, "AUTH_FAIL") >= 1000; }));
  exchange(connection, random_octets(3000), random_octets(3000));
  EXPECT_EQ(program->interrupt(), 0) << content(said());
  const std::string file = content(path("eth0.pcapng"));
  EXPECT_NE(file.find("AUTH_FAIL: ICV does not match"), std::string::npos);
  ASSERT_EQ(psp_pcap(fmt::format("explain --json -r {} >{}", path("eth0.pcapng"), path("json"))),
            0);
  const std::string explained = content(path("json"));
  const auto packets = std::ranges::count(explained, '\n');
  EXPECT_GE(packets, 1);
  EXPECT_LE(packets, 4 * 64) << "so many a second, and not all 1000";
  EXPECT_NE(explained.find(fmt::format("\"spi\":\"{:08x}\"", forged.spi.value)), std::string::npos)
      << explained;
}

TEST_F(Captures, RefuseWhatCannotBeDone) {
  EXPECT_EQ(run({"capture", "-w", path("x")}), 2);
  EXPECT_EQ(run(words({"--filter", "no such words"})), 2);
  EXPECT_EQ(run({"capture", "--dev", "nothing0", "-w", path("x")}), 1);
  std::ofstream(path("open")) << "others can read this\n";
  ::chmod(path("open").c_str(), 0644);
  EXPECT_EQ(run(words({"--key-log", path("open"), "--duration", "1s"})), 1);
  EXPECT_EQ(content(path("open")), "others can read this\n");
  EXPECT_FALSE(std::filesystem::exists(path("eth0.pcapng")));
  EXPECT_EQ(run({"capture", "--dev", "eth0", "-w", "/dev/full", "--duration", "5s"}), 1);
  EXPECT_NE(content(said()).find("/dev/full: cannot write: No space left on device"),
            std::string::npos)
      << content(said());
  EXPECT_EQ(run(words({"--duration", "1s", "--json"})), 0);
  const Json summary = Json::parse(content(said()));
  EXPECT_EQ(summary["packets"], 0);
  EXPECT_EQ(summary["dropped"], 0);
}

}  // namespace
}  // namespace psp::lab
