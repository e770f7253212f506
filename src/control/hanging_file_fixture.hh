// SPDX-License-Identifier: Apache-2.0
//
// HangingFile: an open file whose close() waits for as long as its owner likes, as any user can
// have who may mount file systems of his own (FUSE). The kernel asks the owner before a descriptor
// is closed (FUSE_FLUSH), and nothing ends that wait, SIGKILL neither, but the owner's end. So the
// owner is a process of its own, which ends with the test, however that ends.
//
// Threading: a test's.
#pragma once

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <sched.h>
#include <string>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "base/unique_fd.hh"

namespace psp::control {

class HangingFile {
 public:
  HangingFile() {
    const UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    if (!device || (owner_ = ::fork()) < 0) return;
    if (owner_ == 0) own(device.get());
    std::thread([&] { open_in_own_namespace(device.get()); }).join();
  }
  ~HangingFile() {
    let_go();
    if (file_ >= 0) ::close(file_);
  }
  HangingFile(const HangingFile&) = delete;
  HangingFile& operator=(const HangingFile&) = delete;

  // file is not to be closed before let_go. -1: there is no FUSE here.
  int file() const { return file_; }
  // let_go ends what waits. The file is of no use to anybody then.
  void let_go() {
    if (owner_ <= 0) return;
    ::kill(owner_, SIGKILL);
    ::waitpid(owner_, nullptr, 0);
    owner_ = -1;
  }

 private:
  // The root of the file system is a file, and nobody else sees where it is.
  void open_in_own_namespace(int device) {
    std::string place = "/tmp/psp-hanging-XXXXXX";
    const UniqueFd mark(::mkstemp(place.data()));
    const std::string options =
        fmt::format("fd={},rootmode=100644,user_id=0,group_id=0,allow_other", device);
    if (mark && ::unshare(CLONE_FS | CLONE_NEWNS) == 0 &&
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount("psp-hanging", place.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0)
      file_ = ::open(place.c_str(), O_RDONLY | O_CLOEXEC);
    ::umount2(place.c_str(), MNT_DETACH);
    ::unlink(place.c_str());
  }

  // own is the owner's life: he answers until the file is open.
  [[noreturn]] static void own(int device) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (answer_one(device)) {
    }
    for (;;) ::pause();
  }
  static bool answer_one(int device) {
    std::array<char, FUSE_MIN_READ_BUFFER> request;
    fuse_in_header asked{};
    while (::read(device, request.data(), request.size()) < static_cast<ssize_t>(sizeof asked))
      ::usleep(1000);  // not mounted yet
    std::memcpy(&asked, request.data(), sizeof asked);
    if (asked.opcode == FUSE_INIT) {
      fuse_init_out version{};
      version.major = FUSE_KERNEL_VERSION;
      version.minor = 31;
      return reply(device, asked, version);
    }
    if (asked.opcode == FUSE_GETATTR) {
      fuse_attr_out what{};
      what.attr.mode = S_IFREG | 0644;
      return reply(device, asked, what);
    }
    if (asked.opcode == FUSE_OPEN) return reply(device, asked, fuse_open_out{}) && false;
    const fuse_out_header no{sizeof no, -ENOSYS, asked.unique};
    return ::write(device, &no, sizeof no) == sizeof no;
  }
  template <typename Content>
  static bool reply(int device, const fuse_in_header& asked, const Content& content) {
    struct {
      fuse_out_header header;
      Content content;
    } whole{{sizeof whole, 0, asked.unique}, content};
    return ::write(device, &whole, sizeof whole) == sizeof whole;
  }

  pid_t owner_ = -1;
  int file_ = -1;
};

}  // namespace psp::control
