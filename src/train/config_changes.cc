#include "train/config_changes.h"

#include <array>

#include "base/check.h"

namespace nereus {
namespace {

// Keys without which a saved data position, or the optimizer's states, mean nothing.
constexpr std::array kOfData = {"training.dataset", "data.order", "training.seq_len"};
constexpr std::array kOfOptimizer = {"optimizer.name"};

// Keys that change what is computed from here on. All others change where and how it is computed.
constexpr std::array kSaid = {"training.steps",
                              "training.max_norm",
                              "training.seed",
                              "training.mixed_precision_param",
                              "training.skip_steps",
                              "training.dataset_path",
                              "data.on_broken_shard",
                              "optimizer.beta1",
                              "optimizer.beta2",
                              "optimizer.eps",
                              "optimizer.weight_decay",
                              "optimizer.moment_dtype",
                              "model_overrides.attn_mask_type",
                              "model_overrides.use_flex_attn",
                              "model_overrides.load_balance_coeff",
                              "model.converters",
                              "quantize.linear.float8.recipe_name",
                              "quantize.linear.float8.filter_fqns",
                              "quantize.linear.mx.recipe_name",
                              "quantize.linear.mx.filter_fqns",
                              "quantize.grouped_mm.float8.fqns",
                              "quantize.grouped_mm.mx.fqns",
                              "quantize.grouped_mm.mx.recipe_name"};
constexpr std::array kOfSchedule = {"optimizer.lr", "lr_scheduler.warmup_steps",
                                    "lr_scheduler.decay_ratio", "lr_scheduler.decay_type",
                                    "lr_scheduler.min_lr_factor"};

class Comparison {
 public:
  Comparison(const std::map<std::string, std::string>& there,
             const std::map<std::string, std::string>& here)
      : there_(there), here_(here) {}

  // Lines "prefix + key: A there, B here" of what differs; a key that one side does not know is
  // none.
  template <class Keys>
  void add(const Keys& keys, std::vector<std::string>& out) const {
    for (const char* key : keys) {
      const auto a = there_.find(key), b = here_.find(key);
      if (a != there_.end() && b != here_.end()) add(key, a->second, b->second, out);
    }
  }
  static void add(const std::string& key, const std::string& there, const std::string& here,
                  std::vector<std::string>& out) {
    if (there != here) out.push_back(fmt::format("{}: {} there, {} here", key, there, here));
  }

 private:
  const std::map<std::string, std::string>&there_, &here_;
};

}  // namespace

ConfigChanges config_changes(const RunState& saved, const RunState& now, const LoadedParts& loads) {
  ConfigChanges out;
  for (const auto& [name, here] : now.model) {
    const auto there = saved.model.find(name);
    Comparison::add("model " + name, there == saved.model.end() ? "none" : there->second, here,
                    out.refused);
  }
  for (const auto& [name, there] : saved.model)
    if (!now.model.contains(name)) Comparison::add("model " + name, there, "none", out.refused);
  if (out.refused.empty() && saved.fingerprint != now.fingerprint)
    Comparison::add("the model's fingerprint", fmt::format("{:016x}", saved.fingerprint),
                    fmt::format("{:016x}", now.fingerprint), out.refused);
  const Comparison c(saved.config, now.config);
  if (loads.optimizer) c.add(kOfOptimizer, out.refused);
  if (loads.dataloader) c.add(kOfData, out.refused);
  if (loads.lr_scheduler) c.add(kOfSchedule, out.said);
  Comparison::add("global batch", std::to_string(saved.global_batch),
                  std::to_string(now.global_batch), out.said);
  c.add(kSaid, out.said);
  return out;
}

}  // namespace nereus
