#include "cli/run_facts.h"

#include <map>
#include <memory>

#include "base/check.h"
#include "base/text.h"
#include "base/units.h"
#include "config/gpu_memory.h"
#include "config/load.h"
#include "launch/log_ranks.h"
#include "train/run_check.h"

namespace nereus {
namespace {

using GpuMemories = std::map<std::string, double>;

// GiB that CUDA offers of the run's GPUs: what the configuration says, else the cluster's file,
// else what the type has.
double gib_of(const JobConfig& config, const std::string& type, const GpuMemories& cluster) {
  if (config.device.gpu_memory_gib > 0) return config.device.gpu_memory_gib;
  if (const auto it = cluster.find(lower(type)); it != cluster.end()) return it->second;
  const std::optional<double> gib = gpu_memory_gib(type);
  NEREUS_CHECK(kContract, gib.has_value(), "no memory of a GPU of type {}", type);
  return *gib;
}

recipe::RunFacts facts_of(const recipe::RecipeRun& run, const GpuMemories& cluster) {
  check_log_ranks(log_ranks(run.log_rank), run.gpus);
  std::vector<std::string> arguments(run.train.begin() + 2, run.train.end());
  arguments.insert(arguments.end(), {"--dry-run", "--world=" + std::to_string(run.gpus)});
  TrainFlags flags;
  LoadedConfig loaded = load_config(arguments, flags);
  recipe::RunFacts out;
  if (flags.help || flags.config_reference || flags.print_config) return out;
  JobConfig& config = loaded.config;
  if (config.device.kind == DeviceChoice::automatic) config.device.kind = DeviceChoice::cuda;
  if (config.device.gpu_type.empty()) config.device.gpu_type = run.gpu_type;
  const RunCheck check = check_run(config, run.gpus);
  const auto& p = config.parallelism;
  out.lines.push_back(fmt::format(
      "pp {} x dp_shard {}, ep {}; batch {} a GPU, {} in all; {} steps of {} tokens a row",
      p.pipeline_parallel_degree, check.layout.mesh.size(MeshGroup::dp_shard),
      p.expert_parallel_degree, config.training.local_batch_size, check.layout.global_batch,
      config.training.steps, config.training.seq_len));
  out.saves = config.checkpoint.enable && !config.checkpoint.load_only;
  out.lines.push_back(fmt::format("attention {}, routing {}", check.args.mask_name(),
                                  routing_name(check.args.moe)));
  const double need = check.memory.total() / kGiB;
  std::string memory =
      fmt::format("memory {:.1f} GiB on rank {}, which needs most", need, check.rank);
  if (config.device.kind == DeviceChoice::cuda) {
    const double has = gib_of(config, run.gpu_type, cluster);
    memory += fmt::format(" ({}: {:.1f} GiB)", run.gpu_type, has);
    if (need > kMostOfGpuMemory * has)
      out.too_large = fmt::format(
          "the run needs {:.1f} GiB on rank {} of {}, and a GPU of type {} has {:.1f}, of which a "
          "run may take {:.1f}.\n{}  What makes it smaller: LOCAL_BATCH_SIZE, SEQ_LEN, "
          "ACTIVATION_CHECKPOINT_MODE=full, --optimizer.master_dtype=split; a greater "
          "PIPELINE_PARALLEL_DEGREE, more GPUs.",
          need, check.rank, run.gpus, run.gpu_type, has, kMostOfGpuMemory * has,
          check.memory.text());
  }
  out.lines.push_back(memory);
  const Schedule& schedule = check.layout.pipeline.schedule;
  if (schedule.stages() > 1)
    out.lines.push_back(fmt::format(
        "pipeline idle for {:.0f} % of a step at equal costs of its parts ({}, {} stages, {} "
        "microbatches)",
        100 * check.bubble, schedule.name, schedule.stages(), check.layout.microbatches));
  for (const std::string& line : check.checkpoints.lines)
    out.lines.push_back("checkpoints: " + line);
  if (out.too_large.empty()) out.too_large = check.checkpoints.too_large;
  for (const DataFacts::Missing& m : check.data.missing) out.missing.push_back({m.path, m.text});
  return out;
}

}  // namespace

recipe::RunCheck run_check(GpuMemories gpu_memory_gib) {
  const auto known = std::make_shared<std::map<std::string, recipe::RunFacts>>();
  return [known, cluster = std::move(gpu_memory_gib)](const recipe::RecipeRun& run) {
    std::string key = fmt::format("{} {} {}", run.gpu_type, run.gpus, run.log_rank);
    for (const std::string& word : run.train)
      if (!word.starts_with("--job.dump_folder=")) key += '\0' + word;
    const auto found = known->find(key);
    return found != known->end() ? found->second
                                 : known->emplace(key, facts_of(run, cluster)).first->second;
  };
}

}  // namespace nereus
