#include "engine/compose_draw_test.h"

#include <algorithm>

#include "base/check.h"
#include "base/philox.h"

namespace nereus::compose {
namespace {

constexpr int64_t kMostRanks = 32, kMostExperts = 32, kMostTokens = 512;  // of a step

std::string name_of(const Recompute& r) {
  if (r.block) return "block";
  std::string text;
  for (const auto& [on, letter] :
       {std::pair(r.norms, 'n'), std::pair(r.mla_up, 'u'), std::pair(r.assembly, 'a'),
        std::pair(r.swiglu, 's'), std::pair(r.dispatch, 'd')})
    if (on) text += letter;
  return text.empty() ? "-" : text;
}

}  // namespace

int64_t Dice::between(int64_t low, int64_t high) {
  const auto range = static_cast<uint64_t>(high - low + 1);
  return low + static_cast<int64_t>(philox(number_, count_++, hash_name("draw")).v[0] % range);
}

Draw::Draw(uint64_t n) : number(n) {
  Dice dice(n);
  draw_mesh(dice);
  draw_model(dice);
  draw_pipeline(dice);
  draw_step(dice);
  draw_forced_routing(dice);
  draw_labels(dice);
  draw_ranks(dice);
  check(args);
  check_fits(Mesh(degrees, ranks), args, sequence);
}

void Draw::draw_mesh(Dice& dice) {
  MeshDegrees& d = degrees;
  int64_t n = 0;
  do {
    d.pp = dice.of<int64_t>({1, 1, 2, 2, 3, 4});
    d.tp = dice.of<int64_t>({1, 1, 1, 2, 2, 4});
    d.cp = dice.of<int64_t>({1, 1, 1, 2, 2, 4});
    d.dp_shard = dice.of<int64_t>({1, 1, 2, 2, 3, 4, 8});
    d.dp_replicate = dice.of<int64_t>({1, 1, 1, 2, 3});
    n = d.pp * d.tp * d.cp * d.dp_shard * d.dp_replicate;
  } while (n > kMostRanks || (n > 8 && !dice.one_in(3)));
  ranks = static_cast<int>(n);
  // Expert parallelism borrows all of cp (and tp, with etp 1) and a part of dp_shard.
  d.etp = dice.one_in(2) ? d.tp : 1;
  const int64_t whole = d.etp == d.tp ? d.cp : d.cp * d.tp;
  std::vector<int64_t> fitting{1};
  for (int64_t in = 1; in <= d.dp_shard; ++in)
    if (d.dp_shard % in == 0 && whole * in > 1) fitting.push_back(whole * in);
  const auto last = static_cast<int64_t>(fitting.size()) - 1;
  d.ep = fitting[static_cast<size_t>(
      dice.between(dice.one_in(3) ? 0 : std::min<int64_t>(1, last), last))];
}

void Draw::draw_model(Dice& dice) {
  const int64_t tp = degrees.tp;
  if (dice.one_in(2)) set_family(args, NumericsFamily::huggingface);
  args.vocab_size = tp * dice.between(7, 11);
  args.dim = dice.between(9, 20);
  args.inter_dim = tp * dice.between(3, 8);
  args.moe_inter_dim = tp * dice.between(1, 4);
  args.n_layers = dice.between(1, 5);
  args.n_dense_layers = dice.between(0, std::min<int64_t>(args.n_layers, 2));
  args.n_heads = tp * dice.between(1, tp > 2 ? 1 : 2);
  args.q_lora_rank = dice.one_in(2) ? 0 : dice.between(4, 9);
  args.kv_lora_rank = dice.between(4, 9);
  args.qk_nope_head_dim = dice.between(2, 7);
  args.qk_rope_head_dim = 2 * dice.between(1, 3);
  args.v_head_dim = dice.between(2, 7);
  args.norm_eps = dice.of({1e-5, 1e-2});
  const int64_t step = 2 * tp * degrees.cp;
  sequence = step * dice.between(1, std::max<int64_t>(1, 12 / step));
  args.max_seq_len = sequence;
  args.attn_mask_type = dice.one_in(2) ? MaskType::block_causal : MaskType::causal;
  args.eos_id = 1;
  draw_experts(dice);
  draw_rotary(dice);
}

void Draw::draw_experts(Dice& dice) {
  MoeArgs& m = args.moe;
  const int64_t ep = degrees.ep, most = kMostExperts / ep;
  m.num_experts =
      ep * (dice.one_in(4) ? dice.between(1, most) : dice.between(1, std::min(4L, most)));
  m.num_shared_experts = dice.between(0, 2);
  m.score_func = args.numerics.softmax_scores && dice.one_in(2) ? ScoreFunction::softmax
                                                                : ScoreFunction::sigmoid;
  m.route_norm = dice.one_in(2);
  m.route_scale = dice.of({1.0, 2.5});
  m.score_before_experts = dice.one_in(2);
  m.load_balance_coeff = dice.of({0.0, 0.05});
  int64_t available = m.num_experts;
  if (args.numerics.expert_groups && dice.one_in(2)) {
    std::vector<int64_t> groups;
    for (int64_t g = 1; g <= m.num_experts; ++g)
      if (m.num_experts % g == 0) groups.push_back(g);
    args.n_expert_groups =
        groups[static_cast<size_t>(dice.between(0, static_cast<int64_t>(groups.size()) - 1))];
    args.n_limited_groups = dice.between(1, args.n_expert_groups);
    available = m.num_experts / args.n_expert_groups * args.n_limited_groups;
  }
  m.top_k = dice.one_in(5) ? available : dice.between(1, std::min<int64_t>(4, available));
}

void Draw::draw_rotary(Dice& dice) {
  const bool yarn = dice.one_in(2);
  args.hf_yarn = yarn;
  if (!yarn) return;
  args.original_seq_len = std::max<int64_t>(1, sequence / dice.between(2, 4));
  args.rope_factor = static_cast<double>(dice.between(3, 16)) / 2;
  args.rope_theta = dice.of({100.0, 10000.0});
  args.beta_fast = 2;
  args.beta_slow = 0.25;
  args.mscale = dice.of({0.7, 1.0});
  args.hf_mscale_given = dice.one_in(2);
  args.hf_mscale_all_dim = dice.of({0.0, 1.0});
}

// Layers wherever they may be: uneven stages, and some without any.
void Draw::draw_pipeline(Dice& dice) {
  const auto p = static_cast<int>(degrees.pp);
  microbatches = static_cast<int>(dice.between(1, 4));
  if (p == 1) {
    pipeline = {.parts = {{.first_block = 0, .end_block = args.n_layers}},
                .schedule = sequential_schedule(microbatches)};
    return;
  }
  const std::vector<std::string> names = schedule_names();
  const std::string& name =
      names[static_cast<size_t>(dice.between(0, static_cast<int64_t>(names.size()) - 1))];
  const bool v_shaped = name == "ZBVZeroBubble" || name == "DualPipeV";
  stages_per_rank = is_single_stage(name) ? 1 : v_shaped ? 2 : static_cast<int>(dice.between(2, 3));
  for (;; ++microbatches) {
    try {
      pipeline.schedule = make_schedule(name, p, stages_per_rank, microbatches);
      break;
    } catch (const Error& e) {  // the schedule's rule on microbatches
      if (e.fault() != Fault::kConfig || microbatches > 16) throw;
    }
  }
  const int stages = p * stages_per_rank;
  std::vector<int64_t> cuts{0, args.n_layers};
  for (int i = 1; i < stages; ++i) cuts.push_back(dice.between(0, args.n_layers));
  std::sort(cuts.begin(), cuts.end());
  for (int s = 0; s < stages; ++s)
    pipeline.parts.push_back({.first_block = cuts[static_cast<size_t>(s)],
                              .end_block = cuts[static_cast<size_t>(s) + 1],
                              .embedding = s == 0,
                              .head = s + 1 == stages});
}

// eps is so large that Adam's division is one by eps: an update is the mean of the clipped
// gradients times lr / eps. With a small eps it would be about lr whatever the gradient's scale is,
// and a gradient that is too small by a factor would leave the same weights. lr / eps is so large
// that weights move by a percent or so: 1e5 times their rounding.
void Draw::draw_step(Dice& dice) {
  rows = dice.between(1, 2);
  if (global_rows() * sequence > kMostTokens) rows = 1;
  batches_to_validate = static_cast<int>(dice.between(1, 2));
  for (int64_t i = 0; i < args.n_layers; ++i) {
    Recompute r;
    const int64_t kind = dice.between(0, 3);
    if (kind == 1) r = Recompute::full();
    if (kind > 1)
      r = {.norms = dice.one_in(2),
           .mla_up = dice.one_in(2),
           .assembly = dice.one_in(2),
           .swiglu = dice.one_in(2),
           .dispatch = dice.one_in(2)};
    recompute.push_back(r);
  }
  reshard = dice.one_in(2);
  dispatcher = dice.of({ExpertDispatcher::host_counts, ExpertDispatcher::device});
  capacity_factor = dice.of({0.0, 0.3, 1.0, 1.25});
  ahead = dice.one_in(2);
  if (dice.one_in(6)) moments = DType::bf16;
  if (dice.one_in(6)) {
    split_masters = dice.one_in(2);
    offload = dice.of({Offload::none, Offload::moments, Offload::states});
  }
  lr = 1;
  optimizer = {.decoupled = dice.one_in(2),
               .beta1 = 0.9,
               .beta2 = 0.95,
               .eps = 2,
               .weight_decay = dice.of({0.0, 1e-3}),
               .max_norm = dice.of({0.5, 4.0})};
}

void Draw::draw_forced_routing(Dice& dice) {
  if (!dice.one_in(8)) return;
  args.moe.force_load_balance = true;
  args.moe.skew_percent = dice.of<int64_t>({0, 40});
}

void Draw::draw_labels(Dice& dice) {
  ignored = dice.of({Ignored::none, Ignored::none, Ignored::some, Ignored::most, Ignored::step});
}

void Draw::draw_ranks(Dice& dice) {
  expert_overlap = dice.one_in(2);
  constexpr int kMostWithSockets = 12;  // 32 of them would take seconds
  sockets = ranks > 1 && ranks <= kMostWithSockets && dice.one_in(5);
  if (sockets) dispatcher = ExpertDispatcher::host_counts;  // `device` needs memory in common
}

std::string Draw::to_string() const {
  const MoeArgs& m = args.moe;
  std::string text = fmt::format(
      "{} | {} layers ({} dense), dim {}, {} heads, {}q_lora {}, {} experts top {} + {} shared, "
      "{}{}{} "
      "x {}, groups {}/{}, balance {}, {}{}",
      Mesh(degrees, ranks).to_string(), args.n_layers, args.n_dense_layers, args.dim, args.n_heads,
      args.numerics.family == NumericsFamily::huggingface ? "huggingface, " : "", args.q_lora_rank,
      m.num_experts, m.top_k, m.num_shared_experts, word(m.score_func),
      m.route_norm ? " normalised" : "", m.score_before_experts ? " before" : " after",
      m.route_scale, args.n_limited_groups, args.n_expert_groups, m.load_balance_coeff,
      word(args.attn_mask_type), args.hf_yarn ? ", YaRN" : "");
  if (m.force_load_balance) text += fmt::format(", forced routing, skew {}", m.skew_percent);
  if (degrees.pp > 1) {
    text += fmt::format(" | {} x {}, blocks", pipeline.schedule.name, stages_per_rank);
    for (const StagePart& p : pipeline.parts)
      text += fmt::format(" {}", p.end_block - p.first_block);
  }
  text += fmt::format(" | {} x {} rows of {}, recompute", microbatches, rows, sequence);
  for (const Recompute& r : recompute) text += " " + name_of(r);
  text += fmt::format("{}, {} x {}", reshard ? ", reshard" : "", word(dispatcher), capacity_factor);
  if (ignored != Ignored::none)
    text += fmt::format(", labels of {} ignored", ignored == Ignored::some   ? "some tokens"
                                                  : ignored == Ignored::most ? "most tokens"
                                                                             : "step 2");
  if (sockets) text += ", sockets";
  if (expert_overlap) text += ", overlap";
  if (moments == DType::bf16) text += ", bf16 moments";
  if (split_masters) text += ", split";
  if (offload != Offload::none) text += fmt::format(", offload {}", word(offload));
  return text + fmt::format(", clip {}, decay {}", optimizer.max_norm, optimizer.weight_decay);
}

}  // namespace nereus::compose
