#include "model/parameters.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/check.h"
#include "tensor/format.h"

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

// One dim of a parameter, divided into equal parts.
struct Cut {
  int dim, parts, index;
};

ParameterPart part_of(Parameter parameter, std::initializer_list<Cut> cuts, int dim = 0,
                      int64_t begin = 0) {
  const Shape whole = parameter.shape;
  ParameterPart part{.parameter = std::move(parameter), .dim = dim, .begin = begin};
  for (const Cut& c : cuts) {
    if (c.parts == 1) continue;
    NEREUS_CHECK(kContract, whole[c.dim] % c.parts == 0, "{} {}: dim {} in {} parts",
                 part.parameter.name, whole, c.dim, c.parts);
    if (part.box.rank() == 0) {
      part.box = part.origin = whole;
      for (int d = 0; d < whole.rank(); ++d) part.origin[d] = 0;
    }
    part.box[c.dim] = whole[c.dim] / c.parts;
    part.origin[c.dim] = part.box[c.dim] * c.index;
  }
  return part;
}

// Adds the stored tensors of a rank, in the order of the model.
class Builder {
 public:
  Builder(const ModelArgs& args, const ShardSpec& spec) : args_(args), spec_(spec) {}

  ModelLayout build(std::span<const StagePart> stages) {
    const auto any = [&](auto has) { return std::any_of(stages.begin(), stages.end(), has); };
    layout_.embedding_bucket = bucket_ = next_bucket_++;
    if (any([](const StagePart& s) { return s.embedding; }))
      layout_.embedding = add({"tok_embeddings.weight",
                               {args_.vocab_size, args_.dim},
                               ParameterKind::embedding,
                               {.mean = 0, .std = 1, .low = 0, .high = 0}},
                              {tp(0)});
    for (int64_t layer = 0; layer < args_.n_layers; ++layer) {
      layout_.block_buckets.push_back(bucket_ = next_bucket_++);
      layout_.blocks.push_back(
          any([layer](const StagePart& s) { return s.first_block <= layer && layer < s.end_block; })
              ? block(layer)
              : no_block());
    }
    layout_.head_bucket = bucket_ = next_bucket_++;
    if (any([](const StagePart& s) { return s.head; })) head();
    return std::move(layout_);
  }

 private:
  Cut tp(int dim) const { return {dim, spec_.tp, spec_.tp_rank}; }
  Cut ep(int dim) const { return {dim, spec_.ep, spec_.ep_rank}; }
  Cut etp(int dim) const { return {dim, spec_.etp, spec_.etp_rank}; }

  TensorHandle store(StoredTensor tensor) {
    tensor.bucket = bucket_;
    layout_.tensors.push_back(std::move(tensor));
    return static_cast<TensorHandle>(layout_.tensors.size()) - 1;
  }

  TensorHandle add(Parameter parameter, std::initializer_list<Cut> cuts) {
    ParameterPart part = part_of(std::move(parameter), cuts);
    return store({.name = part.parameter.name,
                  .shape = part.extent(),
                  .experts = part.parameter.kind == ParameterKind::routed_expert,
                  .parts = {std::move(part)}});
  }

  // What every rank of a tp group has whole.
  TensorHandle same(StoredTensor tensor) {
    tensor.replicated_on_tp = spec_.tp > 1;
    return store(std::move(tensor));
  }
  TensorHandle norm(const std::string& name, int64_t width) {
    const Shape shape{width};
    return same({.name = name,
                 .shape = shape,
                 .read_format = ReadFormat::f32_master,
                 .parts = {{.parameter = {name, shape, ParameterKind::dense, constant(1)}}}});
  }

  void head() {
    layout_.head.norm = norm("norm.weight", args_.dim);
    const double std = 1 / std::sqrt(static_cast<double>(args_.dim));
    layout_.head.output = add({"output.weight",
                               {args_.vocab_size, args_.dim},
                               ParameterKind::dense,
                               truncated(std, 3 * std)},
                              {tp(0)});
  }

  // w1 [F, D] and w3 [F, D] as rows of one [2F, D].
  MlpTensors<TensorHandle> mlp(const std::string& prefix, int64_t width, ParameterKind kind,
                               double depth_std) {
    const int64_t D = args_.dim, mine = width / spec_.tp;
    const Parameter w1{prefix + "w1.weight", {width, D}, kind, truncated(kStd, kBound)};
    const Parameter w3{prefix + "w3.weight", {width, D}, kind, truncated(depth_std, kBound)};
    return {.gate_up = store({.name = prefix + "gate_up",
                              .shape = {2 * mine, D},
                              .parts = {part_of(w1, {tp(0)}), part_of(w3, {tp(0)}, 0, mine)}}),
            .down = add({prefix + "w2.weight", {D, width}, kind, truncated(depth_std, kBound)},
                        {tp(1)})};
  }

  MlaTensors<TensorHandle> attention(const std::string& prefix, double depth_std) {
    const int64_t D = args_.dim, H = args_.n_heads, Rq = args_.q_lora_rank;
    const int64_t Rkv = args_.kv_lora_rank, latent_kv = Rkv + args_.qk_rope_head_dim;
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
      return Parameter{
          prefix + name, {rows, columns}, ParameterKind::dense, truncated(kStd, kBound)};
    };
    MlaTensors<TensorHandle> t = no_attention();
    StoredTensor latent{.name = prefix + "latent", .shape = {Rq + latent_kv, D}};
    if (Rq == 0) {
      t.q = add(matrix("wq.weight", H * args_.qk_head_dim(), D), {tp(0)});
    } else {
      latent.parts.push_back(part_of(matrix("wq_a.weight", Rq, D), {}));
      t.q_norm = norm(prefix + "q_norm.weight", Rq);
      t.q_up = add(matrix("wq_b.weight", H * args_.qk_head_dim(), Rq), {tp(0)});
    }
    latent.parts.push_back(part_of(matrix("wkv_a.weight", latent_kv, D), {}, 0, Rq));
    t.latent = same(std::move(latent));
    t.kv_norm = norm(prefix + "kv_norm.weight", Rkv);
    t.kv_up =
        add(matrix("wkv_b.weight", H * (args_.qk_nope_head_dim + args_.v_head_dim), Rkv), {tp(0)});
    t.out = add({prefix + "wo.weight",
                 {D, H * args_.v_head_dim},
                 ParameterKind::dense,
                 truncated(depth_std, kBound)},
                {tp(1)});
    return t;
  }

  MoeTensors<TensorHandle> moe(const std::string& prefix, double depth_std) {
    const int64_t E = args_.moe.num_experts, F = args_.moe_inter_dim, D = args_.dim;
    const int64_t local = E / spec_.ep, mine = F / spec_.etp;
    constexpr auto kExpert = ParameterKind::routed_expert;
    MoeTensors<TensorHandle> t = no_experts();
    const std::string gate = prefix + "router.gate.weight";
    t.gate = same(
        {.name = gate,
         .shape = {E, D},
         .read_format = args_.numerics.f32_router ? ReadFormat::f32_master : ReadFormat::bf16_copy,
         .parts = {
             {.parameter = {gate, {E, D}, ParameterKind::router, truncated(depth_std, kBound)}}}});
    const Parameter w1{prefix + "experts.w1", {E, F, D}, kExpert, truncated(kStd, kBound)};
    const Parameter w3{prefix + "experts.w3", {E, F, D}, kExpert, truncated(depth_std, kBound)};
    t.gate_up = store(
        {.name = prefix + "experts.gate_up",
         .shape = {local, 2 * mine, D},
         .experts = true,
         .parts = {part_of(w1, {ep(0), etp(1)}, 1, 0), part_of(w3, {ep(0), etp(1)}, 1, mine)}});
    t.down = add({prefix + "experts.w2", {E, D, F}, kExpert, truncated(depth_std, kBound)},
                 {ep(0), etp(2)});
    if (args_.moe.num_shared_experts > 0)
      t.shared = mlp(prefix + "shared_experts.", F * args_.moe.num_shared_experts,
                     ParameterKind::shared_expert, depth_std);
    return t;
  }

  BlockTensors<TensorHandle> block(int64_t layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    const double depth_std = kStd / std::sqrt(2.0 * static_cast<double>(layer + 1));
    BlockTensors<TensorHandle> t = no_block();
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

  static MlaTensors<TensorHandle> no_attention() {
    return {kNone, kNone, kNone, kNone, kNone, kNone, kNone};
  }
  static MoeTensors<TensorHandle> no_experts() { return {kNone, kNone, kNone, {kNone, kNone}}; }
  static BlockTensors<TensorHandle> no_block() {
    return {kNone, kNone, no_attention(), {kNone, kNone}, no_experts()};
  }

  const ModelArgs& args_;
  const ShardSpec spec_;
  ModelLayout layout_;
  int bucket_ = 0;  // of what is added now
  int next_bucket_ = 0;
};

}  // namespace

ShardSpec shard_spec(const Mesh& mesh, int rank) {
  return {.tp = mesh.size(MeshGroup::tp),
          .tp_rank = mesh.position(MeshGroup::tp, rank),
          .ep = mesh.size(MeshGroup::ep),
          .ep_rank = mesh.position(MeshGroup::ep, rank),
          .etp = mesh.size(MeshGroup::expert_tp),
          .etp_rank = mesh.position(MeshGroup::expert_tp, rank)};
}

ModelLayout model_layout(const ModelArgs& args, const ShardSpec& spec,
                         std::span<const StagePart> stages) {
  const StagePart all{.first_block = 0, .end_block = args.n_layers};
  if (stages.empty()) stages = std::span(&all, 1);
  return Builder(args, spec).build(stages);
}

std::vector<Parameter> parameters(const ModelArgs& args) {
  std::vector<Parameter> out;
  for (const StoredTensor& t : model_layout(args).tensors)
    for (const ParameterPart& part : t.parts) out.push_back(part.parameter);
  return out;
}

bool has_expert_bias(const ModelArgs& args) {
  return args.moe.load_balance_coeff != 0 || args.numerics.fixed_expert_bias;
}
std::string expert_bias_name(int64_t layer) {
  return "layers." + std::to_string(layer) + ".moe.expert_bias";
}

}  // namespace nereus
