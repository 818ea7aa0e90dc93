#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

namespace nereus {
namespace {

namespace fs = std::filesystem;

std::error_code last_error() { return {errno, std::generic_category()}; }

// Names in it must survive a power cut; a file system that cannot do that is no error.
void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::fsync(fd);
  ::close(fd);
}
void sync_folder_of(const std::string& path) { sync_folder(fs::path(path).parent_path().string()); }

}  // namespace

std::error_code replace_file(const std::string& path, std::string_view contents,
                             const ReplaceOptions& options) {
  AtomicFile file(path, options.suffix);
  if (const std::error_code error = file.create(options.mode)) return error;
  if (const std::error_code error = file.write_at(0, std::as_bytes(std::span(contents))))
    return error;
  if (options.sync)
    if (const std::error_code error = file.sync()) return error;
  return file.commit();
}

std::error_code put_in_place(const std::string& from, const std::string& to,
                             const std::string& aside) {
  sync_folder(from);  // fails without harm where it is a file
  std::error_code error, ignored;
  if (!aside.empty()) fs::rename(to, aside, error);
  if (error) return error;
  fs::rename(from, to, error);
  if (error && !aside.empty()) fs::rename(aside, to, ignored);
  sync_folder_of(to);
  return error;
}

std::string suffix_of_process() { return "." + std::to_string(::getpid()) + ".new"; }

AtomicFile::AtomicFile(std::string path, const std::string& suffix)
    : path_(std::move(path)), partial_(path_ + suffix) {}

std::error_code AtomicFile::create(mode_t mode) {
  // Not truncated: another process may still be writing to that one, or it has another mode.
  if (::unlink(partial_.c_str()) != 0 && errno != ENOENT) return last_error();
  fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  return fd_ < 0 ? last_error() : std::error_code();
}

std::error_code AtomicFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return last_error();
    if (n == 0) return std::make_error_code(std::errc::no_space_on_device);
    offset += n;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

std::error_code AtomicFile::sync() {
  synced_ = true;
  if (::fsync(fd_) != 0 && errno != EINVAL) return last_error();  // EINVAL: it cannot, as pipes
  return {};
}

std::error_code AtomicFile::commit() {
  // Some file systems report only now that there was no space.
  const bool closed = ::close(std::exchange(fd_, -1)) == 0;
  if (!closed || ::rename(partial_.c_str(), path_.c_str()) != 0) {
    const std::error_code error = last_error();
    ::unlink(partial_.c_str());
    return error;
  }
  if (synced_) sync_folder_of(path_);
  return {};
}

void AtomicFile::discard() {
  if (fd_ < 0) return;
  ::close(std::exchange(fd_, -1));
  ::unlink(partial_.c_str());
}

PartialPath::PartialPath(std::string path)
    : path_(std::move(path)), partial_(path_ + suffix_of_process()) {
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

PartialPath::~PartialPath() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(partial_, ignored);
}

std::error_code PartialPath::commit() {
  std::error_code error;
  fs::rename(partial_, path_, error);
  committed_ = !error;
  return error;
}

}  // namespace nereus
