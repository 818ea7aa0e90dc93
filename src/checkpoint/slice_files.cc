#include "checkpoint/slice_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace nereus {

void SliceFiles::read(int32_t file, int64_t offset, int64_t bytes, std::byte* to) {
  const int fd = open(file);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd, to, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    NEREUS_CHECK(kIo, n >= 0, "{}: cannot read: {}", path(file), std::strerror(errno));
    NEREUS_CHECK(kIo, n > 0, "{}: it ends at byte {}, and {} more were to follow", path(file),
                 offset, bytes);
    to += n;
    offset += n;
    bytes -= n;
  }
}

std::string SliceFiles::path(int32_t file) const {
  return folder_ + "/" + files_[static_cast<size_t>(file)].name;
}

int SliceFiles::open(int32_t file) {
  constexpr size_t kOpen = 64;
  const auto it = open_.find(file);
  if (it != open_.end()) return it->second;
  if (open_.size() >= kOpen) close_all();
  const int fd = ::open(path(file).c_str(), O_RDONLY | O_CLOEXEC);
  NEREUS_CHECK(kIo, fd >= 0, "{}: {}", path(file), std::strerror(errno));
  (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  return open_[file] = fd;
}

void SliceFiles::close_all() {
  for (const auto& entry : open_) ::close(entry.second);
  open_.clear();
}

}  // namespace nereus
