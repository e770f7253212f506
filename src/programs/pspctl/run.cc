// SPDX-License-Identifier: Apache-2.0
//
// pspctl run: starts a program that was written for the kernel's `psp` family with libpsp-genl.so
// before its libc.
//
// LD_PRELOAD fails in silence: the dynamic linker leaves the library out of a program that gains
// privileges, and a static one has no linker. The program would then speak to a kernel without the
// family, and nobody would know why. So these cases are looked for first. pspctl replaces itself by
// the program (exec): its process number, signals and exit status are those of the program.
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <optional>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/unique_fd.hh"

#include "command.hh"

namespace psp::ctl {

namespace {

constexpr std::string_view kHelp =
    R"(Usage: pspctl [--socket ADDR] [-n NAME] run [--] PROGRAM [ARGUMENTS]

Runs a program that speaks the kernel's psp netlink family. What it sends to that family goes to
pspd, unless it is about a device of the kernel; with --socket in any case. See libpsp-genl(7).
)";

constexpr const char* kLibrary = "libpsp-genl.so";

// find_library looks beside this program's directory: bin and lib stand together, installed as well
// as built.
Outcome<std::string> find_library() {
  std::array<char, PATH_MAX> self{};
  const ssize_t size = ::readlink("/proc/self/exe", self.data(), self.size() - 1);
  std::string tried;
  if (size > 0) {
    const std::string directory =
        std::string(self.data()).substr(0, std::string_view(self.data()).rfind('/'));
    std::string path = directory.substr(0, directory.rfind('/')) + "/lib/" + kLibrary;
    if (::access(path.c_str(), R_OK) == 0) {
      if (path.find_first_of(": ") == std::string::npos) return path;
      return std::unexpected(Failure{
          ExitStatus::kFailed,
          fmt::format("run: the dynamic linker takes no path with a space or a colon: {}", path)});
    }
    tried = fmt::format(" (looked for {})", path);
  }
  return std::unexpected(
      Failure{ExitStatus::kFailed, fmt::format("run: {} is not installed{}", kLibrary, tried)});
}

// find_program is what execvp would start.
std::optional<std::string> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos)
    return ::access(name.c_str(), X_OK) == 0 ? std::optional(name) : std::nullopt;
  const char* variable = std::getenv("PATH");
  std::string_view rest = variable != nullptr ? variable : "/usr/local/bin:/usr/bin:/bin";
  for (bool more = true; more;) {
    const std::size_t colon = rest.find(':');
    const std::string_view directory = rest.substr(0, colon);
    more = colon != std::string_view::npos;
    rest.remove_prefix(more ? colon + 1 : rest.size());
    std::string path = fmt::format("{}/{}", directory.empty() ? "." : directory, name);
    struct stat status;
    if (::access(path.c_str(), X_OK) == 0 && ::stat(path.c_str(), &status) == 0 &&
        S_ISREG(status.st_mode))
      return path;
  }
  return std::nullopt;
}

// gains_privileges: the dynamic linker takes no libraries from the environment for such a program.
bool gains_privileges(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return false;
  return ((status.st_mode & S_ISUID) != 0 && status.st_uid != ::geteuid()) ||
         ((status.st_mode & S_ISGID) != 0 && status.st_gid != ::getegid()) ||
         (::geteuid() != 0 && ::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0);
}

// is_static: an ELF program without a dynamic linker.
bool is_static(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Elf64_Ehdr header;
  if (::pread(fd.get(), &header, sizeof header, 0) != sizeof header ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
    return false;
  for (unsigned i = 0; i < header.e_phnum; i++) {
    Elf64_Phdr row;
    const auto at = static_cast<off_t>(header.e_phoff + i * sizeof row);
    if (::pread(fd.get(), &row, sizeof row, at) != sizeof row) return false;
    if (row.p_type == PT_INTERP) return false;
  }
  return true;
}

Outcome<void> run_program(Context& context) {
  (void)context.words.accept("--");
  auto program = context.words.take("PROGRAM");
  if (!program) return std::unexpected(program.error());
  const auto library = find_library();
  if (!library) return std::unexpected(library.error());
  const auto path = find_program(*program);
  if (!path)
    return std::unexpected(Failure{
        ExitStatus::kFailed, fmt::format("run: {}: no such program, or not executable", *program)});
  if (gains_privileges(*path))
    return std::unexpected(Failure{
        ExitStatus::kPermission,
        fmt::format("run: {} gains privileges when it starts (setuid, setgid or capabilities), and "
                    "such programs take no preloaded library: run it as the user that it becomes",
                    *path)});
  if (is_static(*path))
    fmt::print(context.environment.err,
               "pspctl: warning: {} is statically linked: the library cannot be loaded into it\n",
               *path);
  // Behind what is preloaded already: some of that, as AddressSanitizer's runtime, has to be first.
  const char* others = std::getenv("LD_PRELOAD");
  const std::string preload =
      others != nullptr && *others != '\0' ? fmt::format("{}:{}", others, *library) : *library;
  ::setenv("LD_PRELOAD", preload.c_str(), 1);
  if (context.options.socket) ::setenv("PSP_SOCKET", context.options.socket->c_str(), 1);
  std::vector<std::string> words{*program};
  while (!context.words.done()) words.push_back(*context.words.take("ARGUMENT"));
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::fflush(nullptr);
  ::execv(path->c_str(), argv.data());
  return std::unexpected(
      Failure{ExitStatus::kFailed, fmt::format("run: {}: {}", *path, std::strerror(errno))});
}

}  // namespace

Noun run_noun() { return {"run", kHelp, false, {{"", run_program}}, Tail::kProgram}; }

}  // namespace psp::ctl
