#include "train/engine.h"

#include <cmath>

#include "base/check.h"
#include "ops/elementwise.h"

namespace nereus {
namespace {

// cos and sin of position times frequency, in the references' order of rounding: the frequency and
// the angle are f32.
RopeTables rope_tables(Stream& stream, const ModelArgs& args, int64_t positions, Buffer& buffer) {
  const int64_t half = args.qk_rope_head_dim / 2;
  buffer = Buffer(stream.device(), 2 * 4 * positions * half, "rotary tables");
  std::byte* data = buffer.data();
  const TensorView cos(data, DType::f32, {positions, half});
  const TensorView sin(data == nullptr ? nullptr : data + cos.bytes(), DType::f32,
                       {positions, half});
  if (!stream.on_meta()) {
    const RopeParameters rope = rope_parameters(args);
    const std::vector<float> frequencies = rope_frequencies(rope, args.qk_rope_head_dim);
    std::vector<float> c(static_cast<size_t>(positions * half)), s(c.size());
    for (size_t i = 0; i < c.size(); ++i) {
      const auto p = static_cast<float>(i / static_cast<size_t>(half));
      const float angle = p * frequencies[i % static_cast<size_t>(half)];
      c[i] = static_cast<float>(std::cos(static_cast<double>(angle)) * rope.amplitude);
      s[i] = static_cast<float>(std::sin(static_cast<double>(angle)) * rope.amplitude);
    }
    copy_to_device(stream, cos, c.data());
    copy_to_device(stream, sin, s.data());
    stream.synchronize();
  }
  return {.cos = cos, .sin = sin};
}

}  // namespace

Engine::Engine(const ModelArgs& args, Stream& stream, const Options& options)
    : args_(args), stream_(stream) {
  const ModelLayout layout = model_layout(args);
  store_ = std::make_unique<ParameterStore>(
      stream.device(), layout.tensors,
      ParameterStore::Options{.compute = options.compute,
                              .gradients = options.gradients,
                              .moments = options.gradients && options.moments,
                              .groups = options.groups});
  const RopeTables rope = rope_tables(stream, args, options.sequence, tables_);

  const int64_t E = args.moe.num_experts, layers = args.n_layers - args.n_dense_layers;
  balance_ = Buffer(stream.device(), layers * E * (8 + 4), "expert load and bias");
  std::vector<ExpertLoad> load(static_cast<size_t>(args.n_layers));
  for (int64_t i = 0; i < layers; ++i) {
    std::byte* base = balance_.data();
    const TensorView counts(base == nullptr ? base : base + i * E * 8, DType::i64, {E});
    TensorView bias;
    if (args.moe.load_balance_coeff != 0 || args.family == NumericsFamily::huggingface)
      bias =
          TensorView(base == nullptr ? base : base + layers * E * 8 + i * E * 4, DType::f32, {E});
    const int64_t layer = args.n_dense_layers + i;
    loads_.push_back({.layer = layer, .load = counts, .bias = bias});
    load[static_cast<size_t>(layer)] = {.bias = bias, .load = counts};
  }

  dispatcher_ = std::make_unique<LocalDispatcher>(E);
  std::vector<Recompute> recompute = options.recompute;
  recompute.resize(static_cast<size_t>(args.n_layers));
  stage_ = std::make_unique<Stage>(
      args, layout, Stage::Part{.first_block = 0, .end_block = args.n_layers}, rope,
      LayerParallel{.tp = tp_,
                    .dispatcher = *dispatcher_,
                    .unordered_attention = options.unordered_attention},
      recompute, *store_, std::move(load));
  executor_ = std::make_unique<Executor>(
      stream, *stage_, *store_,
      Executor::Options{
          .rows = options.rows,
          .sequence = options.sequence,
          .mask = args.block_causal() ? ops::AttentionMask::document : ops::AttentionMask::causal,
          .eos_id = options.eos_id,
          .in_flight = 1,
          .backward = options.gradients});
}

std::vector<NamedView> Engine::weights() const {
  std::vector<NamedView> all = store_->master_views();
  for (const LayerLoad& l : loads_)
    if (l.bias) all.push_back({"layers." + std::to_string(l.layer) + ".moe.expert_bias", l.bias});
  return all;
}

void Engine::reset_expert_load() {
  for (const LayerLoad& l : loads_) ops::fill(stream_, {.out = l.load, .value = 0});
}

void Engine::update_expert_bias() {
  for (const LayerLoad& l : loads_) store_->groups().sum_over_tokens(stream_, l.load);
  if (args_.moe.load_balance_coeff == 0) return;
  for (const LayerLoad& l : loads_)
    if (l.bias)
      ops::balance_update(stream_,
                          {.bias = l.bias,
                           .load = l.load,
                           .coefficient = static_cast<float>(args_.moe.load_balance_coeff)});
}

}  // namespace nereus
