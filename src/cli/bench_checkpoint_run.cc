#include "cli/bench_checkpoint_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/units.h"
#include "comm/single_rank.h"
#include "config/load.h"
#include "train/checkpoint_facts.h"
#include "train/trainer.h"

namespace nereus {
namespace {

constexpr size_t kWarmUp = 10;  // steps, in which the memory for the copy is made

double median_of(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<long>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

}  // namespace

std::string bench_checkpoint_run(const BenchCheckpointRun& options) {
  const std::string folder = options.folder + "/run";
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  const auto save_at = kWarmUp + static_cast<size_t>(options.steps);
  // The next multiple is not reached: one save, and that of the end.
  const size_t steps = std::min(save_at + static_cast<size_t>(options.steps), 2 * save_at - 1);
  std::vector<std::string> arguments{options.config,
                                     "--job.dump_folder=" + folder,
                                     fmt::format("--training.steps={}", steps),
                                     fmt::format("--checkpoint.interval={}", save_at),
                                     "--checkpoint.enable",
                                     "--checkpoint.async_mode=async_with_pinned_mem",
                                     "--checkpoint.last_save_model_only",
                                     "--checkpoint.export_dtype=bfloat16"};
  if (options.small)
    for (const char* a : {"--model.flavor=debugmodel", "--training.seq_len=128",
                          "--training.local_batch_size=1", "--device.kind=cpu"})
      arguments.emplace_back(a);
  TrainFlags flags;
  const LoadedConfig loaded = load_config(arguments, flags);
  ThreadPool pool(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  Stream stream(choose_device(options.small ? std::optional(Device::Kind::cpu) : std::nullopt),
                &pool);
  const OneRank one;
  Trainer trainer(loaded, stream, *one.all, one.world.rank(0));
  trainer.set_up();
  const int code = trainer.run();
  NEREUS_CHECK(kConfig, code == 0, "stopped by a signal (exit code {})", code);
  const std::vector<double>& t = trainer.step_seconds();
  const std::vector<double> before(t.begin() + kWarmUp, t.begin() + static_cast<long>(save_at)),
      after(t.begin() + static_cast<long>(save_at), t.end());
  const double median = median_of(before),
               mean = std::accumulate(before.begin(), before.end(), 0.0) /
                      static_cast<double>(before.size());
  const double longer =
      std::accumulate(after.begin(), after.end(), 0.0) - median * static_cast<double>(after.size());
  const bool complete =
      std::filesystem::exists(fmt::format("{}/checkpoint/step-{}/manifest.json", folder, save_at));
  const int64_t bytes = checkpoint_bytes(loaded.config, training_model_args(loaded.config), false);
  std::string out = fmt::format(
      "save beside steps, {}: {:.2f} GiB of states{}\n"
      "  a step before it   {:9.1f} ms (median of {}; mean {:.1f})\n"
      "  the step after it  {:9.1f} ms longer: the stall\n"
      "  the {} after it    {:9.1f} ms longer in all: stall and slowdown\n",
      options.small ? "debugmodel, 1 x 128, CPU" : options.config,
      static_cast<double>(bytes) / kGiB, complete ? "" : "; IT DID NOT SUCCEED", 1e3 * median,
      before.size(), 1e3 * mean, 1e3 * (after[0] - median), after.size(), 1e3 * longer);
  if (!options.small) out += "  stated, on one GPU with 30 GiB of states: at most 500 ms in all\n";
  return out;
}

}  // namespace nereus
