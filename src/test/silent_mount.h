// A mount whose server never answers, in tests: a FUSE file system that nobody serves. Whatever
// looks at it waits until the mount is gone. Needs the right to mount.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace nereus::test {

class SilentMount {
 public:
  // Makes the folder.
  explicit SilentMount(std::string folder) : folder_(std::move(folder)) {
    std::filesystem::create_directories(folder_);
    fd_ = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
    const std::string options = fmt::format("fd={},rootmode=40000,user_id=0,group_id=0", fd_);
    is_mounted_ = fd_ >= 0 && ::mount("silent", folder_.c_str(), "fuse", MS_NOSUID | MS_NODEV,
                                      options.c_str()) == 0;
  }
  ~SilentMount() {
    if (fd_ >= 0) ::close(fd_);  // who waits gets an error
    if (is_mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  SilentMount(const SilentMount&) = delete;
  SilentMount& operator=(const SilentMount&) = delete;
  bool is_mounted() const { return is_mounted_; }

 private:
  std::string folder_;
  int fd_ = -1;
  bool is_mounted_ = false;
};

}  // namespace nereus::test
