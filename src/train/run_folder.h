// The folder of a run.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "train/folder_lock.h"

namespace nereus {

// A run's hold on job.dump_folder, from when it starts until it ends, however it ends. Until keep()
// the run may still be refused: then nothing that was made for it stays.
class RunFolder {
 public:
  // Makes it, and the folders of checkpoints, traces and memory snapshots where there will be any,
  // and checks that they can be written to. Throws Error{kConfig}, also when another run holds it
  // (train/folder_lock.h).
  explicit RunFolder(const JobConfig&);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  void keep() { kept_ = true; }
  // resolved_config.toml. Throws Error{kIo}.
  void write_configuration(const std::string& toml) const;
  void check_held() const { lock_->check(); }  // Error{kIo}: another run has taken the folder

  // Paths in the folder, of files that are not there: an earlier start's were set aside as
  // metrics.1.jsonl and experts.1.jsonl, .2, ... events.jsonl goes on.
  struct Files {
    std::string metrics, experts, events;
  };
  Files new_files() const;

 private:
  void leave();
  std::string path_;
  std::vector<std::filesystem::path> made_;  // folders that were not there, outer ones first
  std::optional<FolderLock> lock_;
  bool kept_ = false;
};

// Should step lines have colours?
bool log_in_color(const JobConfig&);

}  // namespace nereus
