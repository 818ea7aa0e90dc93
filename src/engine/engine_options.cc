#include "engine/engine_options.h"

#include <algorithm>

#include "base/check.h"

namespace nereus {

ModelArgs training_model_args(const JobConfig& config) {
  ModelArgs args = resolve_model_args(config);
  args.max_seq_len = config.training.seq_len;
  return args;
}

namespace {

// What a run on a GPU keeps in host memory; on the CPU nothing, which is all of it. GEMMs must
// not read what would be there.
Offload offload(const JobConfig& config, bool gpu) {
  if (!gpu) return Offload::none;
  NEREUS_CHECK(kConfig,
               config.optimizer.offload != Offload::states ||
                   config.training.mixed_precision_param == DType::bf16,
               "optimizer.offload = \"states\" keeps the masters in host memory, and with "
               "training.mixed_precision_param = \"{}\" GEMMs read the masters themselves: set "
               "that to bfloat16, or optimizer.offload to moments.",
               word(config.training.mixed_precision_param));
  return config.optimizer.offload;
}

// What each block recomputes, by activation_checkpoint.mode.
std::vector<Recompute> recompute_by_block(const JobConfig& config, int64_t blocks) {
  const auto& ac = config.activation_checkpoint;
  std::vector<Recompute> out(static_cast<size_t>(blocks), Recompute::none());
  if (ac.mode == RecomputeMode::none) return out;
  Recompute whole = Recompute::full();
  whole.kept_attention = ac.keep_attention;
  for (size_t i = 0; i < out.size(); ++i) {
    if (ac.mode == RecomputeMode::full) {
      out[i] = whole;
    } else if (ac.selective_ac_option == "op") {
      const auto named = [&](RecomputePart what) {
        return std::find(ac.recompute.begin(), ac.recompute.end(), what) != ac.recompute.end();
      };
      out[i] = {.norms = named(RecomputePart::norms),
                .mla_up = named(RecomputePart::mla_up),
                .assembly = named(RecomputePart::assembly),
                .swiglu = named(RecomputePart::swiglu),
                .dispatch = named(RecomputePart::dispatch),
                .gate_up = named(RecomputePart::gate_up) &&
                           (static_cast<int64_t>(i) + 1) % ac.gate_up_every == 0};
    } else {
      // TorchTitan's rule: every n-th block, counted from 1; 0: all of them.
      const size_t every = std::stoul(ac.selective_ac_option);
      if (every == 0 || (i + 1) % every == 0) out[i] = whole;
    }
  }
  return out;
}

}  // namespace

Engine::Options engine_options(const JobConfig& c, const ModelArgs& args, const RunLayout& layout,
                               const RankWorld& world, bool gpu, EngineUse use) {
  return {.compute = c.training.mixed_precision_param,
          .rows = layout.microbatch_rows,
          .sequence = c.training.seq_len,
          .eos_id = static_cast<int32_t>(args.eos_id),
          .recompute = recompute_by_block(c, args.n_layers),
          .gradients = use == EngineUse::training,
          .moments = use == EngineUse::training,
          .moment_type = c.optimizer.moment_dtype,
          .split_masters = c.optimizer.master_dtype == MasterType::split,
          .offload = offload(c, gpu),
          .attention = {.cudnn = c.device.attention == AttentionChoice::cudnn,
                        .unordered = c.device.unordered_attention},
          .reserved_sms = static_cast<int>(c.device.reserved_sms),
          .poison_released = c.device.poison_released,
          .world = &world,
          .capacity_factor = c.parallelism.expert_capacity_factor,
          .dispatcher = c.parallelism.expert_dispatcher,
          .expert_overlap = c.parallelism.expert_overlap,
          .reshard = reshards(c),
          .reduce_each_microbatch = c.parallelism.reduce_each_microbatch,
          .pipeline = &layout.pipeline};
}

Optimizer::Options optimizer_options(const JobConfig& c) {
  return {.decoupled = c.optimizer.name == OptimizerName::adamw,
          .beta1 = c.optimizer.beta1,
          .beta2 = c.optimizer.beta2,
          .eps = c.optimizer.eps,
          .weight_decay = c.optimizer.weight_decay,
          .max_norm = c.training.max_norm};
}

}  // namespace nereus
