#include "train/run_state.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/philox.h"
#include "config/keys.h"
#include "model/parameters.h"
#include "tensor/format.h"

namespace nereus {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// A position is JSON itself; one that is not is kept as text.
ordered_json position(const std::string& text) {
  ordered_json j = ordered_json::parse(text, nullptr, false);
  return j.is_object() ? j : ordered_json(text);
}

}  // namespace

std::string to_json(const RunState& s) {
  ordered_json j;
  j["step"] = s.step;
  j["holds"] = s.weights_only ? "weights" : "everything";
  j["tokens_seen"] = s.tokens;
  j["time"] = s.time;
  j["program"] = s.program;
  j["layout"] = {{"text", s.layout}, {"ranks", s.ranks}, {"global_batch", s.global_batch}};
  j["optimizer"] = {{"step", s.optimizer_step}};
  j["lr_scheduler"] = {{"step", s.schedule_step}, {"lr", s.lr}};
  j["random"] = {{"generator", "philox4x32-10, by name and element"},
                 {"seed", s.config.contains("training.seed") ? s.config.at("training.seed") : ""}};
  j["expert_capacity_factor"] = s.expert_capacity;
  j["reruns"] = s.reruns;
  j["first_validation_loss"] =
      s.first_validation ? ordered_json(*s.first_validation) : ordered_json(nullptr);
  j["skipped_steps"] = ordered_json::array();
  for (const auto& [from, to] : s.skipped) j["skipped_steps"].push_back({from, to});
  j["lineage"] = ordered_json::array();
  for (const RunState::Start& l : s.lineage)
    j["lineage"].push_back({{"id", l.id}, {"step", l.step}, {"time", l.time}});
  j["fingerprint"] = fmt::format("{:016x}", s.fingerprint);
  j["model"] = s.model;
  j["config"] = s.config;
  j["data"] = ordered_json::array();
  for (const std::string& d : s.data) j["data"].push_back(position(d));
  return j.dump();
}

RunState parse_run_state(const std::string& text, const std::string& path) {
  RunState s;
  try {
    const json j = json::parse(text);
    s.step = j.at("step").get<int64_t>();
    s.weights_only = j.at("holds") == "weights";
    s.tokens = j.at("tokens_seen").get<int64_t>();
    s.time = j.at("time").get<std::string>();
    s.program = j.at("program").get<std::string>();
    s.layout = j.at("layout").at("text").get<std::string>();
    s.ranks = j.at("layout").at("ranks").get<int64_t>();
    s.global_batch = j.at("layout").at("global_batch").get<int64_t>();
    s.optimizer_step = j.at("optimizer").at("step").get<int64_t>();
    s.schedule_step = j.at("lr_scheduler").at("step").get<int64_t>();
    s.lr = j.at("lr_scheduler").at("lr").get<double>();
    s.expert_capacity = j.at("expert_capacity_factor").get<double>();
    s.reruns = j.at("reruns").get<int64_t>();
    if (const json& loss = j.at("first_validation_loss"); !loss.is_null())
      s.first_validation = loss.get<double>();
    for (const json& r : j.at("skipped_steps"))
      s.skipped.emplace_back(r.at(0).get<int64_t>(), r.at(1).get<int64_t>());
    for (const json& l : j.at("lineage"))
      s.lineage.push_back({l.at("id").get<std::string>(), l.at("step").get<int64_t>(),
                           l.value("time", std::string())});
    s.fingerprint = std::stoull(j.at("fingerprint").get<std::string>(), nullptr, 16);
    s.model = j.at("model").get<std::map<std::string, std::string>>();
    s.config = j.at("config").get<std::map<std::string, std::string>>();
    for (const json& d : j.at("data"))
      s.data.push_back(d.is_string() ? d.get<std::string>() : d.dump());
  } catch (const std::exception& e) {
    NEREUS_FAIL(kIo, "{}: it does not say where its run was: {}", path, e.what());
  }
  return s;
}

std::map<std::string, std::string> model_facts(const ModelArgs& a) {
  const auto text = [](auto x) { return fmt::format("{}", x); };
  const auto& n = a.numerics;
  std::map<std::string, std::string> out = {
      {"vocab_size", text(a.vocab_size)},
      {"dim", text(a.dim)},
      {"inter_dim", text(a.inter_dim)},
      {"moe_inter_dim", text(a.moe_inter_dim)},
      {"n_layers", text(a.n_layers)},
      {"n_dense_layers", text(a.n_dense_layers)},
      {"n_heads", text(a.n_heads)},
      {"norm_eps", text(a.norm_eps)},
      {"q_lora_rank", text(a.q_lora_rank)},
      {"kv_lora_rank", text(a.kv_lora_rank)},
      {"qk_nope_head_dim", text(a.qk_nope_head_dim)},
      {"qk_rope_head_dim", text(a.qk_rope_head_dim)},
      {"v_head_dim", text(a.v_head_dim)},
      {"num_experts", text(a.moe.num_experts)},
      {"num_shared_experts", text(a.moe.num_shared_experts)},
      {"top_k", text(a.moe.top_k)},
      {"score_func", word(a.moe.score_func)},
      {"route_norm", text(a.moe.route_norm)},
      {"route_scale", text(a.moe.route_scale)},
      {"score_before_experts", text(a.moe.score_before_experts)},
      {"expert_bias", text(has_expert_bias(a))},
      {"family", word(n.family)},
      {"round_normalized", text(n.round_normalized)},
      {"f32_router", text(n.f32_router)},
      {"latent_norm_eps", text(a.latent_norm_eps())},
      {"final_norm_eps", text(a.final_norm_eps())},
  };
  if (n.expert_groups) {
    out["n_expert_groups"] = text(a.n_expert_groups);
    out["n_limited_groups"] = text(a.n_limited_groups);
  }
  const RopeParameters rope = rope_parameters(a);
  out["rope_theta"] = text(rope.theta);
  out["yarn"] = text(rope.yarn);
  out["softmax_scale"] = text(rope.softmax_scale);
  if (rope.yarn) {
    out["rope_factor"] = text(rope.factor);
    out["beta_fast"] = text(rope.beta_fast);
    out["beta_slow"] = text(rope.beta_slow);
    out["original_seq_len"] = text(rope.original_seq_len);
    out["rope_amplitude"] = text(rope.amplitude);
  }
  return out;
}

uint64_t model_fingerprint(const ModelArgs& args) {
  std::string all;
  for (const auto& [name, value] : model_facts(args)) all += name + "=" + value + "\n";
  for (const Parameter& p : parameters(args)) all += fmt::format("{} {}\n", p.name, p.shape);
  return hash_name(all);
}

std::map<std::string, std::string> config_values(const JobConfig& config) {
  JobConfig copy = config;
  std::map<std::string, std::string> out;
  for (const Key& key : keys(copy)) out[key.name] = value_text(key);
  return out;
}

}  // namespace nereus
