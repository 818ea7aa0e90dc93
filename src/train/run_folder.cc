#include "train/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"
#include "train/checkpoint_start.h"
#include "train/run_sinks.h"

namespace nereus {

namespace fs = std::filesystem;

namespace {

// A folder that can be written to; `key` is what says its name. What did not exist is added to
// `made`, outer folders first.
void make_folder(const fs::path& folder, const char* key, std::vector<fs::path>& made) {
  std::error_code error;
  const size_t before = made.size();
  for (fs::path p = folder; !p.empty() && !fs::exists(p, error) && p != p.root_path();
       p = p.parent_path())
    made.insert(made.begin() + static_cast<std::ptrdiff_t>(before), p);
  fs::create_directories(folder, error);
  NEREUS_CHECK(kConfig, !error && is_folder(folder), "{} = {}: the folder cannot be made: {}", key,
               folder.string(), error ? error.message() : "a file of that name is in the way");
  const fs::path probe = folder / fmt::format(".nereus.{}", ::getpid());
  const int file = ::open(probe.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
  NEREUS_CHECK(kConfig, file >= 0, "{} = {}: cannot be written to: {}. Choose another folder.", key,
               folder.string(), std::strerror(errno));
  ::close(file);
  ::unlink(probe.c_str());
}

}  // namespace

RunFolder::RunFolder(const JobConfig& config) : path_(config.job.dump_folder) {
  try {
    make_folder(path_, "job.dump_folder", made_);
    lock_.emplace(path_, FolderLock::Options());
    if (config.checkpoint.enable && !config.checkpoint.load_only)
      make_folder(checkpoints_of(config), "checkpoint.folder", made_);
    if (config.metrics.enable_tensorboard)
      make_folder(fs::path(path_) / config.metrics.save_tb_folder, "metrics.save_tb_folder", made_);
    if (config.metrics.enable_wandb) {
      const WandbSettings wandb = wandb_environment();
      if (!wandb.disabled)
        make_folder(wandb_folder(config, wandb),
                    wandb.folder.empty() ? "job.dump_folder" : "WANDB_DIR", made_);
    }
    const auto& p = config.profiling;
    if (p.enable_profiling)
      make_folder(fs::path(path_) / p.save_traces_folder, "profiling.save_traces_folder", made_);
    if (p.enable_memory_snapshot)
      make_folder(fs::path(path_) / p.save_memory_snapshot_folder,
                  "profiling.save_memory_snapshot_folder", made_);
  } catch (...) {
    leave();
    throw;
  }
}

RunFolder::~RunFolder() { leave(); }

void RunFolder::leave() {
  std::error_code ignored;
  if (lock_ && !kept_) lock_->remove_file();
  lock_.reset();
  if (!kept_)  // those that are empty
    for (size_t i = made_.size(); i-- > 0;) fs::remove(made_[i], ignored);
}

RunFolder::Files RunFolder::new_files() const {
  const fs::path folder = path_;
  const Files files = {.metrics = folder / "metrics.jsonl",
                       .experts = folder / "experts.jsonl",
                       .events = folder / "events.jsonl"};
  int n = 1;
  while (is_there(folder / fmt::format("metrics.{}.jsonl", n))) ++n;
  const auto set_aside = [&](const std::string& path, const std::string& name) {
    if (!is_there(path)) return;
    std::error_code error;
    fs::rename(path, folder / name, error);
    NEREUS_CHECK(kIo, !error,
                 "{}: an earlier run's, which cannot be set aside as {}: {}. Choose another folder "
                 "with --job.dump_folder=..., or move the file.",
                 path, name, error.message());
  };
  set_aside(files.metrics, fmt::format("metrics.{}.jsonl", n));
  set_aside(files.experts, fmt::format("experts.{}.jsonl", n));
  return files;
}

void RunFolder::write_configuration(const std::string& toml) const {
  const std::string path = path_ + "/resolved_config.toml";
  const std::error_code error = replace_file(path, toml);
  NEREUS_CHECK(kIo, !error, "cannot write {}: {}", path, error.message());
}

bool log_in_color(const JobConfig& config) {
  return !config.metrics.disable_color_printing && isatty(STDOUT_FILENO) != 0;
}

}  // namespace nereus
