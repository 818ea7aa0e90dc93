#include "checkpoint/conversion_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"
#include "base/log.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhat = "conversion.json";

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool is_empty(const fs::path& folder) {
  std::error_code error;
  return is_folder(folder) && entries_of(folder, error).empty() && !error;
}

}  // namespace

ConversionFolder::ConversionFolder(const std::string& place, const std::string& what) {
  fs::path normal = fs::path(place).lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  place_ = normal.string();
  path_ = place_ + ".partial";
  NEREUS_CHECK(kConfig, !is_there(place_) || is_empty(place_),
               "--to {}: {}, and not an empty one: a conversion does not write over what is there. "
               "Name a folder that does not exist, or remove this one.",
               place, what_is_at(place_));
  NEREUS_CHECK(
      kConfig, !is_there(path_) || is_empty(path_) || is_there(file(kWhat)),
      "--to {}: the files would be made in {}, which is there and of no conversion: move it "
      "away, or name another folder.",
      place, path_);
  std::error_code error;
  fs::create_directories(path_, error);
  NEREUS_CHECK(kConfig, !error, "--to {}: the folder cannot be made: {}; choose another one", place,
               error.message());
  lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  NEREUS_CHECK(kConfig, lock_ < 0 || ::flock(lock_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK,
               "--to {}: another conversion is writing there: wait for its end, or name another "
               "folder.",
               place);
  if (read_text(file(kWhat)) == what) {
    resumed_ = true;
    return;
  }
  if (!is_empty(path_))
    log::warning(
        "{} is of a conversion of other files, or with other options: its files are removed.",
        path_);
  begin_anew(what);
}

ConversionFolder::~ConversionFolder() {
  std::error_code error;
  if (!path_.empty() && entries_of(path_, error).size() == 1 && is_there(file(kWhat)))
    fs::remove_all(path_, error);
  if (lock_ >= 0) ::close(lock_);
}

void ConversionFolder::begin_anew(const std::string& what) const {
  std::error_code error;
  for (const fs::directory_entry& entry : entries_of(path_, error))
    if (!error) fs::remove_all(entry.path(), error);
  NEREUS_CHECK(kIo, !error, "{}: what is in it cannot be removed: {}", path_, error.message());
  write(kWhat, what);
}

void ConversionFolder::write(const std::string& name, const std::string& contents) const {
  const std::error_code error = replace_file(file(name), contents, {.sync = true});
  NEREUS_CHECK(kIo, !error, "{}: cannot write: {}; it needs {} bytes", file(name), error.message(),
               contents.size());
}

void ConversionFolder::remove(const std::string& name) const {
  std::error_code error;
  fs::remove(file(name), error);
  NEREUS_CHECK(kIo, !error, "{}: cannot be removed: {}", file(name), error.message());
}

int64_t ConversionFolder::free_bytes() const {
  struct statvfs s {};
  if (statvfs(path_.c_str(), &s) != 0) return INT64_MAX;
  return static_cast<int64_t>(s.f_bavail) * static_cast<int64_t>(s.f_frsize);
}

void ConversionFolder::finish() {
  std::error_code error;
  fs::remove(file(kWhat), error);
  error = put_in_place(path_, place_, "");
  NEREUS_CHECK(kIo, !error, "{}: cannot move {} there: {}; the files in it are complete", place_,
               path_, error.message());
}

}  // namespace nereus
