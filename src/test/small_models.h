// The models of the tests, each as small as what it is for allows, and named variations of them.
//
//   three_blocks()  finite differences: every part of the family in one model
//   two_blocks()    one layer at a time: a dense block and one of experts
//   eight_blocks()  many ranks: blocks for eight stages, eight experts, four heads
//   hf_tiny_v3()    the sizes of tests/golden/hf_tiny/v3
//   small_run()     whole runs: the arguments of a command line
//
// A variation takes a model and returns another: with_yarn(without_q_lora(three_blocks())).
#pragma once

#include <string>
#include <vector>

#include "config/model_args.h"

namespace nereus::test {

// q_lora, a dense block and two of experts, a shared expert, normalised sigmoid routing, attention
// within documents that end with token 1.
inline ModelArgs three_blocks() {
  ModelArgs a;
  a.max_seq_len = 12;
  a.vocab_size = 37;
  a.dim = 24;
  a.inter_dim = 40;
  a.moe_inter_dim = 16;
  a.n_layers = 3;
  a.n_dense_layers = 1;
  a.n_heads = 2;
  a.q_lora_rank = 12;
  a.kv_lora_rank = 8;
  a.qk_nope_head_dim = 8;
  a.qk_rope_head_dim = 4;
  a.v_head_dim = 8;
  a.attn_mask_type = MaskType::block_causal;
  a.eos_id = 1;
  a.moe = {.num_experts = 4,
           .num_shared_experts = 1,
           .top_k = 2,
           .score_func = ScoreFunction::sigmoid,
           .route_norm = true,
           .route_scale = 2.5,
           .score_before_experts = false};
  return a;
}

inline ModelArgs two_blocks() {
  ModelArgs a = three_blocks();
  a.max_seq_len = 24;
  a.vocab_size = 32;
  a.dim = 16;
  a.inter_dim = 24;
  a.moe_inter_dim = 8;
  a.n_layers = 2;
  a.q_lora_rank = 8;
  a.attn_mask_type = MaskType::causal;
  a.moe.route_norm = false;
  a.moe.route_scale = 1;
  a.moe.score_before_experts = true;
  return a;
}

inline ModelArgs eight_blocks() {
  ModelArgs a = three_blocks();
  a.max_seq_len = 8;
  a.vocab_size = 40;
  a.n_layers = 8;
  a.n_dense_layers = 4;
  a.n_heads = 4;
  a.attn_mask_type = MaskType::causal;
  a.moe.num_experts = 8;
  return a;
}

inline ModelArgs hf_tiny_v3() {
  ModelArgs a;
  a.numerics = numerics_of(NumericsFamily::huggingface);
  a.vocab_size = 512;
  a.dim = 64;
  a.inter_dim = 96;
  a.moe_inter_dim = 32;
  a.n_layers = 3;
  a.n_dense_layers = 1;
  a.n_heads = 4;
  a.norm_eps = 1e-6;
  a.moe.num_experts = 8;
  a.moe.num_shared_experts = 2;
  a.moe.top_k = 3;
  a.moe.route_norm = true;
  a.moe.route_scale = 2.5;
  a.n_expert_groups = 4;
  a.n_limited_groups = 2;
  a.q_lora_rank = 32;
  a.kv_lora_rank = 16;
  a.qk_nope_head_dim = 16;
  a.qk_rope_head_dim = 8;
  a.v_head_dim = 16;
  a.hf_yarn = true;
  a.hf_mscale_given = true;
  a.hf_mscale_all_dim = 1;
  a.eos_id = 1;
  return a;
}

inline ModelArgs without_q_lora(ModelArgs a) {
  a.q_lora_rank = 0;
  return a;
}

inline ModelArgs without_experts(ModelArgs a) {
  a.n_dense_layers = a.n_layers;
  return a;
}

inline ModelArgs without_dense_blocks(ModelArgs a) {
  a.n_dense_layers = 0;
  return a;
}

inline ModelArgs causal(ModelArgs a) {
  a.attn_mask_type = MaskType::causal;
  return a;
}

inline ModelArgs with_shared_experts(ModelArgs a, int64_t count) {
  a.moe.num_shared_experts = count;
  return a;
}

// Weights of a token's experts that are plain softmax scores: neither normalised nor scaled.
inline ModelArgs with_softmax(ModelArgs a) {
  a.moe.score_func = ScoreFunction::softmax;
  a.moe.route_norm = false;
  a.moe.route_scale = 1;
  return a;
}

inline ModelArgs with_scores_before_experts(ModelArgs a) {
  a.moe.score_before_experts = true;
  return a;
}

inline ModelArgs with_top_k(ModelArgs a, int64_t k) {
  a.moe.top_k = k;
  return a;
}

// Round-robin routing: every expert has as many rows, whatever the weights are.
inline ModelArgs with_even_routing(ModelArgs a) {
  a.moe.force_load_balance = true;
  return a;
}

// The sequence is longer than the one that the frequencies were made for.
inline ModelArgs with_yarn(ModelArgs a) {
  a.original_seq_len = a.max_seq_len / 3;
  a.rope_factor = 3;
  a.beta_fast = 2;
  a.beta_slow = 0.25;
  a.hf_yarn = a.numerics.yarn == YarnRule::where_configured;
  return a;
}

inline ModelArgs without_yarn(ModelArgs a) {
  a.rope_factor = 1;
  a.hf_yarn = false;
  return a;
}

// The other family: its epsilons, the router in f32, YaRN at every length.
inline ModelArgs huggingface(ModelArgs a) {
  a.rope_factor = 4;
  set_family(a, NumericsFamily::huggingface);
  return a;
}

// Twice as many experts, in four groups of which a token's three experts may be in two.
inline ModelArgs with_expert_groups(ModelArgs a) {
  a = huggingface(a);
  a.moe.num_experts *= 2;
  a.moe.top_k = 3;
  a.n_expert_groups = 4;
  a.n_limited_groups = 2;
  return a;
}

struct NamedModel {
  std::string name;
  ModelArgs args;
};

// three_blocks() in every kind that has arithmetic of its own.
inline std::vector<NamedModel> every_kind_of_model() {
  const ModelArgs a = three_blocks();
  return {
      {"torchtitan", a},
      {"torchtitan, softmax, scores before experts, no q_lora, causal, 2 shared experts",
       with_shared_experts(causal(without_q_lora(with_scores_before_experts(with_softmax(a)))), 2)},
      {"torchtitan, scores before experts, no shared experts",
       with_shared_experts(with_scores_before_experts(a), 0)},
      {"torchtitan, softmax, no q_lora, YaRN, no dense blocks",
       without_dense_blocks(with_yarn(without_q_lora(with_softmax(a))))},
      {"torchtitan, no experts, YaRN", with_yarn(without_experts(a))},
      {"torchtitan, one expert a token, not normalised",
       [&] {
         ModelArgs one = with_top_k(a, 1);
         one.moe.route_norm = false;
         return one;
       }()},
      {"huggingface, expert groups, YaRN, 2 shared experts",
       with_shared_experts(with_yarn(with_expert_groups(a)), 2)},
      {"huggingface, expert groups, no q_lora, no YaRN, scores before experts, no shared experts",
       with_shared_experts(
           with_scores_before_experts(without_yarn(without_q_lora(with_expert_groups(a)))), 0)},
  };
}

// A whole run's model and data, as a command line has them: three layers of experts behind a dense
// one, two rows of random ids.
inline std::vector<std::string> small_run() {
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
          "--training.mixed_precision_param=float32"};
}

}  // namespace nereus::test
