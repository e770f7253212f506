// SPDX-License-Identifier: Apache-2.0
//
// Programs that were written for the kernel's `psp` family, run unmodified under libpsp-genl.so
// against the real control socket and server. The programs know nothing of pspd; what they see is
// their business (handwritten.c, mnl_client.c, nl_client.c, client.py).
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <sys/wait.h>

#include "control/delivery.hh"
#include "control/model_daemon.hh"
#include <psp/netlink/uapi.h>

namespace psp {
namespace {

constexpr const char* kAddress = "@softpsp-preload-test";

struct Ended {
  int status = -1;
  std::string output;
};

// Child is a program under the library, with its standard input and output.
class Child {
 public:
  explicit Child(std::vector<std::string> words, const std::string& preload = PSP_GENL_LIBRARY) {
    std::array<int, 2> in{}, out{};
    if (::pipe2(in.data(), O_CLOEXEC) != 0 || ::pipe2(out.data(), O_CLOEXEC) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::dup2(out[1], STDERR_FILENO);
      ::setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 0);  // pspctl may have it
      if (!preload.empty()) ::setenv("LD_PRELOAD", preload.c_str(), 1);
      // pspctl sets it by itself.
      if (words[0] != PSP_PSPCTL) ::setenv("PSP_SOCKET", kAddress, 1);
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    in_ = UniqueFd(in[1]);
    out_ = UniqueFd(out[0]);
    ::close(in[0]);
    ::close(out[1]);
  }
  ~Child() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    (void)wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // line reads up to the next end of line.
  std::string line() {
    std::string text;
    for (char c; ::read(out_.get(), &c, 1) == 1 && c != '\n';) text += c;
    return text;
  }
  void go_on() { (void)!::write(in_.get(), "go\n", 3); }
  Ended wait() {
    Ended ended;
    char buffer[4096];
    for (ssize_t n; (n = ::read(out_.get(), buffer, sizeof buffer)) > 0;)
      ended.output.append(buffer, static_cast<std::size_t>(n));
    if (pid_ > 0) ::waitpid(pid_, &ended.status, 0);
    pid_ = -1;
    return ended;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd in_, out_;
};

Ended run(std::vector<std::string> words, const std::string& preload = PSP_GENL_LIBRARY) {
  return Child(std::move(words), preload).wait();
}

class Preload : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Ports of netlink sockets and abstract addresses are then nobody else's.
    isolated_ = ::unshare(CLONE_NEWNET) == 0;
    if (isolated_) (void)!std::system("ip link set lo up");
  }
  void SetUp() override {
    if (!isolated_) GTEST_SKIP() << "needs CAP_SYS_ADMIN and CAP_NET_ADMIN (a network namespace)";
  }
  void start(std::uint32_t devices = 1) {
    daemon_ = std::make_unique<control::ModelDaemon>(kAddress, devices);
    ASSERT_EQ(daemon_->error(), "");
  }
  void expect_ok(std::vector<std::string> words, const std::string& output = "ok\n") {
    const Ended ended = run(std::move(words));
    EXPECT_EQ(ended.output, output);
    EXPECT_EQ(ended.status, 0);
  }
  static inline bool isolated_ = false;
  std::unique_ptr<control::ModelDaemon> daemon_;
};

// One habit of handwritten.c a test.
class Handwritten : public Preload, public testing::WithParamInterface<const char*> {};

TEST_P(Handwritten, RunsAsOnTheKernel) {
  ASSERT_NO_FATAL_FAILURE(start());
  expect_ok({PSP_HANDWRITTEN, GetParam()});
}

INSTANTIATE_TEST_SUITE_P(Programs, Handwritten,
                         testing::Values("lookup", "families", "batch", "associate", "errors",
                                         "peek", "polling", "connected", "calls", "control",
                                         "threads", "forked", "executed", "closing", "overrun",
                                         "overrun_unheard", "unbound", "ordinary"),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST_F(Preload, APointerToNowhereIsTheKernelsToRefuse) {
  ASSERT_NO_FATAL_FAILURE(start());
  const Ended without = run({PSP_HANDWRITTEN, "bad_pointers"}, "");
  const Ended with = run({PSP_HANDWRITTEN, "bad_pointers"});
  EXPECT_EQ(without.status, 0);
  EXPECT_EQ(with.status, 0);
  EXPECT_NE(without.output.find("write 0: -1 EFAULT\n"), std::string::npos) << without.output;
  EXPECT_EQ(with.output, without.output);
}

TEST_F(Preload, ContinuesADumpAsItIsRead) {
  ASSERT_NO_FATAL_FAILURE(start(2000));
  expect_ok({PSP_HANDWRITTEN, "long_dump"}, "2000 devices\nok\n");
}

TEST_F(Preload, BoundsWhatWaitsForProgramsThatNeverRead) {
  const auto resident = [] {
    std::size_t all = 0, pages = 0;
    FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%zu %zu", &all, &pages) != 2) pages = 0;
    if (file != nullptr) std::fclose(file);
    return static_cast<double>(pages) * 4096 / (1 << 20);
  };
  ASSERT_NO_FATAL_FAILURE(start(2000));
  const double before = resident();
  Child deaf({PSP_HANDWRITTEN, "deaf"});
  EXPECT_EQ(deaf.line(), fmt::format("{} refused", 1500 - control::Delivery::kWaitingMax));
  ASSERT_EQ(deaf.line(), "deaf");
  fmt::print("1500 sockets with a dump of 100 KiB each, never read: RSS {:.1f} -> {:.1f} MiB\n",
             before, resident());
#ifndef PSP_SANITIZED
  EXPECT_LT(resident(), before + 64);  // a sanitizer keeps what was freed
#endif
  expect_ok({PSP_HANDWRITTEN, "lookup"});
  expect_ok({PSP_HANDWRITTEN, "polling"});
  deaf.go_on();
  EXPECT_EQ(deaf.wait().status, 0);
  // What it left is forgotten, so that others have the room.
  for (int i = 0; i < 500 && run({PSP_HANDWRITTEN, "long_dump"}).status != 0; i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  expect_ok({PSP_HANDWRITTEN, "long_dump"}, "2000 devices\nok\n");
}

TEST_F(Preload, HasTheKernelAnswerWhilePspdIsAway) { expect_ok({PSP_HANDWRITTEN, "absent"}); }

TEST_F(Preload, TrustsNoPspdWhereUsersAreNotKnown) {
  ASSERT_NO_FATAL_FAILURE(start());
  if (WEXITSTATUS(run({"unshare", "--user", "true"}, "").status) != 0)
    GTEST_SKIP() << "needs user namespaces";
  // There pspd's user, whoever it is, and the program's own have one and the same number.
  expect_ok({"unshare", "--user", PSP_HANDWRITTEN, "absent"});
  expect_ok({"unshare", "--user", "--map-root-user", PSP_HANDWRITTEN, "lookup"});
}

// Some of that must be the first library, as AddressSanitizer's runtime.
TEST_F(Preload, StandsBehindWhatIsPreloadedAlready) {
  const Ended ended =
      Child({PSP_PSPCTL, "run", "--", "sh", "-c", "echo $LD_PRELOAD"}, "libm.so.6").wait();
  EXPECT_TRUE(ended.output.starts_with("libm.so.6:/")) << ended.output;
  EXPECT_TRUE(ended.output.ends_with("/libpsp-genl.so\n")) << ended.output;
}

#ifdef PSP_ASAN_LIBRARY
TEST_F(Preload, ServesProgramsBuiltWithAddressSanitizerOnceItsLibraryIsFirst) {
  ASSERT_NO_FATAL_FAILURE(start());
  const std::vector<std::string> words{"env", "-u", "ASAN_OPTIONS",       PSP_PSPCTL,
                                       "run", "--", PSP_HANDWRITTEN_ASAN, "lookup"};
  const Ended ended = Child(words, PSP_ASAN_LIBRARY).wait();
  EXPECT_EQ(ended.output, "ok\n");
  EXPECT_EQ(ended.status, 0);
}
#endif

TEST_F(Preload, SurvivesARestartOfPspd) {
  ASSERT_NO_FATAL_FAILURE(start());
  Child child({PSP_HANDWRITTEN, "restart"});
  ASSERT_EQ(child.line(), "stop");
  daemon_.reset();
  child.go_on();
  ASSERT_EQ(child.line(), "start");
  ASSERT_NO_FATAL_FAILURE(start());
  child.go_on();
  const Ended ended = child.wait();
  EXPECT_EQ(ended.output, "ok\n");
  EXPECT_EQ(ended.status, 0);
}

TEST_F(Preload, LookupsAreTheKernelsWhereItHasTheFamily) {
  ASSERT_NO_FATAL_FAILURE(start());
  // The kernel's part is played by a second library, behind ours.
  const Ended ended =
      run({PSP_HANDWRITTEN, "kernel"}, std::string(PSP_GENL_LIBRARY) + ":" + PSP_FAKE_KERNEL);
  EXPECT_EQ(ended.output, "psp is 0x19\nok\n");
  EXPECT_EQ(ended.status, 0);
  EXPECT_EQ(run({PSP_HANDWRITTEN, "kernel"}).output, "psp is 0x5053\nok\n");
}

// Beside: pspd where it is when nobody names it, and a kernel with the family.
class Beside : public Preload {
 protected:
  void start_at(const char* address) {
    daemon_ = std::make_unique<control::ModelDaemon>(address, 1, nullptr, SOFTPSP_FIRST_DEVICE);
    ASSERT_EQ(daemon_->error(), "");
  }
  static Ended run_unnamed(const char* what) {
    return run({"env", "-u", "PSP_SOCKET", PSP_HANDWRITTEN, what}, kBoth);
  }
  static nlohmann::json devices(std::vector<std::string> words) {
    words.insert(words.end(), {"-j", "dev", "show"});
    const Ended ended = run(words, PSP_FAKE_KERNEL);
    EXPECT_EQ(ended.status, 0) << ended.output;
    return nlohmann::json::parse(ended.output, nullptr, false);
  }
  static inline const std::string kBoth = std::string(PSP_GENL_LIBRARY) + ":" + PSP_FAKE_KERNEL;
};

TEST_F(Beside, EachIsAskedAboutItsOwn) {
  ASSERT_NO_FATAL_FAILURE(start_at("@softpsp"));
  const Ended ended = run_unnamed("beside");
  EXPECT_EQ(ended.output, "ok\n");
  EXPECT_EQ(ended.status, 0);
}

TEST_F(Beside, AProgramIsToldOfTheKernelsAloneWherePspdIsAway) {
  const Ended ended = run_unnamed("kernel");
  EXPECT_EQ(ended.output, "psp is 0x19\nok\n");
}

TEST_F(Beside, WherePspdIsNamedNobodyElseIsAsked) {
  ASSERT_NO_FATAL_FAILURE(start_at(kAddress));
  Child child({PSP_HANDWRITTEN, "named"}, kBoth);
  EXPECT_EQ(child.line(), "stop");
  daemon_.reset();
  child.go_on();
  EXPECT_EQ(child.wait().output, "ok\n");
}

TEST_F(Beside, PspctlListsBothWithTheirOrigin) {
  ASSERT_NO_FATAL_FAILURE(start_at("@softpsp"));
  const auto both = devices({PSP_PSPCTL});
  ASSERT_EQ(both.size(), 2u) << both;
  EXPECT_EQ(both[0]["id"], 3);
  EXPECT_EQ(both[0]["provider"], "kernel");
  EXPECT_EQ(both[1]["id"], 0x8001);
  EXPECT_EQ(both[1]["provider"], "pspd");
  const auto named = devices({PSP_PSPCTL, "--socket", "@softpsp"});
  ASSERT_EQ(named.size(), 1u) << named;
  EXPECT_EQ(named[0]["id"], 0x8001);
  EXPECT_FALSE(named[0].contains("provider"));
}

// rx_assoc asks by pspctl for a socket of which the route is by that netdev.
std::string rx_assoc(unsigned ifindex) {
  const UniqueFd tcp(::socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(::setsockopt(tcp.get(), SOL_SOCKET, SO_MARK, &ifindex, sizeof ifindex), 0);
  return run({PSP_PSPCTL, "netlink", "rx-assoc", "--json",
              fmt::format(R"({{"version": 0, "sock-fd": {}}})", tcp.get())},
             PSP_FAKE_KERNEL)
      .output;
}

TEST_F(Beside, ClientsAskWhoHasTheDeviceOfTheRoute) {
  ASSERT_NO_FATAL_FAILURE(start_at("@softpsp"));
  EXPECT_THAT(rx_assoc(7), testing::HasSubstr("\"dev-id\":32769"));
  EXPECT_THAT(rx_assoc(1), testing::HasSubstr("Exchange full"));
  EXPECT_EQ(run({PSP_PSPCTL, "key", "rotate", "id", "32769"}, PSP_FAKE_KERNEL).output, "");
  EXPECT_THAT(run({PSP_PSPCTL, "stats", "show", "id", "32769"}, PSP_FAKE_KERNEL).output,
              testing::ContainsRegex("key-rotations +1\n"));
}

TEST_F(Beside, DoctorSaysWhoIsAsked) {
  const auto doctor = [] { return run({PSP_PSPCTL, "doctor"}, PSP_FAKE_KERNEL).output; };
  EXPECT_THAT(doctor(), testing::HasSubstr("psp-family: the kernel has it, and no pspd answers"));
  ASSERT_NO_FATAL_FAILURE(start_at("@softpsp"));
  EXPECT_THAT(doctor(), testing::HasSubstr("psp-family: the kernel has it, and pspd runs"));
}

TEST_F(Preload, ServesProgramsOfLibmnl) {
  ASSERT_NO_FATAL_FAILURE(start(3));
  expect_ok({PSP_MNL_CLIENT}, "devices: 1 2 3\nrotated: 2\nno device: No such device\n");
}

TEST_F(Preload, ServesProgramsOfLibnl) {
#ifdef PSP_NL_CLIENT
  ASSERT_NO_FATAL_FAILURE(start(3));
  expect_ok({PSP_NL_CLIENT}, "devices: 1 2 3\nrotated: 2\nno device: -19\n");
#else
  GTEST_SKIP() << "built without libnl-genl-3";
#endif
}

TEST_F(Preload, ServesPythonPrograms) {
  ASSERT_NO_FATAL_FAILURE(start(3));
  expect_ok({"python3", PSP_SOURCE_DIR "/tests/preload/client.py"},
            "devices: 1 2 3\nrotated: 2\nno device: No such device\n");
}

TEST_F(Preload, PspctlRunPutsItBeforeAProgram) {
  ASSERT_NO_FATAL_FAILURE(start());
  const std::vector<std::string> words = {PSP_PSPCTL, "--socket", kAddress, "run", "--"};
  const auto run_with = [&](std::initializer_list<std::string> more, const std::string& preload) {
    std::vector<std::string> all = words;
    all.insert(all.end(), more);
    return run(all, preload);
  };
  EXPECT_EQ(run_with({PSP_HANDWRITTEN, "lookup"}, "").output, "ok\n");
  // What was preloaded before stays, behind.
  EXPECT_EQ(run_with({PSP_HANDWRITTEN, "kernel"}, PSP_FAKE_KERNEL).output, "psp is 0x19\nok\n");
  const Ended missing = run_with({"no-such-program"}, "");
  EXPECT_EQ(missing.output,
            "pspctl: error: run: no-such-program: no such program, or not executable\n");
  EXPECT_EQ(WEXITSTATUS(missing.status), 1);
  const Ended fixed = run_with({PSP_STATIC}, "");
  EXPECT_NE(fixed.output.find("statically linked"), std::string::npos) << fixed.output;
  EXPECT_EQ(WEXITSTATUS(fixed.status), 7) << "it runs nevertheless";
}

TEST_F(Preload, PspctlRunRefusesProgramsThatTakeNoLibrary) {
  std::string path = testing::TempDir() + "/preload-setuid-XXXXXX";
  const UniqueFd copy(::mkstemp(path.data()));
  ASSERT_EQ(::fchown(copy.get(), 65534, 65534), 0);
  ASSERT_EQ(::fchmod(copy.get(), 04755), 0);
  const Ended refused = run({PSP_PSPCTL, "run", path}, "");
  EXPECT_NE(refused.output.find("gains privileges"), std::string::npos) << refused.output;
  EXPECT_EQ(WEXITSTATUS(refused.status), 5);
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace psp
