#include "train/dry_run.h"

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "base/units.h"
#include "config/gpu_memory.h"
#include "config/model_flops.h"
#include "engine/engine_options.h"
#include "engine/memory_table.h"
#include "observe/metrics.h"
#include "train/checkpoint_facts.h"
#include "train/data_facts.h"

namespace nereus {
namespace {

std::string thousands(int64_t n) { return with_thousands(static_cast<double>(n), 0); }

void describe_model(std::string& out, const JobConfig& config, const ModelArgs& args) {
  const ModelSize s = model_size(args);
  const auto row = [&](const char* name, int64_t n) {
    out += fmt::format("  {:<18} {:>20}\n", name, thousands(n));
  };
  out += fmt::format("Model {} {}: {} total parameters\n", config.model.name, args.flavor,
                     thousands(s.total()));
  row("embedding", s.embedding);
  row("dense", s.dense);
  row("router", s.router);
  row("shared experts", s.shared_experts);
  row("routed experts", s.routed_experts);
  row("active a token", s.active);
  const FlopsPerToken f = flops_per_token(args, config.training.seq_len);
  out +=
      fmt::format("FLOPs a token at sequence {} (forward and backward)\n", config.training.seq_len);
  row("TorchTitan", f.torchtitan);
  row("non-causal", f.non_causal);
  row("causal", f.causal);
  out += fmt::format("Attention {}, routing {}\n", args.mask_name(), routing_name(args.moe));
}

std::string listed(const DataFacts& data) {
  std::string out;
  for (const DataFacts::Missing& m : data.missing) out += (out.empty() ? "" : "; ") + m.text;
  return out;
}

void describe_rank(std::string& out, const RankMemory& r, const RunLayout& layout,
                   const std::string& why) {
  const int world = layout.mesh.world();
  out += world == 1
             ? std::string("Memory of the one rank\n")
             : fmt::format("Memory of rank {} of {}: {}\n", r.rank, world, layout.mesh.to_string());
  if (!why.empty())
    out += fmt::format("  {}; stage{} {} of {}\n", why, r.stages.size() == 1 ? "" : "s",
                       fmt::join(r.stages, ", "), layout.pipeline.schedule.stages());
  out += r.table.text();
}

// A line for the GPU type that is known, or for each: does it fit?
void judge(DryRun& out, const JobConfig& config, double need) {
  if (config.device.kind != DeviceChoice::cuda) return;
  const std::string& type = config.device.gpu_type;
  const bool asked = !type.empty() || config.device.gpu_memory_gib > 0;
  const auto line = [&](const std::string& gpu, double gib) {
    const double most = kMostOfGpuMemory * gib;
    if (asked && need > most) out.fits = false;
    out.text +=
        fmt::format("Fits {}: {} (needs {:.2f}, and a run may have {:.2f} of its {:.1f} GiB)\n",
                    gpu, need <= most ? "yes" : "no", need, most, gib);
  };
  if (config.device.gpu_memory_gib > 0) {
    return line(type.empty() ? "the GPU" : type, config.device.gpu_memory_gib);
  }
  for (const GpuMemory& gpu : gpu_memory())
    if (type.empty() || lower(type) == gpu.type) line(gpu.type, gpu.gib);
}

}  // namespace

DryRun dry_run(const JobConfig& config, int64_t world) {
  DryRun run;
  std::string& out = run.text;
  const ModelArgs args = training_model_args(config);
  const RunLayout layout = run_layout(config, args, world);
  describe_model(out, config, args);
  Stream meta(Device::meta());
  const DataFacts data = data_facts(config, args);
  if (!data.missing.empty())
    log::warning("Not on this machine, and a run needs it: {}", listed(data));
  const std::vector<RankMemory> ranks = memory_of_pipeline(config, args, layout, meta);
  const RankMemory& most = largest(ranks);
  if (ranks.size() == 1) {
    describe_rank(out, most, layout, "");
  } else {
    describe_rank(out, most, layout, "the rank that needs the most");
    if (most.rank != ranks.front().rank)
      describe_rank(out, ranks.front(), layout, "the first of the pipeline");
    if (most.rank != ranks.back().rank)
      describe_rank(out, ranks.back(), layout, "the last of the pipeline");
  }
  out += data.text;
  const CheckpointFacts saves = checkpoint_facts(config, args, world);
  if (!saves.lines.empty())
    out += fmt::format("Checkpoints\n  {}\n", fmt::join(saves.lines, "\n  "));
  if (!saves.too_large.empty()) {
    out += fmt::format("Checkpoints do not fit: {}\n", saves.too_large);
    run.fits = false;
  }
  judge(run, config, most.table.total() / kGiB);
  return run;
}

}  // namespace nereus
