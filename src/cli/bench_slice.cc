#include "cli/bench_slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/device_choice.h"
#include "comm/single_rank.h"
#include "config/load.h"
#include "config/model_flops.h"
#include "engine/engine_options.h"
#include "observe/device_info.h"
#include "observe/metrics.h"
#include "train/trainer.h"

namespace nereus {
namespace {

struct Setting {
  const char* name;
  std::vector<const char*> arguments;
  int torchtitan;  // tokens/s on an H100, compiled; 0: none
};

const std::vector<Setting>& settings() {
  static const std::vector<Setting> all = {
      {"none", {"--activation_checkpoint.mode=none"}, 26700},
      {"none, cuDNN, unordered",
       {"--activation_checkpoint.mode=none", "--device.attention=cudnn",
        "--device.unordered_attention"},
       0},
      {"selective",
       {"--activation_checkpoint.mode=selective", "--activation_checkpoint.selective_ac_option=op",
        "--activation_checkpoint.recompute=norms,swiglu"},
       26700},
      {"full", {"--activation_checkpoint.mode=full"}, 27600},
      {"full, attention kept",
       {"--activation_checkpoint.mode=full", "--activation_checkpoint.keep_attention"},
       27600},
      {"full, cuDNN, unordered",
       {"--activation_checkpoint.mode=full", "--device.attention=cudnn",
        "--device.unordered_attention"},
       27600},
      {"none, round-robin routing",
       {"--activation_checkpoint.mode=none", "--training.debug_moe_force_load_balance"},
       0}};
  return all;
}

constexpr int kWarmUp = 5;

struct Options {
  std::string filter, config = "configs/slice1.toml", folder = "outputs/bench_slice";
  int steps = 20;
  bool small = false;
};

// What one run measured.
struct Measured {
  double tokens_per_second = 0, step_ms = 0, first_step_seconds = 0, causal_flops = 0;
  std::optional<double> peak;
  MemoryUse memory;
};

Measured measure(const Options& options, const Setting& setting, ThreadPool& pool) {
  std::string folder = setting.name;
  std::replace_if(
      folder.begin(), folder.end(), [](char c) { return c == ' ' || c == ','; }, '_');
  std::vector<std::string> arguments{
      options.config, fmt::format("--training.steps={}", kWarmUp + options.steps),
      fmt::format("--job.dump_folder={}/{}", options.folder, folder)};
  if (options.small)
    for (const char* a : {"--model.flavor=debugmodel", "--training.seq_len=128",
                          "--training.local_batch_size=1", "--device.kind=cpu"})
      arguments.emplace_back(a);
  arguments.insert(arguments.end(), setting.arguments.begin(), setting.arguments.end());
  TrainFlags flags;
  const LoadedConfig loaded = load_config(arguments, flags);
  const auto begin = std::chrono::steady_clock::now();
  Stream stream(choose_device(loaded.config.device.kind), &pool);
  const OneRank one;
  Trainer trainer(loaded, stream, *one.all, one.world.rank(0));
  trainer.set_up();
  const double ready =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const int code = trainer.run();
  NEREUS_CHECK(kIo, trainer.data_error().empty(), "{}", trainer.data_error());
  NEREUS_CHECK(kConfig, code == 0, "stopped by a signal (exit code {})", code);
  const std::vector<double>& seconds = trainer.step_seconds();
  std::vector<double> timed(seconds.begin() + kWarmUp, seconds.end());
  std::nth_element(timed.begin(), timed.begin() + static_cast<long>(timed.size() / 2), timed.end());
  const double median = timed[timed.size() / 2];
  const auto& t = loaded.config.training;
  const auto tokens = static_cast<double>(t.local_batch_size * t.seq_len);
  return {.tokens_per_second = tokens / median,
          .step_ms = 1e3 * median,
          .first_step_seconds = ready + seconds.front(),
          .causal_flops = static_cast<double>(
              flops_per_token(training_model_args(loaded.config), t.seq_len).causal),
          .peak = peak_flops(stream),
          .memory = memory_use(stream)};
}

std::string row(const Options& options, const Setting& setting, const Measured& m) {
  const double flops = m.causal_flops * m.tokens_per_second;
  return fmt::format(
      "{:<28}{:>10}{:>10.1f}{:>10.1f}{:>14.1f}{:>10}{:>14}\n", setting.name,
      with_thousands(m.tokens_per_second, 0), m.step_ms, m.memory.peak_gib, m.first_step_seconds,
      m.peak ? fmt::format("{:.1f} %", 100 * flops / *m.peak) : "N/A",
      options.small || setting.torchtitan == 0 ? "" : with_thousands(setting.torchtitan, 0));
}

}  // namespace

int run_bench_slice(int argc, char** argv) {
  Options options;
  CLI::App app("Trains the slice of the 671B model, once a setting", "nereus bench slice");
  app.add_option("--configurations", options.filter, "only settings whose name contains this");
  app.add_option("--steps", options.steps, "timed steps, after 5 that are not")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--config", options.config, "the slice")->capture_default_str();
  app.add_option("--folder", options.folder, "where the runs' folders go")->capture_default_str();
  app.add_flag(
      "--small", options.small,
      "TorchTitan's debugmodel on the CPU in the slice's place: tries the benchmark itself");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  std::vector<Setting> wanted;
  std::string names;
  for (const Setting& s : settings()) {
    names += fmt::format("\n  {}", s.name);
    if (std::string(s.name).find(options.filter) != std::string::npos) wanted.push_back(s);
  }
  NEREUS_CHECK(kConfig, !wanted.empty(),
               "nereus bench slice: no configuration's name contains \"{}\". There are:{}",
               options.filter, names);
  NEREUS_CHECK(kConfig,
               options.small || choose_device(DeviceChoice::automatic).kind == Device::Kind::cuda,
               "nereus bench slice needs a GPU of 80 GB and a program built for it (make "
               "PRESET=cuda); this {}. --small tries the benchmark on the CPU with a small model.",
               kHasCuda ? "machine shows no GPU" : "program was built without GPU code");

  ThreadPool pool(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  std::string table = fmt::format(
      "{}, median of {} steps after {}; share of the peak by the causal count; first step from the "
      "start\n{:<28}{:>10}{:>10}{:>10}{:>14}{:>10}{:>14}\n",
      options.small ? "debugmodel, 1 x 128, CPU" : options.config, options.steps, kWarmUp,
      "setting", "tokens/s", "ms", "GiB", "first step, s", "share", "TorchTitan");
  int code = 0;
  for (const Setting& setting : wanted) {
    log::info("nereus bench slice: {}", setting.name);
    try {
      table += row(options, setting, measure(options, setting, pool));
    } catch (const Error& e) {
      if (e.fault() != Fault::kConfig) throw;
      const std::string what = e.what();
      table +=
          fmt::format("{:<28}did not run: {}\n", setting.name, what.substr(0, what.find('\n')));
      code = 2;
    }
  }
  std::fputs(table.c_str(), stdout);
  return code;
}

}  // namespace nereus
