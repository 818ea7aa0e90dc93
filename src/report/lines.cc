#include "report/lines.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/files.h"

namespace nereus::report {
namespace {

constexpr size_t kBlock = size_t{1} << 20;

}  // namespace

FileLines::FileLines(const std::string& path, int64_t offset) : path_(path), offset_(offset) {
  file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  NEREUS_CHECK(kConfig, file_ >= 0 && !is_folder(path), "{}: cannot be read: {}.", path,
               file_ < 0 ? std::strerror(errno) : "it is a folder");
  if (offset > 0) ::lseek(file_, offset, SEEK_SET);
  ::posix_fadvise(file_, 0, 0, POSIX_FADV_SEQUENTIAL);
  buffer_.resize(kBlock + kPadding);
}

FileLines::~FileLines() {
  if (file_ >= 0) ::close(file_);
}

bool FileLines::fill() {
  if (at_end_) return false;
  if (begin_ > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  if (end_ + kPadding + kBlock / 2 > buffer_.size()) buffer_.resize(2 * buffer_.size());
  const size_t room = buffer_.size() - kPadding - end_;
  ssize_t n = 0;
  do n = ::read(file_, buffer_.data() + end_, room);
  while (n < 0 && errno == EINTR);
  NEREUS_CHECK(kIo, n >= 0, "{}: cannot be read on: {}", path_, std::strerror(errno));
  end_ += static_cast<size_t>(n);
  std::memset(buffer_.data() + end_, 0, kPadding);
  at_end_ = n == 0;
  return n > 0;
}

bool FileLines::next(std::string_view& line) {
  size_t looked = 0;
  for (;;) {
    const char* const from = buffer_.data() + begin_;
    const size_t there = end_ - begin_;
    const void* const newline = std::memchr(from + looked, '\n', there - looked);
    if (newline == nullptr && there > kLongest) {
      offset_ += static_cast<int64_t>(there);
      begin_ = end_ = looked = 0;
      if (!fill()) return false;
      continue;
    }
    if (newline == nullptr) {
      looked = there;
      if (fill()) continue;
    }
    if (newline == nullptr && there == 0) return false;
    whole_ = newline != nullptr;
    const size_t length =
        whole_ ? static_cast<size_t>(static_cast<const char*>(newline) - from) : there;
    line = std::string_view(buffer_.data() + begin_, length);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const size_t taken = length + (whole_ ? 1 : 0);
    begin_ += taken;
    offset_ += static_cast<int64_t>(taken);
    return true;
  }
}

}  // namespace nereus::report
