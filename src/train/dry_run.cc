#include "train/dry_run.h"

#include "base/check.h"
#include "base/log.h"
#include "config/model_flops.h"
#include "engine/engine_options.h"
#include "engine/memory_table.h"
#include "observe/metrics.h"
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

}  // namespace

std::string dry_run(const JobConfig& config, int64_t world) {
  std::string out;
  const ModelArgs args = training_model_args(config);
  const RunLayout layout = run_layout(config, args, world);
  describe_model(out, config, args);
  out += world == 1 ? std::string("Memory of the one rank\n")
                    : fmt::format("Memory of rank 0 of {}: {}\n", world, layout.mesh.to_string());
  Stream meta(Device::meta());
  const DataFacts data = data_facts(config, args);
  if (!data.missing.empty())
    log::warning("Not on this machine, and a run needs it: {}", listed(data));
  return out + memory_table(config, args, layout, 0, meta).text() + data.text;
}

}  // namespace nereus
