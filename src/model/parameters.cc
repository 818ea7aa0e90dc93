#include "model/parameters.h"

#include <cmath>

#include "base/check.h"

namespace nereus {
namespace {

constexpr TensorHandle kNone = -1;
constexpr double kStd = 0.02;
// torch's trunc_normal_ cuts at absolute -2 and 2 unless told otherwise.
constexpr double kBound = 2;

Initial constant(double value) { return {.mean = value, .std = 0, .low = 0, .high = 0}; }
Initial truncated(double std, double bound) {
  return {.mean = 0, .std = std, .low = -bound, .high = bound};
}

// Adds the stored tensors of a model, in order.
class Builder {
 public:
  explicit Builder(const ModelArgs& args) : args_(args) {}

  ModelLayout build() {
    layout_.embedding = add("tok_embeddings.weight", {args_.vocab_size, args_.dim},
                            ParameterKind::embedding, {.mean = 0, .std = 1, .low = 0, .high = 0});
    for (int64_t layer = 0; layer < args_.n_layers; ++layer) {
      ++bucket_;
      layout_.blocks.push_back(block(layer));
    }
    ++bucket_;
    layout_.head.norm = norm("norm.weight", args_.dim);
    const double std = 1 / std::sqrt(static_cast<double>(args_.dim));
    layout_.head.output = add("output.weight", {args_.vocab_size, args_.dim}, ParameterKind::dense,
                              truncated(std, 3 * std));
    return std::move(layout_);
  }

 private:
  TensorHandle store(StoredTensor tensor) {
    tensor.bucket = bucket_;
    layout_.tensors.push_back(std::move(tensor));
    return static_cast<TensorHandle>(layout_.tensors.size()) - 1;
  }

  TensorHandle add(const std::string& name, const Shape& shape, ParameterKind kind,
                   const Initial& initial) {
    return store({.name = name,
                  .shape = shape,
                  .parts = {{.parameter = {name, shape, kind, initial}, .dim = 0, .begin = 0}}});
  }

  TensorHandle norm(const std::string& name, int64_t width) {
    const Shape shape{width};
    return store({.name = name,
                  .shape = shape,
                  .full_precision = true,
                  .parts = {{.parameter = {name, shape, ParameterKind::dense, constant(1)}}}});
  }

  // w1 [F, D] and w3 [F, D] as rows of one [2F, D], experts first when there are any.
  TensorHandle gate_up(const std::string& prefix, const std::string& suffix, int64_t experts,
                       int64_t width, ParameterKind kind, double depth_std) {
    const int64_t D = args_.dim;
    const int dim = experts > 0 ? 1 : 0;
    const Shape half = experts > 0 ? Shape{experts, width, D} : Shape{width, D};
    const Shape whole = experts > 0 ? Shape{experts, 2 * width, D} : Shape{2 * width, D};
    const Parameter w1{prefix + "w1" + suffix, half, kind, truncated(kStd, kBound)};
    const Parameter w3{prefix + "w3" + suffix, half, kind, truncated(depth_std, kBound)};
    return store({.name = prefix + "gate_up",
                  .shape = whole,
                  .parts = {{.parameter = w1, .dim = dim, .begin = 0},
                            {.parameter = w3, .dim = dim, .begin = width}}});
  }

  MlpTensors<TensorHandle> mlp(const std::string& prefix, int64_t width, ParameterKind kind,
                               double depth_std) {
    return {
        .gate_up = gate_up(prefix, ".weight", 0, width, kind, depth_std),
        .down = add(prefix + "w2.weight", {args_.dim, width}, kind, truncated(depth_std, kBound))};
  }

  MlaTensors<TensorHandle> attention(const std::string& prefix, double depth_std) {
    const int64_t D = args_.dim, H = args_.n_heads, Rq = args_.q_lora_rank;
    const int64_t Rkv = args_.kv_lora_rank, latent_kv = Rkv + args_.qk_rope_head_dim;
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
      return Parameter{
          prefix + name, {rows, columns}, ParameterKind::dense, truncated(kStd, kBound)};
    };
    MlaTensors<TensorHandle> t{kNone, kNone, kNone, kNone, kNone, kNone, kNone};
    StoredTensor latent{.name = prefix + "latent", .shape = {Rq + latent_kv, D}, .parts = {}};
    if (Rq == 0) {
      const Parameter wq = matrix("wq.weight", H * args_.qk_head_dim(), D);
      t.q = add(wq.name, wq.shape, wq.kind, wq.initial);
    } else {
      latent.parts.push_back({.parameter = matrix("wq_a.weight", Rq, D), .dim = 0, .begin = 0});
      const Parameter wq_b = matrix("wq_b.weight", H * args_.qk_head_dim(), Rq);
      t.q_norm = norm(prefix + "q_norm.weight", Rq);
      t.q_up = add(wq_b.name, wq_b.shape, wq_b.kind, wq_b.initial);
    }
    latent.parts.push_back(
        {.parameter = matrix("wkv_a.weight", latent_kv, D), .dim = 0, .begin = Rq});
    t.latent = store(std::move(latent));
    t.kv_norm = norm(prefix + "kv_norm.weight", Rkv);
    const Parameter wkv_b =
        matrix("wkv_b.weight", H * (args_.qk_nope_head_dim + args_.v_head_dim), Rkv);
    t.kv_up = add(wkv_b.name, wkv_b.shape, wkv_b.kind, wkv_b.initial);
    t.out = add(prefix + "wo.weight", {D, H * args_.v_head_dim}, ParameterKind::dense,
                truncated(depth_std, kBound));
    return t;
  }

  MoeTensors<TensorHandle> moe(const std::string& prefix, double depth_std) {
    const int64_t E = args_.moe.num_experts, F = args_.moe_inter_dim, D = args_.dim;
    MoeTensors<TensorHandle> t{kNone, kNone, kNone, {kNone, kNone}};
    const std::string gate = prefix + "router.gate.weight";
    // Hugging Face multiplies by the router's f32 weights whatever the model computes in.
    t.gate = store(
        {.name = gate,
         .shape = {E, D},
         .full_precision = args_.family == NumericsFamily::huggingface,
         .parts = {
             {.parameter = {gate, {E, D}, ParameterKind::router, truncated(depth_std, kBound)}}}});
    t.gate_up = gate_up(prefix + "experts.", "", E, F, ParameterKind::routed_expert, depth_std);
    t.down = add(prefix + "experts.w2", {E, D, F}, ParameterKind::routed_expert,
                 truncated(depth_std, kBound));
    if (args_.moe.num_shared_experts > 0)
      t.shared = mlp(prefix + "shared_experts.", F * args_.moe.num_shared_experts,
                     ParameterKind::shared_expert, depth_std);
    return t;
  }

  BlockTensors<TensorHandle> block(int64_t layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    const double depth_std = kStd / std::sqrt(2.0 * static_cast<double>(layer + 1));
    BlockTensors<TensorHandle> t{};
    t.mlp = {kNone, kNone};
    t.moe = {kNone, kNone, kNone, {kNone, kNone}};
    t.attention_norm = norm(prefix + "attention_norm.weight", args_.dim);
    t.attention = attention(prefix + "attention.", depth_std);
    t.ffn_norm = norm(prefix + "ffn_norm.weight", args_.dim);
    if (args_.is_moe_layer(layer)) {
      t.moe = moe(prefix + "moe.", depth_std);
    } else {
      t.mlp = mlp(prefix + "feed_forward.", args_.inter_dim, ParameterKind::dense, depth_std);
    }
    return t;
  }

  const ModelArgs& args_;
  ModelLayout layout_;
  int bucket_ = 0;
};

}  // namespace

ModelLayout model_layout(const ModelArgs& args) { return Builder(args).build(); }

std::vector<Parameter> parameters(const ModelArgs& args) {
  std::vector<Parameter> out;
  for (const StoredTensor& t : model_layout(args).tensors)
    for (const ParameterPart& part : t.parts) out.push_back(part.parameter);
  return out;
}

}  // namespace nereus
