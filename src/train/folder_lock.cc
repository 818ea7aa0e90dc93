#include "train/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/check.h"
#include "base/log.h"
#include "control/tcp.h"

namespace nereus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kRecord = 256;  // bytes, always written at once

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr || *value == 0 ? "-" : value;
}

// 0: there is none.
int64_t start_of(int64_t process) {
  std::ifstream in(fmt::format("/proc/{}/stat", process));
  std::string line;
  if (!std::getline(in, line)) return 0;
  std::istringstream words(line.substr(line.rfind(')') + 1));  // the name may have anything
  std::string word;
  for (int i = 0; i < 20; ++i) words >> word;  // from the third field to the 22nd
  return std::strtoll(word.c_str(), nullptr, 10);
}

std::optional<FolderLock::Holder> parse(const std::string& text) {
  FolderLock::Holder h;
  std::string word;
  std::istringstream in(text);
  if (!(in >> word >> h.process >> word >> h.host)) return std::nullopt;
  in >> word >> h.start >> word >> h.space >> word >> h.job >> word >> h.attempt;
  return h;
}

bool same(const FolderLock::Holder& a, const FolderLock::Holder& b) {
  return a.process == b.process && a.start == b.start && a.host == b.host && a.space == b.space;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Opened anew, so that a network file system looks at its server.
std::string read_record(const std::string& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  std::array<char, kRecord> text{};
  const ssize_t n = ::pread(fd, text.data(), text.size(), 0);
  ::close(fd);
  return {text.data(), n > 0 ? static_cast<size_t>(n) : 0};
}

// How long ago the file was written to, by its file system's own clock; 0: not known.
std::chrono::seconds age_of(const std::string& file) {
  const std::string now = fmt::format("{}.{}", file, ::getpid());
  struct stat there {
  }, fresh{};
  const int fd = ::open(now.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  const bool known =
      fd >= 0 && ::write(fd, "x", 1) == 1 && ::fsync(fd) == 0 && ::fstat(fd, &fresh) == 0;
  if (fd >= 0) ::close(fd);
  ::unlink(now.c_str());
  if (!known || ::stat(file.c_str(), &there) != 0) return std::chrono::seconds(0);
  return std::chrono::seconds(fresh.st_mtime - there.st_mtime);
}

}  // namespace

FolderLock::Holder FolderLock::this_process() {
  Holder h;
  h.host = tcp::host_name();
  h.process = ::getpid();
  h.start = start_of(h.process);
  std::error_code ignored;
  h.space = std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string();
  if (h.space.empty()) h.space = "-";
  h.job = variable("SLURM_JOB_ID");
  h.attempt = std::strtoll(variable("SLURM_RESTART_COUNT").c_str(), nullptr, 10);
  return h;
}

FolderLock::FolderLock(const std::string& folder, const Options& options)
    : folder_(folder), file_(folder + "/.nereus.lock"), options_(options) {
  take();
  if (fd_ >= 0) thread_ = std::thread([this] { keep_beating(); });
}

FolderLock::~FolderLock() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (fd_ < 0) return;
  if (!lost_) {
    if (remove_ && made_) ::unlink(file_.c_str());
    if (::ftruncate(fd_, 0) != 0) errno = 0;
  }
  ::close(fd_);  // which ends the lock
}

void FolderLock::remove_file() { remove_ = true; }

std::string FolderLock::text(int64_t beats) const {
  const Holder& m = options_.me;
  return fmt::format("process {} on {}\nstart {} space {} job {} attempt {} beats {}\n", m.process,
                     m.host, m.start, m.space, m.job, m.attempt, beats);
}

void FolderLock::write(int64_t beats) const {
  std::string record = text(beats);
  record.resize(kRecord, '\n');
  const ssize_t n = ::pwrite(fd_, record.data(), record.size(), 0);
  if (n > 0 && !locked_) (void)::fsync(fd_);  // other hosts have nothing else to see
}

void FolderLock::take() {
  fd_ = ::open(file_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
  if (fd_ >= 0) made_ = true;
  if (fd_ < 0 && errno == EEXIST) fd_ = ::open(file_.c_str(), O_RDWR | O_CLOEXEC);
  if (fd_ < 0) {
    if (errno == ENOENT) take();  // it was removed meanwhile
    return;
  }
  try {
    locked_ = options_.flock && ::flock(fd_, LOCK_EX | LOCK_NB) == 0;
    if (options_.flock && !locked_ && errno == EWOULDBLOCK) refuse(read_record(file_));
    struct stat held {
    }, there{};
    if (locked_ && ::fstat(fd_, &held) == 0 &&
        (::stat(file_.c_str(), &there) != 0 || held.st_ino != there.st_ino)) {
      ::close(fd_);  // a run that was refused removed the file since it was opened
      made_ = false;
      return take();
    }
    const std::string before = read_record(file_);
    const std::optional<Holder> holder = parse(before);
    // A process of this host would hold the lock.
    const bool free = !holder || (locked_ && holder->host == options_.me.host);
    if (!free && !has_ended(*holder, before)) refuse(before);
    write(0);
    if (locked_) return;
    std::this_thread::sleep_for(options_.settle);
    const std::string now = read_record(file_);
    const std::optional<Holder> last = parse(now);
    if (last && !same(*last, options_.me)) refuse(now);
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

bool FolderLock::has_ended(const Holder& holder, const std::string& text) const {
  const Holder& me = options_.me;
  if (holder.host == me.host && holder.space == me.space) {
    if (me.start == 0) return ::kill(static_cast<pid_t>(holder.process), 0) != 0 && errno == ESRCH;
    return start_of(holder.process) != holder.start;
  }
  if (holder.job != "-" && holder.job == me.job && holder.attempt < me.attempt) return true;
  if (age_of(file_) > 6 * options_.beat) return true;
  return stays_silent(text);
}

bool FolderLock::stays_silent(const std::string& text) const {
  const auto wait = 3 * options_.beat;
  log::info(
      "{}: {} was in it and did not say that it ended: waiting up to {:g} s to see whether it "
      "runs.",
      folder_, first_line(text), std::chrono::duration<double>(wait).count());
  for (const auto end = Clock::now() + wait; Clock::now() < end;) {
    std::this_thread::sleep_for(std::min(options_.beat, std::chrono::milliseconds(200)));
    if (read_record(file_) != text) return false;
  }
  return true;
}

void FolderLock::refuse(const std::string& text) const {
  NEREUS_FAIL(kConfig,
              "job.dump_folder = {}: another run is in it ({}). Two would overwrite each other's "
              "metrics and weights: choose another folder with --job.dump_folder=..., or end that "
              "run.",
              folder_, parse(text) ? first_line(text) : "of an unknown process");
}

void FolderLock::check() const {
  if (!lost_) return;
  const std::string now = read_record(file_);
  NEREUS_FAIL(kIo,
              "job.dump_folder = {}: another run ({}) has taken the folder, since this one gave no "
              "sign of life there for {:g} s. This one ends, without saving.",
              folder_, parse(now) ? first_line(now) : "it has ended",
              std::chrono::duration<double>(3 * options_.beat).count());
}

void FolderLock::keep_beating() {
  std::unique_lock lock(mutex_);
  for (int64_t beats = 1;; ++beats) {
    if (changed_.wait_for(lock, options_.beat, [&] { return over_; })) return;
    const std::optional<Holder> now = parse(read_record(file_));
    if (now && !same(*now, options_.me)) {
      lost_ = true;
      return;
    }
    if (now) write(beats);  // else somebody has removed the file
  }
}

}  // namespace nereus
