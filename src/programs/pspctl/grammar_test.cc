// SPDX-License-Identifier: Apache-2.0
//
// The command line of pspctl in the manner of ip(8): abbreviations, options, one line an element,
// and that what is printed stays what it says for odd names, closed pipes and dead daemons.
//
// Commands run in this process against the real server over fakes; where a signal or a closed pipe
// matters, the program that was built runs as a child. Each abbreviation must mean what the long
// form means, so the oracle is the output of that. ip itself is not asked.
#include <csignal>
#include <fcntl.h>
#include <future>
#include <sys/wait.h>
#include <unistd.h>

#include "pspctl_fixture.hh"

namespace psp::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(Pspctl, UnderstandsAbbreviations) {
  pspd.start();
  const std::string devices = text({"dev", "show"});
  for (const char* noun : {"d", "de", "dev"})
    for (const char* verb : {"s", "sh", "show", "l", "list"})
      EXPECT_EQ(text({noun, verb}), devices) << noun << " " << verb;
  EXPECT_EQ(text({"a", "s"}), text({"assoc", "show"}));
  EXPECT_EQ(text({"s", "l", "lo"}), text({"stats", "show", "lo"}));
  EXPECT_EQ(text({"k", "r", "lo"}), "");
  EXPECT_EQ(text({"d", "se", "lo", "psp-versions-ena", "3"}), "");
  EXPECT_EQ(json({"d", "s", "lo"})[0]["psp-versions-ena"][0], "hdr0-aes-gmac-256");
  EXPECT_THAT(call_pspd({"do"}).out, HasSubstr("pspd 0.1.0 answers"));
  fails({"devs"}, ExitStatus::kUsage,
        "\"devs\" is no noun of pspctl (did you mean dev?); see pspctl --help");
  fails({"stats", "showy"}, ExitStatus::kUsage, "stats: \"showy\" is no verb of it (show)");
}

TEST_F(Pspctl, TakesOptionsAsIpDoes) {
  pspd.start();
  const std::string devices = text({"-j", "dev"});
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"-json", "dev"}, {"--json", "dev"}, {"dev", "-j"}, {"dev", "show", "-json"}})
    EXPECT_EQ(text(arguments), devices);
  EXPECT_EQ(text({"-s", "-s", "dev"}), text({"-stats", "dev"}));
  EXPECT_EQ(text({"-statistics", "dev"}), text({"-s", "dev"}));
  EXPECT_EQ(text({"-details", "dev"}), text({"-d", "dev"}));
  EXPECT_EQ(text({"-jp", "dev"}), text({"-json", "-pretty", "dev"}));
  fails({"-x", "dev"}, ExitStatus::kUsage, "there is no option -x; see pspctl --help");
  // What is behind -- is a word, and brackets are no list.
  fails({"dev", "--", "show", "-j"}, ExitStatus::kFailed, "dev show -j: no such network interface");
  fails({"dev", "show", "[lo]"}, ExitStatus::kFailed, "dev show [lo]: no such network interface");
}

TEST(ParseOptions, LeavesTheArgumentsOfAnotherProgramAlone) {
  const TailOf tail_of = [](std::string_view noun) {
    return noun == "run" ? Tail::kProgram : Tail::kWords;
  };
  const auto options = parse_options(
      {"-n", "run", "--socket", "@x", "-jn", "a", "run", "--", "ls", "-json", "-c", "[x]"},
      tail_of);
  ASSERT_TRUE(options.has_value());
  EXPECT_TRUE(options->json);
  EXPECT_EQ(options->netns, "a");
  EXPECT_EQ(options->socket, "@x");
  EXPECT_EQ(options->colour, ColourWhen::kAuto);
  EXPECT_EQ(options->words, (std::vector<std::string>{"run", "--", "ls", "-json", "-c", "[x]"}));
}

TEST_F(Pspctl, ColoursWhenItShould) {
  pspd.start();
  const std::string coloured = "\x1b[36mlo\x1b[0m";
  const auto out = [&](std::vector<std::string> arguments, bool terminal) {
    return call_pspd(std::move(arguments), {.in = {}, .colour = terminal}).out;
  };
  EXPECT_THAT(out({"dev"}, true), HasSubstr(coloured));
  EXPECT_THAT(out({"dev", "--color=auto"}, true), HasSubstr(coloured));
  EXPECT_THAT(out({"dev", "-c=never"}, true), Not(HasSubstr("\x1b")));
  EXPECT_THAT(out({"dev"}, false), Not(HasSubstr("\x1b")));
  for (const char* option : {"-c", "-c=always", "-color", "--color", "--color=always", "-colour"})
    EXPECT_THAT(out({option, "dev"}, false), HasSubstr(coloured)) << option;
  EXPECT_THAT(out({"-jc", "dev"}, true), StartsWith("[{\"id\":1"));
  fails({"-c=often", "dev"}, ExitStatus::kUsage, "--color: \"often\" is not auto, always or never");
}

TEST_F(Pspctl, PrintsOneLineAnElement) {
  pspd.start();
  EXPECT_EQ(text({"-o", "dev"}),
            "1: lo: ifindex 1\\"
            "    psp-versions-cap hdr0-aes-gcm-128 hdr0-aes-gcm-256 hdr0-aes-gmac-128 "
            "hdr0-aes-gmac-256\\"
            "    psp-versions-ena hdr0-aes-gcm-128 hdr0-aes-gcm-256\n"
            "2: if424242: ifindex 424242\\"
            "    psp-versions-cap hdr0-aes-gcm-128 hdr0-aes-gcm-256\\"
            "    psp-versions-ena none\n");
  EXPECT_EQ(std::ranges::count(text({"-oneline", "-s", "-d", "dev"}), '\n'), 2);
  EXPECT_EQ(std::ranges::count(text({"-o", "assoc"}), '\n'), 2);
  EXPECT_EQ(std::ranges::count(text({"-os", "stats"}), '\n'), 2);
  EXPECT_EQ(text({"-oj", "stats"}), text({"-j", "stats"}));
}

TEST_F(Pspctl, FiltersConnections) {
  pspd.assocs.push_back(association_v4());
  pspd.assocs.back().peer_port = 443;
  pspd.assocs.back().stale = false;
  pspd.assocs.back().cookie = 79;
  pspd.start();
  const auto cookies = [this](std::vector<std::string> filter) {
    std::vector<std::string> arguments = {"-d", "assoc", "show"};
    arguments.insert(arguments.end(), filter.begin(), filter.end());
    std::vector<int> found;
    for (const auto& assoc : json(arguments)) found.push_back(assoc["cookie"]);
    return found;
  };
  using Found = std::vector<int>;
  EXPECT_EQ(cookies({}), (Found{77, 78, 79}));
  EXPECT_EQ(cookies({"port", "7000"}), (Found{77, 78}));
  EXPECT_EQ(cookies({"port", "40001"}), (Found{78}));
  EXPECT_EQ(cookies({"sport", "7000"}), (Found{}));
  EXPECT_EQ(cookies({"sport", "40000", "dport", "443"}), (Found{79}));
  EXPECT_EQ(cookies({"stale"}), (Found{77}));
  EXPECT_EQ(cookies({"state", "full"}), (Found{77, 79}));
  EXPECT_EQ(cookies({"dev", "id", "2"}), (Found{78}));
  EXPECT_EQ(cookies({"version", "aes-gcm-256"}), (Found{77, 79}));
  EXPECT_EQ(cookies({"version", "0", "state", "rx"}), (Found{78}));
  EXPECT_EQ(cookies({"local", "192.0.2.1"}), (Found{77, 79}));
  EXPECT_EQ(cookies({"peer", "[2001:0db8::0:2]"}), (Found{78}));
  fails({"assoc", "show", "port", "0"}, ExitStatus::kUsage, "\"0\" is no port");
  fails({"assoc", "show", "port"}, ExitStatus::kUsage, "value behind \"port\" is missing");
  fails({"assoc", "show", "peer", "h"}, ExitStatus::kUsage, "\"h\" is no address");
  fails({"assoc", "show", "fresh"}, ExitStatus::kUsage, "\"fresh\" is not expected here");
}

TEST_F(Pspctl, KeepsOddNamesInTheirPlace) {
  pspd.assocs.resize(1);
  pspd.assocs[0].ifname = "\x1b[2J\"\\\n\xff";
  pspd.start();
  // JSON: escaped, and what is no UTF-8 replaced.
  EXPECT_EQ(json({"assoc"})[0]["ifname"], "\x1b[2J\"\\\n\xef\xbf\xbd");
  // Text: nothing that a terminal would obey, nothing that ends the line.
  EXPECT_THAT(text({"assoc"}), HasSubstr(" ifname \\033[2J\"\\\\012\xff version "));
}

TEST_F(Pspctl, FailsInANamespaceThatIsNotThere) {
  pspd.start();
  for (const char* option : {"-n", "-netns", "--netns"})
    fails({option, "no-such-netns", "dev"}, ExitStatus::kFailed,
          "netns no-such-netns: no such network namespace; see ip netns");
  EXPECT_THAT(call({"-n", "/dev/null", "dev"}).err,
              testing::AnyOf(HasSubstr("not a network namespace"), HasSubstr("not permitted")));
  EXPECT_THAT(call({"-n"}).err, HasSubstr("--netns"));
}

TEST_F(Pspctl, AsksInTheNamespaceItIsTold) {
  if (unshare(0) != 0 || geteuid() != 0) GTEST_SKIP() << "needs root, to enter a namespace";
  pspd.start();
  // A namespace without a name: that of a thread which lives until the end of the test.
  std::promise<int> ready;
  std::promise<void> done;
  std::thread other([&] {
    ready.set_value(unshare(CLONE_NEWNET) == 0 ? gettid() : -1);
    done.get_future().wait();
  });
  const int thread = ready.get_future().get();
  if (thread > 0) {
    const std::string path = "/proc/self/task/" + std::to_string(thread) + "/ns/net";
    // An abstract address belongs to a namespace: from the other one, nobody answers.
    const auto there = std::async(std::launch::async, [&] {
                         return call({"-n", path, "--socket", pspd.address, "dev"});
                       }).get();
    EXPECT_EQ(there.status, ExitStatus::kUnreachable) << there.err;
    EXPECT_EQ(call_pspd({"-n", "/proc/self/ns/net", "dev"}).status, ExitStatus::kOk);
  }
  done.set_value();
  other.join();
  if (thread < 0) GTEST_SKIP() << "needs CAP_SYS_ADMIN, to make a namespace";
}

// Program is the pspctl binary as a process, its output in a pipe.
struct Program {
  explicit Program(std::vector<std::string> arguments) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return;
    out = UniqueFd(ends[0]);
    const UniqueFd in(ends[1]);
    arguments.insert(arguments.begin(), PSPCTL_BINARY);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid = fork();
    if (pid != 0) return;
    dup2(in.get(), STDOUT_FILENO);
    signal(SIGPIPE, SIG_DFL);
    execv(argv[0], argv.data());
    _exit(127);
  }
  int wait() const {
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
  }
  UniqueFd out;
  pid_t pid = -1;
};

TEST_F(Pspctl, MonitorSaysThatNotificationsWereLostAndGoesOn) {
  pspd.start();
  auto monitor = std::async(std::launch::async, [this] {
    return call_pspd({"-j", "monitor", "count", "1"}).out;
  });
  pspd.wait_for_member();
  pspd.lose_notifications();
  text({"key", "rotate", "lo"});
  EXPECT_EQ(monitor.get(), "{\"name\":\"lost\"}\n{\"name\":\"key-rotate-ntf\",\"id\":1}\n");
}

TEST_F(Pspctl, MonitorEndsWhenNobodyReadsItAnyMore) {
  ASSERT_EQ(access(PSPCTL_BINARY, X_OK), 0) << "pspctl was not built";
  pspd.start();
  Program monitor({"--socket", pspd.address, "-j", "monitor"});
  ASSERT_GT(monitor.pid, 0);
  pspd.wait_for_member();
  monitor.out = UniqueFd();           // as `| head` does when it has seen enough
  const int status = monitor.wait();  // without any event
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(Pspctl, DiesSilentlyOfAClosedPipe) {
  pspd.assocs.assign(5000, association_v4());  // more than a pipe holds
  pspd.start();
  Program show({"--socket", pspd.address, "assoc", "show"});
  ASSERT_GT(show.pid, 0);
  char octet = 0;
  EXPECT_EQ(read(show.out.get(), &octet, 1), 1);
  show.out = UniqueFd();
  const int status = show.wait();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE) << status;
}

TEST_F(Pspctl, EndsWithThreeForEveryNounIfNobodyAnswers) {  // never started
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"dev", "show"},
                                             {"dev", "set", "id", "1", "psp-versions-ena", "0"},
                                             {"key", "rotate", "id", "1"},
                                             {"assoc", "show"},
                                             {"stats", "show"},
                                             {"monitor"}}) {
    const Result result = call_pspd(arguments);
    EXPECT_EQ(result.status, ExitStatus::kUnreachable) << arguments[0];
    EXPECT_THAT(result.err, StartsWith("pspctl: error: connect: ")) << arguments[0];
    EXPECT_EQ(result.out, "") << arguments[0];
  }
}

}  // namespace
}  // namespace psp::ctl
