#include "hub/local_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/check.h"

namespace nereus::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPiece = size_t{1} << 20;

Digest::Kind kind_of(const RepoFile& file) {
  return file.lfs ? Digest::Kind::sha256 : Digest::Kind::git_blob;
}

// Adds the file's bytes from where it stands; returns how many.
int64_t read_into(Digest& digest, int fd, const std::string& name) {
  std::vector<std::byte> buffer(kPiece);
  int64_t sum = 0;
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    NEREUS_CHECK(kIo, n >= 0, "{}: reading failed: {}", name, std::strerror(errno));
    if (n == 0) return sum;
    digest.add(std::span(buffer).first(static_cast<size_t>(n)));
    sum += n;
  }
}

[[noreturn]] void cannot_write(const std::string& name) {
  const int error = errno;
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    NEREUS_FAIL(
        kIo, "{}: {}: {}. What came is kept: make space and run the same command again.", name,
        error == ENOSPC ? "the disk is full"
                        : (error == EDQUOT ? "the quota is used up"
                                           : "longer than this session may write (ulimit -f)"),
        std::strerror(error));
  if (error == EACCES || error == EROFS || error == EPERM)
    NEREUS_FAIL(kConfig, "{}: cannot be written: {}. Choose a folder that you may write to.", name,
                std::strerror(error));
  NEREUS_FAIL(kIo, "{}: writing failed: {}", name, std::strerror(error));
}

}  // namespace

LocalFile::LocalFile(const std::string& folder, const RepoFile& file)
    : path_((fs::path(folder) / file.path).string()),
      // The name has the checksum, so that a partial file of another version is not resumed.
      partial_(path_ + "." + file.digest.substr(0, 12) + ".partial"),
      file_(file) {}

bool LocalFile::is_whole(bool read) const {
  std::error_code error;
  if (!fs::is_regular_file(path_, error)) return false;
  if (static_cast<int64_t>(fs::file_size(path_, error)) != file_.size || error) return false;
  if (!read) return true;
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  NEREUS_CHECK(kIo, fd >= 0, "{}: cannot be read: {}", path_, std::strerror(errno));
  Digest digest(kind_of(file_), file_.size);
  try {
    read_into(digest, fd, path_);
  } catch (...) {
    ::close(fd);
    throw;
  }
  ::close(fd);
  return digest.hex() == file_.digest;
}

int64_t LocalFile::partial_bytes() const {
  std::error_code error;
  const auto size = fs::file_size(partial_, error);
  return error || static_cast<int64_t>(size) > file_.size ? 0 : static_cast<int64_t>(size);
}

FileWriter::FileWriter(const LocalFile& local, const RepoFile& file)
    : local_(local), digest_(kind_of(file), file.size) {
  std::error_code error;
  fs::create_directories(fs::path(local.path()).parent_path(), error);
  NEREUS_CHECK(kConfig, !error, "{}: cannot be made: {}. Choose a folder that you may write to.",
               fs::path(local.path()).parent_path().string(), error.message());
  fd_ = ::open(local.partial().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) cannot_write(local.partial());
  offset_ = read_into(digest_, fd_, local.partial());
  if (offset_ > file.size) restart();
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::restart() {
  if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) != 0) cannot_write(local_.partial());
  digest_.restart();
  offset_ = 0;
}

void FileWriter::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) cannot_write(local_.partial());
    digest_.add(bytes.first(static_cast<size_t>(n)));
    offset_ += n;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void FileWriter::finish() {
  // Some file systems report only now that there was no space.
  if (::fsync(fd_) != 0 && errno != EINVAL) cannot_write(local_.partial());
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) cannot_write(local_.partial());
  if (::rename(local_.partial().c_str(), local_.path().c_str()) != 0) cannot_write(local_.path());
}

void FileWriter::discard() { ::unlink(local_.partial().c_str()); }

}  // namespace nereus::hub
