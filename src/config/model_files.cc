// Model arguments from JSON files: TorchTitan's, and Hugging Face's config.json.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/suggest.h"
#include "config/json_file.h"
#include "config/model_args.h"

namespace nereus {
namespace {

using nlohmann::json;

// A JSON object of a file, whose members are asked for by name and type.
class Members {
 public:
  Members(const json& object, std::string path, std::string prefix = "")
      : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {}

  bool has(const char* name) const {
    known_.insert(name);
    return object_.contains(name) && !object_.at(name).is_null();
  }
  const json& at(const char* name) const { return object_.at(name); }
  std::string full(const char* name) const { return prefix_ + name; }
  const std::string& path() const { return path_; }

  void read(const char* name, int64_t& out) const {
    if (!has(name)) return;
    constexpr double kExact = 9007199254740992;  // 2^53: larger ones would overflow in sums
    if (!at(name).is_number_integer() || std::abs(at(name).get<double>()) > kExact)
      fail(name, "an integer");
    out = at(name).get<int64_t>();
  }
  void read(const char* name, double& out) const {
    if (!has(name)) return;
    if (!at(name).is_number()) fail(name, "a number");
    out = at(name).get<double>();
  }
  void read(const char* name, bool& out) const {
    if (object_.contains(name) && at(name).is_null()) out = false;  // as Python takes None
    if (!has(name)) return;
    if (!at(name).is_boolean()) fail(name, "true or false");
    out = at(name).get<bool>();
  }
  void read(const char* name, std::string& out) const {
    if (!has(name)) return;
    if (!at(name).is_string()) fail(name, "a string");
    out = at(name).get<std::string>();
  }
  // Names a member that nothing asked for.
  void refuse_others() const {
    const std::vector<std::string> known(known_.begin(), known_.end());
    for (const auto& [name, value] : object_.items()) {
      if (known_.count(name) > 0) continue;
      const std::string near = nearest(name, known);
      NEREUS_FAIL(kConfig, "{}: {}{} is not an argument of the model{}", path_, prefix_, name,
                  near.empty() ? "" : fmt::format("; did you mean {}?", near));
    }
  }
  // Must be there.
  template <class T>
  void require(const char* name, T& out) const {
    NEREUS_CHECK(kConfig, has(name), "{}: {}{} is missing; a DeepSeek-V3 model needs it", path_,
                 prefix_, name);
    read(name, out);
  }
  // Must be there, and at least 1.
  void require_size(const char* name, int64_t& out) const {
    require(name, out);
    if (out < 1) fail(name, "at least 1");
  }

  [[noreturn]] void fail(const char* name, const char* expected) const {
    NEREUS_FAIL(kConfig, "{}: {}{} = {}: it must be {}", path_, prefix_, name, at(name).dump(),
                expected);
  }

 private:
  const json& object_;
  std::string path_, prefix_;
  mutable std::set<std::string> known_;  // names that were asked for
};

json read_json(const std::string& path) {
  NEREUS_CHECK(kConfig, std::ifstream(path).good(),
               "{}: cannot be read; the model's arguments come from it", path);
  json parsed = read_json_file(path);
  NEREUS_CHECK(kConfig, parsed.is_object(), "{}: it must be a JSON object", path);
  return parsed;
}

ScoreFunction score_function(const std::string& name, const Members& m, const char* key) {
  const std::optional<ScoreFunction> score = value_of<ScoreFunction>(name);
  if (!score) m.fail(key, "sigmoid or softmax");
  return *score;
}

void refuse(const Members& m, const char* name, bool wrong, const char* why) {
  NEREUS_CHECK(kConfig, !wrong, "{}: {} = {} is not supported: {}", m.path(), m.full(name),
               m.at(name).dump(), why);
}

// Of a model of an earlier family, what can be trained in its place.
std::string in_place_of(const Members& m, const std::string& type) {
  int64_t dim = 0, layers = 0, experts = 0;
  m.read("hidden_size", dim);
  m.read("num_hidden_layers", layers);
  m.read("n_routed_experts", experts);
  for (const auto& [flavor, model] :
       {std::pair("16B", "DeepSeek-V2-Lite"), {"236B", "DeepSeek-V2"}}) {
    const ModelArgs a = model_args_of_flavor(flavor);
    if (a.dim == dim && a.n_layers == layers && a.moe.num_experts == experts)
      return fmt::format(
          ".\n  Its sizes are those of the flavor {} ({}): model.flavor = \"{}\" in place of "
          "model.hf_config trains these, with TorchTitan's arithmetic",
          flavor, model, flavor);
  }
  return type == "deepseek_v2" ? ".\n  DeepSeek-V2-Lite's and DeepSeek-V2's sizes are the flavors "
                                 "16B and 236B (model.flavor); [model_overrides] sets others"
                               : "";
}

// A model that sees or hears has its language model's description inside its own.
void refuse_wrapper(const json& config, const std::string& path) {
  for (const char* part : {"text_config", "language_config", "llm_config"}) {
    if (!config.contains(part) || !config.at(part).is_object()) continue;
    const auto type_of = [](const json& j) {
      return j.contains("model_type") ? j.at("model_type").dump() : std::string("not given");
    };
    NEREUS_FAIL(kConfig,
                "{}: it describes a model of several parts (model_type: {}), whose language model "
                "is in {} (model_type: {}); only a language model can be trained.\n  Write that "
                "part to a file of its own, `jq .{} config.json > language.json`, and name the new "
                "file in model.hf_config; names of weights may begin with language_model.",
                path, type_of(config), part, type_of(config.at(part)), part);
  }
}

// Both spellings: rope_scaling with type, rope_parameters with rope_type; transformers prefers
// rope_scaling where a file has both.
void read_rope(const json& config, const std::string& path, ModelArgs& a) {
  const Members top(config, path);
  top.read("rope_theta", a.rope_theta);
  top.read("max_position_embeddings", a.original_seq_len);
  const bool old = top.has("rope_scaling") && !top.at("rope_scaling").empty();
  const char* name = old ? "rope_scaling" : "rope_parameters";
  if (!top.has(name)) return;
  if (!top.at(name).is_object()) top.fail(name, "an object or null");
  const Members rope(top.at(name), path, std::string(name) + ".");
  std::string type = "default";
  rope.read("type", type);
  rope.read("rope_type", type);
  rope.read("rope_theta", a.rope_theta);
  if (type == "default") return;
  NEREUS_CHECK(kConfig, type == "yarn", "{}: {} has type {}: only yarn and default are supported",
               path, name, type);
  a.hf_yarn = true;
  rope.require("factor", a.rope_factor);
  rope.read("beta_fast", a.beta_fast);
  rope.read("beta_slow", a.beta_slow);
  if (a.beta_fast == 0) a.beta_fast = 32;  // as transformers does
  if (a.beta_slow == 0) a.beta_slow = 1;
  top.read("original_max_position_embeddings", a.original_seq_len);
  rope.read("original_max_position_embeddings", a.original_seq_len);
  rope.read("mscale", a.mscale);
  rope.read("mscale_all_dim", a.hf_mscale_all_dim);
  a.hf_mscale_given = rope.has("mscale") && a.mscale != 0;
  bool truncate = true;
  rope.read("truncate", truncate);
  refuse(rope, "truncate", !truncate, "YaRN's bounds are whole numbers");
  refuse(rope, "attention_factor", rope.has("attention_factor"),
         "it follows from factor and the two mscales");
  NEREUS_CHECK(
      kConfig, a.rope_factor >= 1 && a.original_seq_len > 0,
      "{}: {} has factor {} and original_max_position_embeddings {}: they must be at least 1", path,
      name, a.rope_factor, a.original_seq_len);
}

void check_groups(const Members& m, const ModelArgs& a) {
  const int64_t groups = a.n_expert_groups, experts = a.moe.num_experts;
  if (a.n_dense_layers >= a.n_layers) return;
  NEREUS_CHECK(kConfig, groups >= 1 && experts % groups == 0,
               "{}: n_routed_experts = {} do not divide into n_group = {} groups", m.path(),
               experts, groups);
  NEREUS_CHECK(kConfig, a.n_limited_groups >= 1 && a.n_limited_groups <= groups,
               "{}: topk_group = {} of n_group = {}: it must be between 1 and that", m.path(),
               a.n_limited_groups, groups);
  NEREUS_CHECK(kConfig, a.moe.top_k <= experts / groups * a.n_limited_groups,
               "{}: num_experts_per_tok = {}, but topk_group = {} groups of {} experts leave only "
               "{} to choose from",
               m.path(), a.moe.top_k, a.n_limited_groups, experts / groups,
               experts / groups * a.n_limited_groups);
}

}  // namespace

ModelArgs model_args_from_torchtitan_json(const std::string& path) {
  const json config = read_json(path);
  const Members m(config, path);
  ModelArgs a;
  a.flavor = path;
  m.read("max_seq_len", a.max_seq_len);
  m.read("vocab_size", a.vocab_size);
  m.read("dim", a.dim);
  m.read("inter_dim", a.inter_dim);
  m.read("moe_inter_dim", a.moe_inter_dim);
  m.read("n_layers", a.n_layers);
  m.read("n_dense_layers", a.n_dense_layers);
  m.read("n_heads", a.n_heads);
  m.read("norm_eps", a.norm_eps);
  m.read("n_expert_groups", a.n_expert_groups);
  m.read("n_limited_groups", a.n_limited_groups);
  m.read("q_lora_rank", a.q_lora_rank);
  m.read("kv_lora_rank", a.kv_lora_rank);
  m.read("qk_nope_head_dim", a.qk_nope_head_dim);
  m.read("qk_rope_head_dim", a.qk_rope_head_dim);
  m.read("v_head_dim", a.v_head_dim);
  m.read("use_flex_attn", a.use_flex_attn);
  std::string mask = word(a.attn_mask_type);
  m.read("attn_mask_type", mask);
  m.read("original_seq_len", a.original_seq_len);
  m.read("rope_theta", a.rope_theta);
  m.read("rope_factor", a.rope_factor);
  m.read("beta_fast", a.beta_fast);
  m.read("beta_slow", a.beta_slow);
  m.read("mscale", a.mscale);
  if (!value_of<MaskType>(mask)) m.fail("attn_mask_type", "causal or block_causal");
  a.attn_mask_type = *value_of<MaskType>(mask);
  if (m.has("moe_args")) {
    if (!m.at("moe_args").is_object()) m.fail("moe_args", "an object");
    const Members moe(m.at("moe_args"), path, "moe_args.");
    std::string score = "sigmoid";
    moe.read("num_experts", a.moe.num_experts);
    moe.read("num_shared_experts", a.moe.num_shared_experts);
    moe.read("top_k", a.moe.top_k);
    moe.read("score_func", score);
    moe.read("route_norm", a.moe.route_norm);
    moe.read("route_scale", a.moe.route_scale);
    moe.read("score_before_experts", a.moe.score_before_experts);
    moe.read("use_grouped_mm", a.moe.use_grouped_mm);
    moe.read("_debug_force_load_balance", a.moe.force_load_balance);
    if (m.at("moe_args").contains("load_balance_coeff") && !moe.has("load_balance_coeff"))
      a.moe.load_balance_coeff = 0;  // TorchTitan's None
    moe.read("load_balance_coeff", a.moe.load_balance_coeff);
    a.moe.score_func = score_function(score, moe, "score_func");
    moe.refuse_others();
  }
  for (const char* without_meaning : {"_enforced", "max_batch_size"}) m.has(without_meaning);
  m.refuse_others();
  if (!a.use_flex_attn) a.attn_mask_type = MaskType::causal;
  check(a);
  return a;
}

ModelArgs model_args_from_hf_config(const std::string& path) {
  const json config = read_json(path);
  refuse_wrapper(config, path);
  const Members m(config, path);
  ModelArgs a;
  a.flavor = path;
  a.numerics = numerics_of(NumericsFamily::huggingface);
  // Models of other names may have DeepSeek-V3's architecture.
  std::string type = "deepseek_v3", score = "sigmoid", activation = "silu", method = "noaux_tc";
  m.read("model_type", type);
  const std::string architectures = m.has("architectures") ? m.at("architectures").dump() : "";
  NEREUS_CHECK(
      kConfig,
      type == "deepseek_v3" || architectures.find("\"DeepseekV3ForCausalLM\"") != std::string::npos,
      "{}: model_type = {} is not supported: it must be deepseek_v3{}", path, type,
      in_place_of(m, type));
  m.read("topk_method", method);
  refuse(m, "topk_method", method != "noaux_tc", "it must be noaux_tc");
  bool yes = false;
  m.read("attention_bias", yes);
  refuse(m, "attention_bias", yes, "projections have no bias");
  yes = false;
  m.read("tie_word_embeddings", yes);
  refuse(m, "tie_word_embeddings", yes, "embedding and head are separate");
  yes = true;
  m.read("rope_interleave", yes);
  refuse(m, "rope_interleave", !yes, "rotary pairs are adjacent");
  int64_t frequency = 1;
  m.read("moe_layer_freq", frequency);
  refuse(m, "moe_layer_freq", frequency != 1,
         "every block after first_k_dense_replace has experts");
  double dropout = 0;
  m.read("attention_dropout", dropout);
  refuse(m, "attention_dropout", dropout != 0, "attention has no dropout");
  m.read("hidden_act", activation);
  refuse(m, "hidden_act", activation != "silu" && activation != "swish", "it must be silu");

  m.require_size("vocab_size", a.vocab_size);
  m.require_size("hidden_size", a.dim);
  m.require_size("intermediate_size", a.inter_dim);
  m.require_size("num_hidden_layers", a.n_layers);
  m.require_size("num_attention_heads", a.n_heads);
  m.require_size("kv_lora_rank", a.kv_lora_rank);
  m.require_size("qk_nope_head_dim", a.qk_nope_head_dim);
  m.require_size("qk_rope_head_dim", a.qk_rope_head_dim);
  m.require_size("v_head_dim", a.v_head_dim);
  int64_t kv_heads = a.n_heads;
  m.read("num_key_value_heads", kv_heads);
  refuse(m, "num_key_value_heads", kv_heads != a.n_heads,
         "latent attention has as many as num_attention_heads");
  int64_t qk_head = a.qk_head_dim();
  m.read("qk_head_dim", qk_head);
  NEREUS_CHECK(kConfig, qk_head == a.qk_head_dim(),
               "{}: qk_head_dim = {}, but qk_nope_head_dim + qk_rope_head_dim = {} + {} = {}", path,
               qk_head, a.qk_nope_head_dim, a.qk_rope_head_dim, a.qk_head_dim());
  a.q_lora_rank = config.contains("q_lora_rank") ? 0 : 1536;  // null: q by one projection
  m.read("q_lora_rank", a.q_lora_rank);
  a.norm_eps = 1e-6;
  m.read("rms_norm_eps", a.norm_eps);
  if (!(a.norm_eps > 0)) m.fail("rms_norm_eps", "greater than 0");

  a.n_dense_layers = 3;
  m.read("first_k_dense_replace", a.n_dense_layers);
  if (a.n_dense_layers < 0) m.fail("first_k_dense_replace", "0 or more");
  a.n_dense_layers = std::min(a.n_dense_layers, a.n_layers);
  if (a.n_dense_layers < a.n_layers) {
    m.require_size("n_routed_experts", a.moe.num_experts);
    m.require_size("num_experts_per_tok", a.moe.top_k);
    m.require_size("moe_intermediate_size", a.moe_inter_dim);
  }
  a.moe.num_shared_experts = 1;
  m.read("n_shared_experts", a.moe.num_shared_experts);
  m.read("scoring_func", score);
  a.moe.score_func = score_function(score, m, "scoring_func");
  a.moe.route_norm = true;
  m.read("norm_topk_prob", a.moe.route_norm);
  a.moe.route_scale = 2.5;
  m.read("routed_scaling_factor", a.moe.route_scale);
  a.moe.score_before_experts = false;
  a.n_expert_groups = 8;
  a.n_limited_groups = 4;
  m.read("n_group", a.n_expert_groups);
  m.read("topk_group", a.n_limited_groups);
  check_groups(m, a);
  a.max_seq_len = 4096;
  m.read("max_position_embeddings", a.max_seq_len);
  read_rope(config, path, a);
  a.eos_id = hf_config_eos_id(path).value_or(-1);
  ModelArgs sizes = a;  // the family's rules are left to the caller, who may change it
  sizes.numerics = numerics_of(NumericsFamily::torchtitan);
  check(sizes);
  return a;
}

std::vector<int64_t> hf_config_eos_ids(const std::string& path) {
  const json config = read_json(path);
  const Members m(config, path);
  if (!m.has("eos_token_id")) return {};
  const json& id = m.at("eos_token_id");
  if (id.is_number_integer()) return {id.get<int64_t>()};
  const auto integer = [](const json& one) { return one.is_number_integer(); };
  if (!id.is_array() || !std::all_of(id.begin(), id.end(), integer))
    m.fail("eos_token_id", "an integer or a list of integers");
  return id.get<std::vector<int64_t>>();
}

std::optional<int64_t> hf_config_eos_id(const std::string& path) {
  const std::vector<int64_t> ids = hf_config_eos_ids(path);
  return ids.empty() ? std::nullopt : std::optional(ids.front());
}

}  // namespace nereus
