#include "checkpoint/hf_names.h"

#include <array>
#include <charconv>

#include "base/check.h"

namespace nereus {
namespace {

// A `#` stands for a number: the layer, then the expert, which our names do not have.
struct Pair {
  std::string_view ours, theirs;
};
constexpr std::array<Pair, 24> kPairs = {{
    {"tok_embeddings.weight", "model.embed_tokens.weight"},
    {"layers.#.attention_norm.weight", "model.layers.#.input_layernorm.weight"},
    {"layers.#.attention.wq.weight", "model.layers.#.self_attn.q_proj.weight"},
    {"layers.#.attention.wq_a.weight", "model.layers.#.self_attn.q_a_proj.weight"},
    {"layers.#.attention.q_norm.weight", "model.layers.#.self_attn.q_a_layernorm.weight"},
    {"layers.#.attention.wq_b.weight", "model.layers.#.self_attn.q_b_proj.weight"},
    {"layers.#.attention.wkv_a.weight", "model.layers.#.self_attn.kv_a_proj_with_mqa.weight"},
    {"layers.#.attention.kv_norm.weight", "model.layers.#.self_attn.kv_a_layernorm.weight"},
    {"layers.#.attention.wkv_b.weight", "model.layers.#.self_attn.kv_b_proj.weight"},
    {"layers.#.attention.wo.weight", "model.layers.#.self_attn.o_proj.weight"},
    {"layers.#.ffn_norm.weight", "model.layers.#.post_attention_layernorm.weight"},
    {"layers.#.feed_forward.w1.weight", "model.layers.#.mlp.gate_proj.weight"},
    {"layers.#.feed_forward.w3.weight", "model.layers.#.mlp.up_proj.weight"},
    {"layers.#.feed_forward.w2.weight", "model.layers.#.mlp.down_proj.weight"},
    {"layers.#.moe.router.gate.weight", "model.layers.#.mlp.gate.weight"},
    {"layers.#.moe.expert_bias", "model.layers.#.mlp.gate.e_score_correction_bias"},
    {"layers.#.moe.experts.w1", "model.layers.#.mlp.experts.#.gate_proj.weight"},
    {"layers.#.moe.experts.w3", "model.layers.#.mlp.experts.#.up_proj.weight"},
    {"layers.#.moe.experts.w2", "model.layers.#.mlp.experts.#.down_proj.weight"},
    {"layers.#.moe.shared_experts.w1.weight", "model.layers.#.mlp.shared_experts.gate_proj.weight"},
    {"layers.#.moe.shared_experts.w3.weight", "model.layers.#.mlp.shared_experts.up_proj.weight"},
    {"layers.#.moe.shared_experts.w2.weight", "model.layers.#.mlp.shared_experts.down_proj.weight"},
    {"norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
}};

struct Numbers {
  std::array<int64_t, 2> value{-1, -1};
};

// The numbers in the places of `#`, if `text` has the pattern's form.
std::optional<Numbers> match(std::string_view pattern, std::string_view text) {
  Numbers numbers;
  size_t found = 0, at = 0;
  for (const char c : pattern) {
    if (c != '#') {
      if (at == text.size() || text[at] != c) return std::nullopt;
      ++at;
      continue;
    }
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), number);
    // A number has one spelling: no sign, no leading zeros.
    const auto digits = static_cast<size_t>(end - (text.data() + at));
    if (error != std::errc() || text[at] == '-' || (text[at] == '0' && digits > 1))
      return std::nullopt;
    numbers.value[found++] = number;
    at += digits;
  }
  return at == text.size() ? std::optional(numbers) : std::nullopt;
}

std::string fill(std::string_view pattern, const Numbers& numbers) {
  std::string text;
  size_t used = 0;
  for (const char c : pattern) {
    if (c == '#') {
      text += std::to_string(numbers.value[used++]);
    } else {
      text += c;
    }
  }
  return text;
}

struct Found {
  const Pair* pair;
  Numbers numbers;
};
Found require(std::string_view logical) {
  for (const Pair& p : kPairs)
    if (const auto numbers = match(p.ours, logical)) return {&p, *numbers};
  NEREUS_FAIL(kContract, "'{}' is the name of no parameter", logical);
}

bool by_expert(const Pair& p) { return p.ours.find(".experts.") != std::string_view::npos; }

}  // namespace

bool has_experts(std::string_view logical) { return by_expert(*require(logical).pair); }

std::string hf_name(std::string_view logical, int64_t expert) {
  Found found = require(logical);
  found.numbers.value[1] = expert;
  return fill(found.pair->theirs, found.numbers);
}

std::vector<std::string> hf_names_of(std::string_view logical, const ConstTensorView& view) {
  std::vector<std::string> names;
  const int64_t count = has_experts(logical) ? view.dim(0) : 1;
  for (int64_t expert = 0; expert < count; ++expert) names.push_back(hf_name(logical, expert));
  return names;
}

std::optional<LogicalName> logical_name(std::string_view hf) {
  for (const Pair& p : kPairs) {
    if (const auto numbers = match(p.theirs, hf))
      return LogicalName{fill(p.ours, *numbers), numbers->value[1]};
  }
  return std::nullopt;
}

}  // namespace nereus
