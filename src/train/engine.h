// One rank's model, ready to compute: parameters, tables, balancing state, stage and executor, made
// from the model's arguments. What `train`, `probe` and `--dry-run` share.
#pragma once

#include <memory>
#include <vector>

#include "config/model_args.h"
#include "parallel/parameter_store.h"
#include "parallel/token_dispatcher.h"
#include "pipeline/executor.h"

namespace nereus {

class Engine {
 public:
  struct Options {
    DType compute = DType::f32;        // of activations and weights: f32, or bf16 with f32 masters
    int64_t rows = 1, sequence = 1;    // of a microbatch
    int32_t eos_id = -1;               // ends a document; needed when the model is block_causal
    std::vector<Recompute> recompute;  // by block; empty: none
    bool gradients = true;             // false: evaluation only
    bool moments = true;               // false: no optimizer will run
    bool unordered_attention = false;  // see ops/attention.h
    RankGroups groups = {};            // who works on other data, and divides the state
  };

  // On the meta device nothing is allocated and nothing can be run: for measuring.
  Engine(const ModelArgs&, Stream&, const Options&);

  ParameterStore& store() { return *store_; }
  Executor& executor() { return *executor_; }
  const ModelArgs& args() const { return args_; }

  // Parameters and expert biases under their logical names, f32: what checkpoints hold.
  std::vector<NamedView> weights() const;

  // i64 [E] of each layer of experts, in order of layer: tokens routed since the last reset.
  struct LayerLoad {
    int64_t layer;
    TensorView load, bias;  // i64 [E], f32 [E] or "no tensor"
  };
  const std::vector<LayerLoad>& expert_load() const { return loads_; }
  void reset_expert_load();
  // From the load of all ranks since the last reset, by load_balance_coeff.
  void update_expert_bias();

  // Bytes by owner beside the store's and the executor's.
  int64_t table_bytes() const { return tables_.bytes() + balance_.bytes(); }

 private:
  ModelArgs args_;
  Stream& stream_;
  Buffer tables_, balance_;
  std::vector<LayerLoad> loads_;
  IdentityRegion tp_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<ParameterStore> store_;
  std::unique_ptr<Stage> stage_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace nereus
