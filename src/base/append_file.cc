#include "base/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace nereus {

AppendFile::AppendFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_CREAT | O_RDWR | O_APPEND | O_CLOEXEC, 0666);
  NEREUS_CHECK(kIo, fd_ >= 0, "cannot write {}: {}", path_, std::strerror(errno));
  struct stat is {};
  if (::fstat(fd_, &is) != 0) return;
  file_system_ = is.st_dev;
  char last = '\n';
  torn_ = S_ISREG(is.st_mode) && is.st_size > 0 && ::pread(fd_, &last, 1, is.st_size - 1) == 1 &&
          last != '\n';
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    const int error = n < 0 ? errno : ENOSPC;
    out_of_space_ = n <= 0 && (error == ENOSPC || error == EDQUOT);
    NEREUS_CHECK(kIo, n > 0, "cannot write {}: {}", path_, std::strerror(error));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void AppendFile::write_line(std::string line) {
  if (torn_) line.insert(line.begin(), '\n');
  torn_ = false;
  line += '\n';
  write(line);
}

}  // namespace nereus
