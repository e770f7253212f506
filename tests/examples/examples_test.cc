// SPDX-License-Identifier: Apache-2.0
//
// The examples, built as anybody would from an installed libpsp-tls, and run on two hosts: each
// server with each client, and the echo service that outlives a hundred rotations.
//
// Threading: the test's thread; the programs are processes.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <signal.h>

#include "lab.hh"

namespace psp::lab {
namespace {

constexpr std::size_t kSize = 300'000;

std::string content(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Background is a shell command in a namespace, under way until this goes.
class Background {
 public:
  Background(const Netns& netns, const std::string& command)
      : pid_(std::stoi(netns.sh("timeout 120 " + command + " & echo $!"))) {}
  ~Background() {
    if (pid_ > 0) kill(pid_, SIGTERM);  // timeout hands it on
  }
  Background(Background&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Background& operator=(Background&&) = delete;

 private:
  pid_t pid_;
};

// Hosts are the two hosts, the examples built for them, and the servers that run on B. They are
// made once, for all tests.
class Hosts {
 public:
  static void build() {
    if (missing()) return;
    char name[] = "/tmp/psp-examples-XXXXXX";
    directory_ = mkdtemp(name);
    const std::string build = fmt::format(
        "{{ {0} -DCMAKE_INSTALL_PREFIX={1}/prefix -P {2} && "
        "PKG_CONFIG_PATH={1}/prefix/{3}/pkgconfig "
        "make -j2 -C {1}/{4} OUT={1} CFLAGS='-Wall -Wextra -Werror' "
        "CXXFLAGS='-Wall -Wextra -Wshadow -Werror'; }} >{1}/build.log 2>&1",
        PSP_CMAKE, directory_, PSP_INSTALL_SCRIPT, PSP_LIBDIR, PSP_EXAMPLES);
    ASSERT_EQ(std::system(build.c_str()), 0) << content(file("build.log"));
    make_certificates();
    lab_.emplace();
    for (const From side : {From::kA, From::kB}) lab_->start(side);
    serve(7001, in_directory("./echo_epoll 7001 server.pem server.key"));
    serve(7002, in_directory("./asio_echo serve 7002 server.pem server.key"));
    serve(7003,
          in_directory(PSP_PYTHON " " PSP_EXAMPLES "/echo_server.py 7003 server.pem server.key"));
    serve(7006, in_directory("./rotating_echo_server 7006 server.pem server.key"));
    // Now, so that the limit of ten seconds is over when a test asks for it.
    for (const int port : {7001, 7002, 7003, 7006})
      servers_.emplace_back(lab_->ns(From::kA),
                            fmt::format("sh -c '{} && touch {}' >{} 2>&1",
                                        python(fmt::format("silent {} {}", address(), port)),
                                        given_up(port), file(fmt::format("silent-log-{}", port))));
  }
  static void end() {
    servers_.clear();
    lab_.reset();
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }
  static std::string file(const std::string& name) { return directory_ + "/" + name; }
  static std::string address() { return Lab::address(From::kB, Kind::kIpv4); }
  static void make_certificates() {
    const std::string make = fmt::format(
        "cd {} && {{ openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "
        "/CN=ca -keyout ca.key -out ca.pem && openssl req -newkey ec -pkeyopt "
        "ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr && "
        "echo "
        "subjectAltName=IP:{} >names && openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key "
        "-CAcreateserial -extfile names -out server.pem; }} >openssl.log 2>&1",
        directory_, address());
    ASSERT_EQ(std::system(make.c_str()), 0) << content(file("openssl.log"));
  }
  // What is run sees the installed library, as with ldconfig.
  static std::string in_directory(const std::string& command) {
    return fmt::format("env -C {0} PYTHONPATH={0}/prefix/{1} LD_LIBRARY_PATH={0}/prefix/{2} {3}",
                       directory_, PSP_PYTHON_DIR, PSP_LIBDIR, command);
  }
  // python is the binding's test program; what it checks is told there.
  static std::string python(const std::string& arguments) {
    return in_directory(fmt::format("{} {}/tests/examples/psp_py_lab.py {}", PSP_PYTHON,
                                    PSP_SOURCE_DIR, arguments));
  }
  // given_up is a file that is there when the server has closed its silent connections.
  static std::string given_up(int port) { return file(fmt::format("given-up-{}", port)); }
  static void serve(int port, const std::string& command) {
    servers_.emplace_back(lab_->ns(From::kB),
                          fmt::format("{} >{} 2>&1", command, file(fmt::format("log-{}", port))));
    await(port);
  }
  static void await(int port) {
    ASSERT_TRUE(eventually(
        [&] { return !lab_->ns(From::kB).sh(fmt::format("ss -Hltn sport = :{}", port)).empty(); },
        10s))
        << "nobody listens on port " << port << ": " << content(file(fmt::format("log-{}", port)));
  }

  inline static std::string directory_;
  inline static std::optional<Lab> lab_;
  inline static std::vector<Background> servers_;
};

class Once : public testing::Environment {
  void SetUp() override { Hosts::build(); }
  void TearDown() override { Hosts::end(); }
};
[[maybe_unused]] const testing::Environment* const kOnce =
    testing::AddGlobalTestEnvironment(std::make_unique<Once>().release());

class Examples : public testing::Test, protected Hosts {
 protected:
  void SetUp() override {
    PSP_NEEDS_LAB();
    ASSERT_TRUE(lab_) << "the examples were not built, or a server did not start";
  }
};

// A Program is one end; `port` is where it serves, or stands for where it shall ask.
struct Program {
  const char* name;
  int port;
  const char* command;
};
void PrintTo(const Program& program, std::ostream* out) { *out << program.name; }

constexpr Program kServers[] = {
    {"Epoll", 7001, nullptr},
    {"Asio", 7002, nullptr},
    {"Python", 7003, nullptr},
    {"PspCat", 7004, PSP_CAT " -l --cert server.pem --key server.key --no-progress 7004"},
};
constexpr Program kClients[] = {
    {"Asio", 0, "./asio_echo ask {0} {1} ca.pem"},
    {"Python", 0, PSP_PYTHON " " PSP_EXAMPLES "/echo_client.py {0} {1} ca.pem"},
    {"PspCat", 0, PSP_CAT " --ca ca.pem --no-progress {0} {1}"},
};

class EachWithEach : public Examples,
                     public testing::WithParamInterface<std::tuple<Program, Program>> {};

TEST_P(EachWithEach, MovesTheSameOctetsBothWaysUnderPsp) {
  const auto& [server, client] = GetParam();
  const Octets data = random_octets(kSize);
  const std::string text(data.begin(), data.end());
  std::ofstream(file("question")) << text;
  std::optional<Background> once;
  if (server.command != nullptr) {  // psp-cat does not echo; it is given what it shall answer
    once.emplace(lab_->ns(From::kB),
                 in_directory(server.command) +
                     fmt::format(" <{0} >{1} 2>{2}", file("question"), file("got"), file("log")));
    await(server.port);
  }
  const std::size_t mark = lab_->cable().mark();
  const std::string ask =
      fmt::format("timeout 30 {} <{} >{} 2>{}",
                  in_directory(fmt::format(fmt::runtime(client.command), address(), server.port)),
                  file("question"), file("answer"), file("client-log"));
  EXPECT_TRUE(lab_->ns(From::kA).try_sh("(" + ask + ")")) << content(file("client-log"));
  EXPECT_TRUE(content(file("answer")) == text)
      << content(file("answer")).size() << " octets; " << content(file("client-log"));
  EXPECT_TRUE(!once || eventually([&] { return content(file("got")) == text; }))
      << content(file("log"));
  for (const Seen& seen : lab_->cable().since(mark))
    EXPECT_FALSE(!seen.psp && holds_part(seen.octets, data)) << "in clear";
}

INSTANTIATE_TEST_SUITE_P(Examples, EachWithEach,
                         testing::Combine(testing::ValuesIn(kServers), testing::ValuesIn(kClients)),
                         [](const auto& pair) {
                           return std::string(std::get<1>(pair.param).name) + "Asks" +
                                  std::get<0>(pair.param).name;
                         });

// ask runs the binding's test program on A.
class PythonBinding : public Examples {
 protected:
  static bool ask(const std::string& arguments) {
    return lab_->ns(From::kA).try_sh(
        fmt::format("(timeout 60 {} >{} 2>&1)", python(arguments), file("client-log")));
  }
};

TEST_F(PythonBinding, BlockingNonBlockingAndRotation) {
  serve(7005, python("serve 7005"));
  EXPECT_TRUE(ask(fmt::format("ask {} 7005 {}", address(), PSP_PSPCTL)))
      << content(file("client-log")) << content(file("log-7005"));
}

TEST_F(PythonBinding, NoServerLosesWhatWasSaidBeforeTheUpgrade) {
  for (const int port : {7001, 7002, 7003})
    EXPECT_TRUE(ask(fmt::format("early {} {}", address(), port)))
        << port << ": " << content(file("client-log"));
}

// What a server meets first depends on who is faster: the end of the stream, or the reset that
// answers what it wrote. It says which.
TEST_F(PythonBinding, EachServerSaysAtOnceThatItsPeerHasGone) {
  for (const int port : {7001, 7002, 7003}) {
    ASSERT_TRUE(ask(fmt::format("leave {} {}", address(), port))) << content(file("client-log"));
    const std::string log = file(fmt::format("log-{}", port));
    const auto says = [&log](const char* words) {
      return content(log).find(words) != std::string::npos;
    };
    EXPECT_TRUE(eventually([&] {
      return says("see its own message") || says("see the peer's own message");
    })) << port
        << ": " << content(log);
  }
}

// The client says "connection N: why" when it has renewed: so both hosts rotate as fast as it goes,
// and never twice within one renewal.
TEST_F(Examples, EchoServiceLivesThroughAHundredRotationsOfEachHost) {
  lab_->cable().log(false);
  const std::string said = file("said");
  const std::string ask =
      in_directory(fmt::format("./rotating_echo_client {} 7006 ca.pem", address()));
  Background client(lab_->ns(From::kA),
                    fmt::format("sh -c 'until test -e {}; do sleep 0.1; done | {}' >{} 2>&1",
                                file("stop"), ask, said));
  const auto says = [&](const std::string& line) {
    return eventually([&] { return content(said).find(line) != std::string::npos; }, 10s);
  };
  ASSERT_TRUE(says("connection 1: the first\n")) << content(said) << content(file("log-7006"));
  Client a = lab_->client(From::kA), b = lab_->client(From::kB);
  for (unsigned connection = 2; connection < 202; connection += 2) {
    ASSERT_TRUE(a.key_rotate(a.devices()->front().id));
    ASSERT_TRUE(says(fmt::format("connection {}: our key rotated\n", connection))) << content(said);
    ASSERT_TRUE(b.key_rotate(b.devices()->front().id));
    ASSERT_TRUE(says(fmt::format("connection {}: the server asked\n", connection + 1)))
        << content(said) << content(file("log-7006"));
  }
  std::ofstream(file("stop")).close();
  EXPECT_TRUE(says("messages, each answered once and in order, over 201 connections\n"))
      << content(said);
  std::printf(
      "%s", content(said).substr(content(said).rfind('\n', content(said).size() - 2) + 1).c_str());
  for (const From side : {From::kA, From::kB}) EXPECT_GE(lab_->stats(side).key_rotations, 100u);
  lab_->cable().log(true);
}

TEST_F(Examples, EachServerGivesUpAPeerThatStaysSilent) {
  struct Row {
    int port;
    const char *before_tls, *behind_tls;  // what it says
  };
  constexpr Row kTable[] = {
      {7001, "not secured in 10 s", "not secured in 10 s"},
      {7002, "gave up without the peer's TLS handshake", "gave up without the peer's offer"},
      {7003, "timed out", "gave up after 10 s without the peer's offer"},
      {7006, "gave up without the peer's TLS handshake", "gave up without the peer's offer"}};
  for (const auto& [port, before_tls, behind_tls] : kTable) {
    EXPECT_TRUE(eventually([&] { return std::filesystem::exists(given_up(port)); }, 30s))
        << port << ": " << content(file(fmt::format("silent-log-{}", port)));
    const std::string log = content(file(fmt::format("log-{}", port)));
    for (const char* words : {before_tls, behind_tls})
      EXPECT_NE(log.find(words), std::string::npos) << port << ": " << log;
  }
}

}  // namespace
}  // namespace psp::lab
