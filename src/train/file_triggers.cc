#include "train/file_triggers.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace nereus {
namespace {

bool is_file(const std::string& path) {
  struct stat there {};
  return ::lstat(path.c_str(), &there) == 0 && S_ISREG(there.st_mode);
}

}  // namespace

FileTriggers::FileTriggers(const std::string& folder, std::chrono::milliseconds every)
    : save_{folder + "/" + kSave}, stop_{folder + "/" + kStop}, every_(every) {}

bool FileTriggers::take(File& file) {
  if (file.ignored || !is_file(file.path)) return false;
  if (::unlink(file.path.c_str()) != 0 && errno != ENOENT) {
    file.ignored = true;
    log::warning("{} cannot be removed: {}. It is obeyed once.", file.path, std::strerror(errno));
  }
  return true;
}

void FileTriggers::forget_earlier() {
  for (File* file : {&save_, &stop_})
    if (take(*file))
      log::warning(
          "{} was there before this run began, and is taken for an earlier one's: make it again to "
          "have this run obey.",
          file->path);
}

FileTriggers::Ask FileTriggers::look() {
  const auto now = Clock::now();
  if (now < next_) return Ask::nothing;
  next_ = now + every_;
  const bool save = take(save_), stop = take(stop_);
  return stop ? Ask::stop : save ? Ask::save : Ask::nothing;
}

}  // namespace nereus
