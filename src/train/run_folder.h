// The folder of a run, and where weights come from and go to.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "control/world.h"

namespace nereus {

// A run's hold on job.dump_folder, from when it starts until it ends, however it ends. Until keep()
// the run may still be refused: then nothing that was made for it stays.
class RunFolder {
 public:
  // Makes it, and the folder of checkpoints where there will be any, and checks that they can be
  // written to. Throws Error{kConfig}, also when another run holds it (by flock on a hidden file;
  // file systems without locks are taken on trust).
  explicit RunFolder(const JobConfig&);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  void keep() { kept_ = true; }

  // {folder}/metrics.jsonl, after an earlier run's was set aside as metrics.1.jsonl, .2, ...
  std::string new_metrics_file() const;

 private:
  void lock();
  void leave();
  std::string path_;
  std::vector<std::filesystem::path> made_;  // folders that were not there, outer ones first
  int lock_ = -1;
  bool made_lock_ = false, kept_ = false;
};

// {dump_folder}/{checkpoint.folder}, and step-{N} in it.
std::string checkpoints_of(const JobConfig&);
std::string checkpoint_folder(const JobConfig&, int64_t step);

// The Hugging Face weights that the run starts from, if any: the newest complete save of its own
// folder, else checkpoint.initial_load_path (or model.hf_assets_path). Logs when the first hides
// the second.
//
// Rank 0, the one that saves, looks and decides; all others get its answer, once in a world. A host
// may see another folder of that name, or an earlier state of it. Throws Error{kConfig} when there
// is no such path: on rank 0 as the configuration has it, on others as rank 0 decided, with the
// rank and its host; Error{kComm} when rank 0 failed.
struct InitialWeights {
  std::string path;
  bool own = false;  // of the run's folder
};
std::optional<InitialWeights> initial_weights(const JobConfig&, World&);

// Should step lines have colours?
bool log_in_color(const JobConfig&);

}  // namespace nereus
