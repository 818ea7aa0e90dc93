#include "train/run_sinks.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"
#include "config/load.h"
#include "control/tcp.h"
#include "observe/jsonl_sinks.h"
#include "observe/tensorboard_sink.h"
#include "observe/terminal_sink.h"
#include "train/wandb_sync.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string of_all_starts(const JobConfig& config, const WandbSettings& settings,
                          const RunIdentity& run) {
  return fmt::format("{}/offline-run-*-{}", wandb_folder(config, settings), run.id);
}

void add_tensorboard(SinkGroup& sinks, const JobConfig& config, const RunIdentity& run) {
  std::string folder = tensorboard_folder(config, run);
  if (config.metrics.save_for_all_ranks) folder += fmt::format("/rank_{}", run.rank);
  std::error_code error;
  fs::create_directories(folder, error);
  NEREUS_CHECK(kIo, !error, "cannot write {}: {}", folder, error.message());
  sinks.add(std::make_unique<TensorBoardSink>(folder, now(), run.step == 0 ? 0 : run.step + 1));
}

void add_wandb(SinkGroup& sinks, const JobConfig& config, const RunIdentity& run) {
  const WandbSettings settings = wandb_environment();
  if (settings.disabled) return;
  sinks.add(std::make_unique<WandbSink>(WandbRun{.folder = wandb_folder(config, settings),
                                                 .id = run.id,
                                                 .project = settings.project,
                                                 .team = settings.team,
                                                 .name = settings.name,
                                                 .host = tcp::host_name(),
                                                 .config = config_json(config),
                                                 .time = now()}));
}

}  // namespace

int metrics_rank(const Mesh& mesh, const std::string& schedule) {
  const int stages = mesh.size(MeshGroup::pp);
  if (stages == 1 || schedule == "ZBVZeroBubble") return 0;
  return mesh.world() / stages * (stages - 1);
}

std::string tensorboard_folder(const JobConfig& config, const RunIdentity& run) {
  return fs::path(config.job.dump_folder) / config.metrics.save_tb_folder / run.time;
}

WandbSettings wandb_environment() {
  return wandb_settings([](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  });
}

std::string wandb_folder(const JobConfig& config, const WandbSettings& settings) {
  return fs::path(settings.folder.empty() ? config.job.dump_folder : settings.folder) / "wandb";
}

void add_sinks(SinkGroup& sinks, const JobConfig& config, const RunIdentity& run,
               const RunFolder* folder, bool experts) {
  if (folder != nullptr && log::on_terminal())
    sinks.add(std::make_unique<TerminalSink>(config.training.steps, log_in_color(config)));
  else
    sinks.add(std::make_unique<ConsoleSink>(log_in_color(config)));
  if (folder != nullptr) {
    const RunFolder::Files files = folder->new_files();
    sinks.add(std::make_unique<MetricsFileSink>(files.metrics));
    sinks.add(std::make_unique<EventsFileSink>(files.events));
    if (experts) sinks.add(std::make_unique<ExpertsFileSink>(files.experts));
    sinks.add(std::make_unique<KernelFilesSink>(config.job.dump_folder));
  }
  const bool writes = run.rank == run.metrics_rank;
  if (config.metrics.enable_tensorboard && (writes || config.metrics.save_for_all_ranks))
    add_tensorboard(sinks, config, run);
  if (config.metrics.enable_wandb && writes) add_wandb(sinks, config, run);
}

void log_sinks(const JobConfig& config, const RunIdentity& run) {
  const auto& m = config.metrics;
  if (m.enable_tensorboard)
    log::info("TensorBoard: tensorboard --logdir {}", tensorboard_folder(config, run));
  if (m.prometheus_port > 0)
    log::info("Prometheus: http://{}:{}/metrics", m.prometheus_address, m.prometheus_port);
  if (!m.enable_wandb) return;
  const WandbSettings settings = wandb_environment();
  if (settings.disabled) {
    log::info("W&B: WANDB_MODE is disabled: nothing is written.");
    return;
  }
  log::info("W&B: the run is written offline; `wandb sync {}` sends it, now or later.",
            of_all_starts(config, settings, run));
  if (!settings.online && !m.wandb_sync) return;
  if (!settings.has_key)
    log::warning(
        "W&B: there is no key (WANDB_API_KEY, or `wandb login`), so that the run stays offline. "
        "WANDB_MODE=offline says that this is meant.");
  else if (m.wandb_sync && find_program("wandb").empty())
    log::warning(
        "metrics.wandb_sync: there is no program `wandb` in PATH (pip install wandb): the run "
        "stays offline.");
}

void end_wandb(const JobConfig& config, const RunIdentity& run) {
  if (!config.metrics.enable_wandb) return;
  const WandbSettings settings = wandb_environment();
  if (settings.disabled || !settings.has_key || find_program("wandb").empty()) return;
  if (!config.metrics.wandb_sync) {
    if (run.rank == 0)
      log::info("To send the run to W&B: wandb sync {}", of_all_starts(config, settings, run));
    return;
  }
  if (run.rank != run.metrics_rank) return;
  // Other ranks wait for this one to end, up to their time-out.
  const std::chrono::seconds limit(std::min<int64_t>(60, config.comm.train_timeout_seconds / 2));
  const WandbSync sync = wandb_sync(wandb_folder(config, settings), run.id, limit);
  if (!sync.ended)
    log::info("W&B: sending takes more than {} s and goes on in process {}; it writes to {}",
              limit.count(), sync.process, sync.output);
  else if (sync.code != 0)
    log::warning(
        "W&B: `wandb sync` ended with exit code {}: {} has its output. The run is as it "
        "was; the same command sends it later.",
        sync.code, sync.output);
  else
    log::info("W&B: the run is sent.");
}

}  // namespace nereus
