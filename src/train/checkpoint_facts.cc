#include "train/checkpoint_facts.h"

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "base/text.h"
#include "comm/communicator.h"
#include "config/model_flops.h"
#include "train/checkpoint_start.h"

namespace nereus {

namespace fs = std::filesystem;

namespace {

// Of those that are there, which later ones take the place of.
int64_t bytes_of_checkpoints(const std::string& folder) {
  int64_t sum = 0;
  std::error_code error;
  for (const fs::directory_entry& step : entries_of(folder, error))
    for (const fs::directory_entry& file : entries_of(step.path(), error)) {
      const uintmax_t bytes = file.file_size(error);
      if (!error) sum += static_cast<int64_t>(bytes);
    }
  return sum;
}

}  // namespace

int64_t checkpoint_bytes(const JobConfig& config, const ModelArgs& args, bool weights) {
  const int64_t each = weights ? size_of(config.checkpoint.export_dtype)
                               : 4 + 2 * size_of(config.optimizer.moment_dtype);
  return model_size(args).total() * each;
}

CheckpointFacts checkpoint_facts(const JobConfig& config, const ModelArgs& args, int64_t world) {
  CheckpointFacts out;
  const auto& c = config.checkpoint;
  if (!c.enable || c.load_only) return out;
  constexpr int64_t kBytesPerSecond = 1'000'000'000;  // of a rank
  const int64_t steps = config.training.steps;
  const bool only_last = c.interval >= steps && c.interval_minutes == 0;
  const bool last_is_whole = !c.last_save_model_only;
  const int64_t whole = checkpoint_bytes(config, args, false),
                last = checkpoint_bytes(config, args, !last_is_whole), rank = whole / world;
  if (!only_last || last_is_whole)
    out.lines.push_back(fmt::format(
        "weights and moments {}, {} a rank: {:.1f} s at {} a second and rank", size_text(whole),
        size_text(rank), static_cast<double>(rank) / static_cast<double>(kBytesPerSecond),
        size_text(kBytesPerSecond)));
  if (!last_is_whole)
    out.lines.push_back(fmt::format("the last one, weights alone in {}: {}", word(c.export_dtype),
                                    size_text(last)));
  if (c.async_mode != "disabled" && !only_last) {
    const int64_t node = std::min<int64_t>(world, kMostGpusOfAHost);
    out.lines.push_back(
        fmt::format("a copy in host memory while they are written: {} a rank, {} a node of {}",
                    size_text(rank), size_text(node * rank), node));
  }
  // One more than are kept is there while it is written.
  const int64_t saved = only_last ? 0 : (steps - 1) / c.interval;
  const int64_t kept = c.keep_latest_k == 0 ? saved : std::min(saved, c.keep_latest_k + 1);
  const int64_t need = kept * whole + last;
  fs::path at = checkpoints_of(config);
  std::error_code error;
  while (!at.empty() && !fs::exists(at, error) && at != at.parent_path()) at = at.parent_path();
  if (at.empty()) at = ".";
  const fs::space_info space = fs::space(at, error);
  std::string together = fmt::format("together at most {}", size_text(need));
  if (!error)
    together += fmt::format("; {} has {} free", at.string(),
                            size_text(static_cast<int64_t>(space.available)));
  out.lines.push_back(std::move(together));
  const int64_t there = bytes_of_checkpoints(checkpoints_of(config));
  if (!error && static_cast<uint64_t>(std::max<int64_t>(0, need - there)) > space.available)
    out.too_large = fmt::format(
        "{} checkpoints of {} and the last of {} are {}, and {} has {} free: keep fewer "
        "(checkpoint.keep_latest_k = {}), save less often (checkpoint.interval = {}), halve the "
        "moments (optimizer.moment_dtype = \"bfloat16\"), or choose another job.dump_folder.",
        kept, size_text(whole), size_text(last), size_text(need), at.string(),
        size_text(static_cast<int64_t>(space.available)), c.keep_latest_k, c.interval);
  return out;
}

}  // namespace nereus
