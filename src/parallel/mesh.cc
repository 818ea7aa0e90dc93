#include "parallel/mesh.h"

#include <algorithm>

#include "base/check.h"

namespace nereus {
namespace {

struct Named {
  const char* key;
  int64_t value;
};

std::string list(const std::vector<Named>& keys) {
  std::string text;
  for (const Named& k : keys)
    text += fmt::format("{}parallelism.{} = {}", text.empty() ? "" : ", ", k.key, k.value);
  return text;
}

std::vector<Named> data_keys(const MeshDegrees& d) {
  return {{"data_parallel_replicate_degree", d.dp_replicate},
          {"data_parallel_shard_degree", d.dp_shard},
          {"context_parallel_degree", d.cp},
          {"tensor_parallel_degree", d.tp},
          {"pipeline_parallel_degree", d.pp}};
}

// The degrees of expert parallelism that fit: what EP must borrow whole, and what it may share.
bool ep_fits(const MeshDegrees& d, int64_t ep) {
  if (ep == 1) return true;
  const int64_t whole = d.etp == d.tp ? d.cp : d.cp * d.tp;
  const int64_t region = d.dp_shard * whole;
  return ep % whole == 0 && region % ep == 0;
}

std::string fitting_eps(const MeshDegrees& d) {
  std::vector<int64_t> fitting;
  for (int64_t ep = 1; ep <= d.dp_shard * d.cp * d.tp; ++ep)
    if (ep_fits(d, ep)) fitting.push_back(ep);
  return fmt::format("{}", fmt::join(fitting, ", "));
}

}  // namespace

const char* name_of(MeshGroup group) {
  switch (group) {
    case MeshGroup::pp:
      return "pp";
    case MeshGroup::dp_replicate:
      return "dp_replicate";
    case MeshGroup::dp_shard:
      return "dp_shard";
    case MeshGroup::cp:
      return "cp";
    case MeshGroup::tp:
      return "tp";
    case MeshGroup::cp_tp:
      return "cp_tp";
    case MeshGroup::dp:
      return "dp";
    case MeshGroup::dp_shard_cp:
      return "dp_shard_cp";
    case MeshGroup::dp_cp:
      return "dp_cp";
    case MeshGroup::ep:
      return "ep";
    case MeshGroup::expert_shard:
      return "expert_shard";
    case MeshGroup::expert_tp:
      return "expert_tp";
  }
  return "?";
}

MeshDegrees mesh_degrees(const JobConfig& c) {
  const auto& p = c.parallelism;
  return {.dp_replicate = p.data_parallel_replicate_degree,
          .dp_shard = p.data_parallel_shard_degree,
          .cp = p.context_parallel_degree,
          .tp = p.tensor_parallel_degree,
          .pp = p.pipeline_parallel_degree,
          .ep = p.expert_parallel_degree,
          .etp = p.expert_tensor_parallel_degree};
}

Mesh::Mesh(const MeshDegrees& degrees, int64_t world) : degrees_(degrees), world_(world) {
  NEREUS_CHECK(kContract, world >= 1, "a world of {} ranks; at least 1 is needed", world);
  infer_and_check();
  check_experts();
  const MeshDegrees& d = degrees_;
  int64_t in = d.dp_shard;  // without EP, an expert is sharded like everything else
  if (d.ep > 1) in = d.etp == d.tp ? d.ep / d.cp : d.ep / (d.cp * d.tp);
  const int64_t extents[kAxes] = {d.pp, d.dp_replicate, d.dp_shard / in, in, d.cp, d.tp};
  std::copy(std::begin(extents), std::end(extents), std::begin(extent_));
}

void Mesh::infer_and_check() {
  MeshDegrees& d = degrees_;
  for (const Named& k :
       {Named{"data_parallel_replicate_degree", d.dp_replicate},
        Named{"context_parallel_degree", d.cp}, Named{"tensor_parallel_degree", d.tp},
        Named{"pipeline_parallel_degree", d.pp}, Named{"expert_parallel_degree", d.ep},
        Named{"expert_tensor_parallel_degree", d.etp}})
    NEREUS_CHECK(kConfig, k.value >= 1,
                 "Parallelism degree should be >= 1, except for dp_shard\n  parallelism.{} = {}: "
                 "set it to 1 or more.",
                 k.key, k.value);
  NEREUS_CHECK(kConfig, d.dp_shard == -1 || d.dp_shard >= 1,
               "dp_shard must -1 or >=1.\n  parallelism.data_parallel_shard_degree = {}: set it to "
               "1 or more, or to -1 for what the other degrees leave of the ranks.",
               d.dp_shard);
  const int64_t others = d.dp_replicate * d.cp * d.tp * d.pp;
  const bool inferred = d.dp_shard == -1;
  const std::vector<Named> as_given = data_keys(d);
  if (inferred) d.dp_shard = world_ / others;
  if (d.dp_shard >= 1 && others * d.dp_shard == world_) return;
  const std::string sentence = fmt::format(
      "Invalid parallel dims: dp_replicate({}) * dp_shard({}) * cp({}) * tp({}) * pp({}) != "
      "WORLD_SIZE({})\n  {}.\n  ",
      d.dp_replicate, d.dp_shard, d.cp, d.tp, d.pp, world_, list(as_given));
  if (world_ % others == 0) {
    NEREUS_FAIL(kConfig, "{}Set data_parallel_shard_degree to {} or to -1, or start {} ranks.",
                sentence, world_ / others, others * d.dp_shard);
  }
  const int64_t below = world_ / others * others;
  NEREUS_FAIL(
      kConfig,
      "{}The degrees other than dp_shard multiply to {}, which does not divide {}: start {} ranks, "
      "or lower them.",
      sentence, others, world_,
      below == 0 ? fmt::format("{}", others) : fmt::format("{} or {}", below, below + others));
}

void Mesh::check_experts() const {
  const MeshDegrees& d = degrees_;
  if (d.ep == 1) return;  // as in TorchTitan, etp has no meaning then
  NEREUS_CHECK(kConfig, d.etp == d.tp || d.etp == 1,
               "Currently we only support ETP=TP or ETP=1\n  {}.\n  Set "
               "expert_tensor_parallel_degree to {}.",
               list({{"expert_tensor_parallel_degree", d.etp}, {"tensor_parallel_degree", d.tp}}),
               d.tp == 1 ? "1" : fmt::format("1 or {}", d.tp));
  if (ep_fits(d, d.ep)) return;
  const bool with_tp = d.etp != d.tp;
  const char* const region = with_tp ? "dp_shard * cp * tp" : "dp_shard * cp";
  const char* const whole = with_tp ? "cp * tp" : "cp";
  const int64_t w = with_tp ? d.cp * d.tp : d.cp;
  NEREUS_FAIL(kConfig,
              "expert_parallel_degree ({}) must divide {} ({}) and be a multiple of {} ({})\n  {}."
              "\n  Expert parallelism borrows its ranks from these axes. Degrees that fit: {}.",
              d.ep, region, d.dp_shard * w, whole, w,
              list({{"expert_parallel_degree", d.ep},
                    {"expert_tensor_parallel_degree", d.etp},
                    {"data_parallel_shard_degree", d.dp_shard},
                    {"context_parallel_degree", d.cp},
                    {"tensor_parallel_degree", d.tp}}),
              fitting_eps(d));
}

// The axes along which the ranks of a group differ, as bits.
unsigned Mesh::axes(MeshGroup group) const {
  constexpr unsigned pp = 1u << kPp, replicate = 1u << kReplicate, mod = 1u << kShardMod,
                     in = 1u << kShardIn, cp = 1u << kCp, tp = 1u << kTp;
  const bool ep = degrees_.ep > 1;
  const bool tp_in_ep = ep && degrees_.etp != degrees_.tp;
  switch (group) {
    case MeshGroup::pp:
      return pp;
    case MeshGroup::dp_replicate:
      return replicate;
    case MeshGroup::dp_shard:
      return mod | in;
    case MeshGroup::cp:
      return cp;
    case MeshGroup::tp:
      return tp;
    case MeshGroup::cp_tp:
      return cp | tp;
    case MeshGroup::dp:
      return replicate | mod | in;
    case MeshGroup::dp_shard_cp:
      return mod | in | cp;
    case MeshGroup::dp_cp:
      return replicate | mod | in | cp;
    case MeshGroup::ep:
      return ep ? in | cp | (tp_in_ep ? tp : 0u) : 0u;
    case MeshGroup::expert_shard:
      return ep ? mod : mod | in | cp;
    case MeshGroup::expert_tp:
      return tp_in_ep ? 0u : tp;
  }
  return 0;
}

int Mesh::size(MeshGroup group) const {
  int64_t n = 1;
  for (int axis = 0; axis < kAxes; ++axis)
    if ((axes(group) >> axis & 1u) != 0) n *= extent_[axis];
  return static_cast<int>(n);
}

int Mesh::index(MeshGroup group, int rank) const {
  int64_t rest = rank, index = 0, stride = 1;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    const int64_t coordinate = rest % extent_[axis];
    rest /= extent_[axis];
    if ((axes(group) >> axis & 1u) != 0) continue;
    index += coordinate * stride;
    stride *= extent_[axis];
  }
  return static_cast<int>(index);
}

int Mesh::position(MeshGroup group, int rank) const {
  int64_t rest = rank, position = 0, stride = 1;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    const int64_t coordinate = rest % extent_[axis];
    rest /= extent_[axis];
    if ((axes(group) >> axis & 1u) == 0) continue;
    position += coordinate * stride;
    stride *= extent_[axis];
  }
  return static_cast<int>(position);
}

std::vector<int> Mesh::members(MeshGroup group, int rank) const {
  std::vector<int> out;
  const int mine = index(group, rank);
  for (int r = 0; r < world(); ++r)
    if (index(group, r) == mine) out.push_back(r);
  return out;
}

std::string Mesh::to_string() const {
  const MeshDegrees& d = degrees_;
  std::string text;
  for (const Named& k : {Named{"pp", d.pp}, Named{"dp_replicate", d.dp_replicate},
                         Named{"dp_shard", d.dp_shard}, Named{"cp", d.cp}, Named{"tp", d.tp}})
    if (k.value > 1) text += fmt::format("{}{} {}", text.empty() ? "" : " x ", k.key, k.value);
  if (text.empty()) text = "1 rank";
  if (d.ep > 1) {
    text += fmt::format(", ep {}", d.ep);
    if (d.tp > 1) text += fmt::format(" with etp {}", d.etp);
  }
  return text;
}

void check_fits(const Mesh& mesh, const ModelArgs& args, int64_t seq_len) {
  const MeshDegrees& d = mesh.degrees();
  const int64_t step = d.tp * 2 * d.cp;
  NEREUS_CHECK(kConfig, seq_len % step == 0,
               "Sequence length {} must be divisible by the product of TP degree ({}) and 2 * CP "
               "degree ({}).\n  training.seq_len = {}, {}.\n  Set training.seq_len to {}.",
               seq_len, d.tp, d.cp, seq_len,
               list({{"tensor_parallel_degree", d.tp}, {"context_parallel_degree", d.cp}}),
               (seq_len / step + 1) * step);
  const bool experts = args.n_layers > args.n_dense_layers;
  NEREUS_CHECK(kConfig, !experts || args.moe.num_experts % d.ep == 0,
               "num_experts ({}) must be divisible by expert_parallel_degree ({}): each rank of an "
               "EP group holds as many.\n  {}.\n  Use a degree that divides {}.",
               args.moe.num_experts, d.ep, list({{"expert_parallel_degree", d.ep}}),
               args.moe.num_experts);
  struct Width {
    const char* name;
    int64_t value, parts;
  };
  const int64_t etp = mesh.size(MeshGroup::expert_tp);
  for (const Width& w :
       {Width{"n_heads", args.n_heads, d.tp}, Width{"vocab_size", args.vocab_size, d.tp},
        Width{"inter_dim", args.n_dense_layers > 0 ? args.inter_dim : 0, d.tp},
        Width{"num_shared_experts * moe_inter_dim",
              experts ? args.moe.num_shared_experts * args.moe_inter_dim : 0, d.tp},
        Width{"moe_inter_dim", experts ? args.moe_inter_dim : 0, etp}})
    NEREUS_CHECK(kConfig, w.value % w.parts == 0,
                 "{} ({}) must be divisible by the tensor-parallel degree ({}), which cuts it.\n  "
                 "{}.\n  Use a degree that divides it.",
                 w.name, w.value, w.parts, list({{"tensor_parallel_degree", d.tp}}));
}

}  // namespace nereus
