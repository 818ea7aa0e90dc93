#include "train/checkpoint_facts.h"

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/text.h"
#include "config/model_flops.h"
#include "train/checkpoint_start.h"

namespace nereus {

namespace fs = std::filesystem;

int64_t checkpoint_bytes(const JobConfig& config, const ModelArgs& args, bool weights) {
  const int64_t each = weights ? size_of(config.checkpoint.export_dtype)
                               : 4 + 2 * size_of(config.optimizer.moment_dtype);
  return model_size(args).total() * each;
}

std::string checkpoint_facts(const JobConfig& config, const ModelArgs& args, int64_t world) {
  const auto& c = config.checkpoint;
  if (!c.enable || c.load_only) return "";
  constexpr int64_t kBytesPerSecond = 1'000'000'000;  // of a rank
  const int64_t steps = config.training.steps;
  const bool only_last = c.interval >= steps && c.interval_minutes == 0;
  const bool last_is_whole = !c.last_save_model_only;
  const int64_t whole = checkpoint_bytes(config, args, false),
                last = checkpoint_bytes(config, args, !last_is_whole), rank = whole / world;
  std::string out = "Checkpoints\n";
  if (!only_last || last_is_whole)
    out += fmt::format("  weights and moments {}, {} a rank: {:.1f} s at {} a second and rank\n",
                       size_text(whole), size_text(rank),
                       static_cast<double>(rank) / static_cast<double>(kBytesPerSecond),
                       size_text(kBytesPerSecond));
  if (!last_is_whole)
    out += fmt::format("  the last one, weights alone in {}: {}\n", word(c.export_dtype),
                       size_text(last));
  if (c.async_mode != "disabled" && !only_last)
    out +=
        fmt::format("  a copy in host memory while they are written: {} a rank\n", size_text(rank));
  // One more than are kept is there while it is written.
  const int64_t saved = only_last ? 0 : (steps - 1) / c.interval;
  const int64_t kept = c.keep_latest_k == 0 ? saved : std::min(saved, c.keep_latest_k + 1);
  const int64_t need = kept * whole + last;
  fs::path at = checkpoints_of(config);
  std::error_code error;
  while (!at.empty() && !fs::exists(at, error) && at != at.parent_path()) at = at.parent_path();
  if (at.empty()) at = ".";
  const fs::space_info space = fs::space(at, error);
  out += fmt::format("  together at most {}", size_text(need));
  if (!error)
    out += fmt::format("; {} has {} free{}", at.string(),
                       size_text(static_cast<int64_t>(space.available)),
                       static_cast<uint64_t>(need) <= space.available
                           ? ""
                           : ": they do not fit (checkpoint.keep_latest_k keeps fewer)");
  return out + "\n";
}

}  // namespace nereus
