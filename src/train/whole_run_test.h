// Whole runs in tests: a model that trains in milliseconds on random ids, on any number of ranks.
#pragma once

#include <string>
#include <vector>

#include "base/log.h"
#include "comm/thread_ranks.h"
#include "config/load.h"
#include "test/test_tensor.h"
#include "train/trainer.h"

namespace nereus::test {

using Arguments = std::vector<std::string>;

// Of a command line; what comes behind wins. Three layers of experts behind a dense one.
inline Arguments small_model(const std::string& folder) {
  return {"--model.flavor=671B",
          "--model_overrides.vocab_size=64",
          "--model_overrides.dim=32",
          "--model_overrides.inter_dim=48",
          "--model_overrides.moe_inter_dim=16",
          "--model_overrides.n_layers=4",
          "--model_overrides.n_dense_layers=1",
          "--model_overrides.n_heads=2",
          "--model_overrides.num_experts=4",
          "--model_overrides.top_k=2",
          "--model_overrides.q_lora_rank=16",
          "--model_overrides.kv_lora_rank=16",
          "--model_overrides.qk_nope_head_dim=8",
          "--model_overrides.qk_rope_head_dim=8",
          "--model_overrides.v_head_dim=8",
          "--model_overrides.attn_mask_type=causal",
          "--training.dataset=random",
          "--training.local_batch_size=2",
          "--training.seq_len=16",
          "--training.steps=3",
          "--training.mixed_precision_param=float32",
          "--metrics.log_freq=1",
          "--job.dump_folder=" + folder};
}

inline Arguments operator+(Arguments a, const Arguments& more) {
  a.insert(a.end(), more.begin(), more.end());
  return a;
}

// As `nereus train ARGUMENTS --nproc RANKS` does on the CPU.
struct WholeRun {
  int code = -1;                // rank 0's exit code
  std::string log;              // rank 0's
  std::vector<double> seconds;  // of each of its steps
};
inline WholeRun train_on(int ranks, Arguments arguments) {
  if (ranks > 1) arguments.push_back("--nproc=" + std::to_string(ranks));
  TrainFlags flags;
  const LoadedConfig loaded = load_config(arguments, flags);
  ThreadPool threads(2);
  WholeRun run;
  const log::Capture capture;
  const auto rank = [&](Communicator* world) {
    if (world != nullptr) log::set_rank(world->rank(), world->rank() == 0);
    Stream stream(Device::cpu(), &threads);
    Trainer trainer(loaded.config, stream, world);
    trainer.set_up();
    const int code = trainer.run();
    if (world != nullptr && world->rank() != 0) return;
    run.code = code;
    run.seconds = trainer.step_seconds();
  };
  if (ranks == 1) {
    rank(nullptr);
  } else {
    run_thread_ranks(ranks, {.timeout = std::chrono::seconds(60)},
                     [&](Communicator& world) { rank(&world); });
  }
  run.log = capture.text();
  return run;
}

}  // namespace nereus::test
