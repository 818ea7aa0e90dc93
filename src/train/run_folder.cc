#include "train/run_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "base/log.h"

namespace nereus {

namespace fs = std::filesystem;

void prepare_run_folder(const JobConfig& config) {
  const fs::path folder = config.job.dump_folder;
  std::error_code error;
  fs::create_directories(folder, error);
  NEREUS_CHECK(kConfig, !error && fs::is_directory(folder),
               "job.dump_folder = {}: the folder cannot be made: {}", folder.string(),
               error ? error.message() : "a file of that name is in the way");
  const fs::path metrics = folder / "metrics.jsonl";
  if (fs::exists(metrics)) {
    int n = 1;
    while (fs::exists(folder / fmt::format("metrics.{}.jsonl", n))) ++n;
    fs::rename(metrics, folder / fmt::format("metrics.{}.jsonl", n), error);
  }
  const std::ofstream probe(metrics, std::ios::app);
  NEREUS_CHECK(kConfig, !error && probe.good(),
               "job.dump_folder = {}: cannot be written to: {}. Choose another folder with "
               "--job.dump_folder=...",
               folder.string(), error ? error.message() : std::strerror(errno));
}

std::string checkpoint_folder(const JobConfig& config, int64_t step) {
  return (fs::path(config.job.dump_folder) / config.checkpoint.folder /
          fmt::format("step-{}", step))
      .string();
}

std::optional<std::string> initial_weights(const JobConfig& config) {
  const auto& c = config.checkpoint;
  std::optional<std::string> asked;
  if (c.initial_load_path) {
    asked = *c.initial_load_path;
    NEREUS_CHECK(kConfig, fs::exists(*asked),
                 "checkpoint.initial_load_path is specified but the path is not valid.\n  "
                 "checkpoint.initial_load_path = {}: there is no such file or folder.",
                 *asked);
  } else if (c.initial_load_in_hf) {
    asked = config.model.hf_assets_path;
  }
  const fs::path own = fs::path(config.job.dump_folder) / c.folder;
  int64_t newest = -1;
  if (c.enable && fs::is_directory(own)) {
    for (const auto& entry : fs::directory_iterator(own)) {
      const std::string name = entry.path().filename().string();
      const std::string number = name.starts_with("step-") ? name.substr(5) : "";
      if (number.empty() || number.size() > 18 ||
          number.find_first_not_of("0123456789") != std::string::npos)
        continue;
      if (fs::exists(entry.path() / "model.safetensors") ||
          fs::exists(entry.path() / "model.safetensors.index.json"))
        newest = std::max<int64_t>(newest, std::stoll(number));
    }
  }
  if (newest < 0) return asked;
  const std::string path = checkpoint_folder(config, newest);
  log::warning(
      "{} is a complete save of this run's own folder: its weights are used{}. It holds no "
      "optimizer "
      "state, so training starts at step 1.",
      path, asked ? " instead of " + *asked : "");
  return path;
}

bool log_in_color(const JobConfig& config) {
  return !config.metrics.disable_color_printing && isatty(STDOUT_FILENO) != 0;
}

}  // namespace nereus
