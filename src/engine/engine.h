// One rank's model, ready to compute: parameters, tables, balancing state, stages and executor,
// made from the model's arguments and the rank's place among others. What `train`, `probe` and
// `--dry-run` share.
#pragma once

#include <memory>
#include <vector>

#include "config/model_args.h"
#include "device/side_stream.h"
#include "model/stage.h"
#include "parallel/parameter_store.h"
#include "parallel/rank_world.h"
#include "parallel/token_dispatcher.h"
#include "pipeline/executor.h"

namespace nereus {

// The stages of a model and the schedule that runs them.
struct Pipeline {
  std::vector<StagePart> parts;  // by stage
  Schedule schedule;
};

class Engine {
 public:
  struct Options {
    DType compute = DType::f32;      // of activations and weights: f32, or bf16 with f32 masters
    int64_t rows = 1, sequence = 1;  // of a microbatch
    int32_t eos_id = -1;             // ends a document; needed when the model is block_causal
    std::vector<Recompute> recompute = {};  // by block; empty: none
    bool gradients = true;                  // false: evaluation only
    bool moments = true;                    // false: no optimizer will run
    DType moment_type = DType::f32;         // of the optimizer's moments: f32 or bf16
    bool split_masters = false;             // see ParameterStore::Options
    Offload offload = Offload::none;        // likewise
    int64_t offload_chunk = HostStates::kChunk;
    ops::AttentionKernels attention = {};
    int reserved_sms = -1;             // device.reserved_sms
    bool poison_released = false;      // device.poison_released
    const RankWorld* world = nullptr;  // must outlive the engine; null: one rank, alone
    double capacity_factor = 0;        // parallelism.expert_capacity_factor
    ExpertDispatcher dispatcher = ExpertDispatcher::automatic;  // parallelism.expert_dispatcher
    bool expert_overlap = false;                                // parallelism.expert_overlap
    bool reshard = false;                                       // see ParameterStore::Options
    bool reduce_each_microbatch = false;                        // likewise
    const Pipeline* pipeline = nullptr;  // null: one stage, microbatches in turn
  };

  // On the meta device nothing is allocated and nothing can be run: for measuring.
  Engine(const ModelArgs&, Stream&, const Options&);

  ParameterStore& store() { return *store_; }
  const ParameterStore& store() const { return *store_; }
  const RankWorld& world() const { return world_; }
  Executor& executor() { return *executor_; }
  const TokenDispatcher& dispatcher() const { return *dispatcher_; }
  bool overlaps_experts() const { return expert_exchange_ != nullptr; }
  const ModelArgs& args() const { return args_; }

  // Parameters and expert biases under their logical names, f32: what checkpoints hold. Masters
  // that are not whole must have been put together (ParameterStore::assemble_masters).
  std::vector<NamedView> weights() const { return with_biases(store_->master_views()); }
  // The same as kernels read them.
  std::vector<NamedView> read_weights() const { return with_biases(store_->weight_views()); }

  // i64 [E] of each of this rank's layers of experts, in order of layer: tokens routed since the
  // last reset.
  struct LayerLoad {
    int64_t layer;
    TensorView load, bias;  // i64 [E], f32 [E] or "no tensor"
  };
  const std::vector<LayerLoad>& expert_load() const { return loads_; }
  void reset_expert_load();
  // Makes the load that of all ranks, and max_over_mean, f64 [1], the busiest expert's over the
  // mean in the worst of this rank's layers.
  void sum_expert_load(TensorView max_over_mean);
  // From the load of all ranks, by load_balance_coeff; not where step_ok, i32 [1], is 0.
  void update_expert_bias(ConstTensorView step_ok);

  // The capacity of one rank's experts, in rows of a microbatch, and the slots (token and choice)
  // that it sends itself: with even routing as many rows. A step that wants more raises `word`
  // (TokenDispatcher::set_overflow), which must outlive the engine's steps.
  int64_t expert_capacity() const;  // 0: always enough
  int64_t expert_slots() const { return expert_slots_; }
  void watch_overflow(TensorView word) { dispatcher_->set_overflow(word); }
  // Between steps: waits for the stream and makes the memory of activations again, for `rows`.
  void grow_expert_capacity(int64_t rows);

  // Bytes by owner, without the store's and the executor's.
  int64_t table_bytes() const { return tables_.bytes() + balance_.bytes(); }

 private:
  std::vector<NamedView> with_biases(std::vector<NamedView>) const;
  std::vector<ExpertLoad> make_balance(std::span<const StagePart> parts);
  void bound_forced_rows(const Options&);

  ModelArgs args_;
  Stream& stream_;
  std::unique_ptr<RankWorld> alone_;  // where no world is given
  const RankWorld& world_;
  std::unique_ptr<Stream> exchange_;  // a GPU's, for gathers and sums, concurrent with kernels
  Buffer tables_, balance_;
  std::vector<LayerLoad> loads_;
  TensorView load_;  // i64 [layers, E]: all of loads_
  std::unique_ptr<TpRegion> tp_, expert_tp_, keys_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  // Where experts' rows are exchanged, concurrently with other work; null: where kernels run.
  std::unique_ptr<SideStream> expert_exchange_;
  int64_t expert_slots_ = 0;
  std::unique_ptr<ParameterStore> store_;
  std::vector<std::unique_ptr<Stage>> stages_;  // of this rank
  std::unique_ptr<Executor> executor_;
};

}  // namespace nereus
