// One run at a time in a folder: a hidden file, .nereus.lock, with the process and host that hold
// it. It is locked (flock) where the file system does that for all hosts or for this one; where it
// does not (Lustre without the mount option, some NFS), the file alone says who is there. The
// holder writes into it again every `beat`, so that one that was killed is told from one that runs:
//
//   the holder's host     it has ended when
//   this one              no such process runs (same number, start and process namespace)
//   another one           it is an earlier attempt of this Slurm job; or the file has not changed
//                         for six beats; or does not change for three beats that are waited for
//
// A run whose file another one has taken over (it was stopped for long) must end: check().
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace nereus {

class FolderLock {
 public:
  // Who holds it. Two are the same run when `process`, `start`, `host` and `space` are.
  struct Holder {
    std::string host;
    int64_t process = 0;
    int64_t start = 0;      // of the process, in the kernel's ticks
    std::string space;      // its process namespace
    std::string job = "-";  // Slurm's number of the job, and which attempt it is
    int64_t attempt = 0;
  };
  static Holder this_process();

  struct Options {
    Holder me = this_process();
    bool flock = true;  // false: as on a file system without locks
    std::chrono::milliseconds beat{5'000};
    std::chrono::milliseconds settle{500};  // without locks, until two who come at once see it
  };

  // Throws Error{kConfig} when another run holds the folder. A file that cannot be made or opened
  // is no reason to refuse: the folder is taken on trust.
  explicit FolderLock(const std::string& folder, const Options&);
  ~FolderLock();  // free for the next
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  void remove_file();  // where this one has made it, at the end
  // Throws Error{kIo} when another run has taken the folder.
  void check() const;

 private:
  void take();
  bool has_ended(const Holder&, const std::string& text) const;
  void write(int64_t beats) const;
  bool stays_silent(const std::string& text) const;
  [[noreturn]] void refuse(const std::string& text) const;
  std::string text(int64_t beats) const;
  void keep_beating();

  const std::string folder_, file_;
  const Options options_;
  int fd_ = -1;
  bool made_ = false, remove_ = false, locked_ = false;

  std::atomic<bool> lost_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace nereus
