#include "engine/engine.h"

#include "base/check.h"
#include "model/rope.h"
#include "ops/elementwise.h"
#include "ops/step.h"
#include "parallel/context_region.h"
#include "parallel/device_dispatcher.h"
#include "parallel/group_region.h"
#include "parallel/host_counts_dispatcher.h"
#include "pipeline/sends.h"

namespace nereus {
namespace {

std::unique_ptr<TpRegion> region(Communicator& group) {
  if (group.size() == 1) return std::make_unique<IdentityRegion>();
  return std::make_unique<GroupRegion>(group);
}

// auto: GPUs that see each other's memory use it; elsewhere the reference is as fast.
std::unique_ptr<TokenDispatcher> make_dispatcher(Communicator& group, const Stream& stream,
                                                 int64_t experts, const Engine::Options& options) {
  if (group.size() == 1) return std::make_unique<LocalDispatcher>(experts);
  const bool shared = group.shares_memory();
  NEREUS_CHECK(kConfig, options.dispatcher != ExpertDispatcher::device || shared,
               "parallelism.expert_dispatcher is \"device\", which needs ranks that see each "
               "other's memory, and the {} ranks of group {} do not: GPUs joined by NVLink (or in "
               "one machine) and NCCL 2.28 or newer, or threads of one process. \"host_counts\" "
               "works between any ranks; \"auto\" chooses.",
               group.size(), group.name());
  const bool gpu = stream.on_gpu() || stream.stands_for_gpu();
  if (options.dispatcher == ExpertDispatcher::device ||
      (options.dispatcher == ExpertDispatcher::automatic && shared && gpu))
    return std::make_unique<DeviceDispatcher>(group, experts, options.capacity_factor);
  return std::make_unique<HostCountsDispatcher>(group, experts, options.capacity_factor);
}

}  // namespace

// Load and bias of the layers of experts among `parts`; by layer of the model, empty elsewhere.
std::vector<ExpertLoad> Engine::make_balance(std::span<const StagePart> parts) {
  std::vector<int64_t> layers;
  for (const StagePart& p : parts)
    for (int64_t layer = p.first_block; layer < p.end_block; ++layer)
      if (args_.is_moe_layer(layer)) layers.push_back(layer);
  const int64_t E = args_.moe.num_experts, n = static_cast<int64_t>(layers.size());
  const bool biased = has_expert_bias(args_);
  balance_ = Buffer(stream_.device(), n * E * (8 + 4), "expert load and bias");
  load_ = TensorView(balance_.data(), DType::i64, {n, E});
  std::vector<ExpertLoad> load(static_cast<size_t>(args_.n_layers));
  for (int64_t i = 0; i < n; ++i) {
    std::byte* base = balance_.data();
    const TensorView counts(base == nullptr ? base : base + i * E * 8, DType::i64, {E});
    TensorView bias;
    if (biased)
      bias = TensorView(base == nullptr ? base : base + n * E * 8 + i * E * 4, DType::f32, {E});
    const int64_t layer = layers[static_cast<size_t>(i)];
    loads_.push_back({.layer = layer, .load = counts, .bias = bias});
    load[static_cast<size_t>(layer)] = {.bias = bias, .load = counts};
  }
  return load;
}

Engine::Engine(const ModelArgs& args, Stream& stream, const Options& options)
    : args_(args),
      stream_(stream),
      alone_(options.world == nullptr ? std::make_unique<RankWorld>() : nullptr),
      world_(options.world == nullptr ? *alone_ : *options.world) {
  Stream* const gpu = stream.on_gpu() ? &stream : stream.plans_for();
  if (gpu != nullptr && world_.ranks() > 1)
    gpu->reserve_sms(options.reserved_sms >= 0 ? options.reserved_sms
                     : options.reshard         ? kBackgroundSms
                                               : 0);
  const Pipeline one{.parts = {{.first_block = 0, .end_block = args.n_layers}},
                     .schedule = sequential_schedule(1)};
  const Pipeline& pipeline = options.pipeline == nullptr ? one : *options.pipeline;
  const Schedule& schedule = pipeline.schedule;
  const int pp_rank = world_.position(MeshGroup::pp), tp = world_.size(MeshGroup::tp);
  std::vector<StagePart> mine;
  for (const int s : schedule.stages_of(pp_rank))
    mine.push_back(pipeline.parts[static_cast<size_t>(s)]);

  const ModelLayout layout = model_layout(args, shard_spec(world_.mesh(), world_.rank()), mine);
  if (stream.on_gpu() && world_.ranks() > 1) {
    exchange_ = std::make_unique<Stream>(stream.device());
    exchange_->set_trace(stream.trace());
  }
  store_ = std::make_unique<ParameterStore>(
      stream.device(), layout.tensors, world_,
      ParameterStore::Options{
          .compute = options.compute,
          .gradients = options.gradients,
          .moments = options.gradients && options.moments,
          .moment_type = options.moment_type,
          .split_masters = options.split_masters,
          .offload = options.offload,
          .offload_chunk = options.offload_chunk,
          .reshard = options.reshard,
          .reduce_each_microbatch =
              options.gradients &&
              (options.reduce_each_microbatch || (options.reshard && schedule.stages() == 1)),
          .exchange = exchange_.get()});
  const RopeTables rope = rope_tables(stream, args, options.sequence, tables_);
  const std::vector<ExpertLoad> load = make_balance(mine);
  tp_ = region(world_.group(MeshGroup::tp));
  expert_tp_ = region(world_.group(MeshGroup::expert_tp));
  const int cp = world_.size(MeshGroup::cp);
  if (cp > 1)
    keys_ = std::make_unique<ContextRegion>(stream, world_.group(MeshGroup::cp_tp), cp,
                                            options.rows, options.sequence);
  dispatcher_ = make_dispatcher(world_.group(MeshGroup::ep), stream, args.moe.num_experts, options);
  if (options.expert_overlap && stream.on_gpu() && !dispatcher_->takes_scratch())
    expert_exchange_ = std::make_unique<GpuSideStream>(stream.device(), stream.trace());

  expert_slots_ = options.rows * options.sequence / (tp * cp) * expert_tp_->size() * args.moe.top_k;
  bound_forced_rows(options);

  std::vector<Recompute> recompute = options.recompute;
  recompute.resize(static_cast<size_t>(args.n_layers));
  const LayerParallel parallel{.tp = *tp_,
                               .expert_tp = *expert_tp_,
                               .keys = cp > 1 ? *keys_ : *tp_,
                               .dispatcher = *dispatcher_,
                               .attention = options.attention,
                               .exchange = expert_exchange_.get()};
  const TensorSpec edge{
      "hidden state", options.compute, {options.rows * options.sequence / (tp * cp), args.dim}};
  std::vector<const PipelineStage*> stages(pipeline.parts.size());
  for (const int s : schedule.stages_of(pp_rank)) {
    stages_.push_back(
        std::make_unique<Stage>(args, layout, rope, parallel, *store_,
                                Stage::Options{.part = pipeline.parts[static_cast<size_t>(s)],
                                               .edge = edge,
                                               .recompute = recompute,
                                               .load = load}));
    stages[static_cast<size_t>(s)] = stages_.back().get();
  }
  executor_ = std::make_unique<Executor>(
      stream, stages, *store_,
      Executor::Options{
          .shape = {.rows = options.rows,
                    .sequence = options.sequence,
                    .cp = cp,
                    .cp_rank = world_.position(MeshGroup::cp),
                    .mask = args.block_causal() ? ops::AttentionMask::document
                                                : ops::AttentionMask::causal,
                    .eos_id = options.eos_id},
          .backward = options.gradients,
          .poison_released = options.poison_released,
          .actions = schedule.actions[static_cast<size_t>(pp_rank)],
          .rank_of_stage = schedule.rank_of_stage,
          .pp = &world_.group(MeshGroup::pp),
          .message_bytes = edge.bytes(),
          .messages_waiting = messages_waiting(schedule),
          .memory = [this](int64_t bytes) { return dispatcher_->shared_memory(stream_, bytes); }});
}

// With routing that is forced even the rows of a rank's experts are known: of every run of
// consecutive tokens each expert gets its share, rounded up.
void Engine::bound_forced_rows(const Options& options) {
  const int64_t configured =
      dispatcher_->capacity(expert_slots_ / args_.moe.top_k, args_.moe.top_k);
  if (!args_.moe.force_load_balance || args_.moe.skew_percent > 0 || configured == 0) return;
  const int64_t cp = world_.size(MeshGroup::cp), ranks = world_.size(MeshGroup::ep);
  const int64_t experts = args_.moe.num_experts;
  // A rank's runs: parts of tensor parallelism; under context parallelism chunks of rows, which
  // must be parts of those for the runs to be of one length.
  int64_t runs = expert_tp_->size();
  if (cp > 1) {
    const int64_t chunk = options.sequence / (2 * cp) * args_.moe.top_k;
    if (chunk % experts != 0 || expert_slots_ / runs % experts != 0) return;
    runs = expert_slots_ / chunk;
  }
  const int64_t slots = expert_slots_ / runs;
  const int64_t rows =
      ranks * runs * dispatcher_->local_experts() * ((slots + experts - 1) / experts);
  if (rows < configured) dispatcher_->set_capacity(rows);
}

std::vector<NamedView> Engine::with_biases(std::vector<NamedView> all) const {
  for (const LayerLoad& l : loads_)
    if (l.bias) all.push_back({expert_bias_name(l.layer), l.bias});
  return all;
}

void Engine::reset_expert_load() {
  for (const LayerLoad& l : loads_) ops::fill(stream_, {.out = l.load, .value = 0});
}

int64_t Engine::expert_capacity() const {
  return dispatcher_->capacity(expert_slots_ / args_.moe.top_k, args_.moe.top_k);
}

void Engine::grow_expert_capacity(int64_t rows) {
  dispatcher_->set_capacity(rows);
  executor_->make_memory();
}

void Engine::sum_expert_load(TensorView max_over_mean) {
  for (const LayerLoad& l : loads_) world_.sum_over_tokens(stream_, l.load);
  ops::max_over_mean(stream_, {.out = max_over_mean, .load = load_});
}

void Engine::update_expert_bias(ConstTensorView step_ok) {
  if (args_.moe.load_balance_coeff == 0) return;
  for (const LayerLoad& l : loads_)
    if (l.bias)
      ops::balance_update(stream_,
                          {.bias = l.bias,
                           .load = l.load,
                           .step_ok = step_ok,
                           .coefficient = static_cast<float>(args_.moe.load_balance_coeff)});
}

}  // namespace nereus
