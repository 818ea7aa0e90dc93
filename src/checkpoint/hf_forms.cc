#include "checkpoint/hf_forms.h"

#include <algorithm>
#include <array>
#include <optional>

namespace nereus {
namespace {

// "x.layers.61." of "x.layers.61.embed_tokens.weight": of one layer, not of the model.
bool is_of_layer(std::string_view prefix) {
  if (!prefix.ends_with('.')) return false;
  prefix.remove_suffix(1);
  const size_t digits = prefix.find_last_not_of("0123456789");
  return digits != std::string_view::npos && digits + 1 < prefix.size() &&
         prefix.substr(0, digits + 1).ends_with("layers.");
}

// What stands before `suffix` in the only name of the model that ends with it.
std::optional<std::string> only_prefix(std::span<const std::string> names,
                                       std::string_view suffix) {
  std::optional<std::string> found;
  for (const std::string& name : names) {
    if (!name.ends_with(suffix)) continue;
    const std::string prefix = name.substr(0, name.size() - suffix.size());
    if ((!prefix.empty() && !prefix.ends_with('.')) || is_of_layer(prefix)) continue;
    if (found) return std::nullopt;
    found = prefix;
  }
  return found;
}

// "model.layers.61." of "model.layers.61.eh_proj.weight"; empty outside the layers.
std::string layer_prefix(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return "";
  const size_t dot = name.find('.', kLayers.size());
  return dot == std::string::npos ? "" : name.substr(0, dot + 1);
}

}  // namespace

NamePrefix prefix_of(std::span<const std::string> names) {
  constexpr std::string_view kEmbedding = "embed_tokens.weight", kHead = "lm_head.weight";
  NamePrefix p;
  const auto has = [&](const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (!has(p.body + std::string(kEmbedding)))
    p.body = only_prefix(names, kEmbedding).value_or(p.body);
  if (!has(std::string(kHead))) p.head = only_prefix(names, kHead).value_or("");
  return p;
}

std::string NamePrefix::without(const std::string& name) const {
  if (name.starts_with(head + "lm_head.")) return name.substr(head.size());
  if (name.starts_with(body)) return "model." + name.substr(body.size());
  return name;
}

std::vector<SafetensorsEntry> expert_parts(const SafetensorsEntry& e) {
  constexpr std::string_view kExperts = ".mlp.experts.";
  const size_t at = e.name.find(kExperts);
  if (at == std::string::npos || e.shape.empty() || e.shape.size() > 3) return {};
  const std::string layer = e.name.substr(0, at + kExperts.size());
  std::string_view rest = std::string_view(e.name).substr(layer.size());
  std::vector<std::string> parts;
  if (rest.starts_with("gate_up_proj")) {
    parts = {"gate_proj", "up_proj"};
    rest.remove_prefix(std::string_view("gate_up_proj").size());
  } else if (rest.starts_with("down_proj")) {
    parts = {"down_proj"};
    rest.remove_prefix(std::string_view("down_proj").size());
  }
  if (rest.starts_with(".weight")) rest.remove_prefix(std::string_view(".weight").size());
  constexpr std::array<std::string_view, 3> kKinds = {"", "_scale_inv", "_scale"};
  if (parts.empty() || std::find(kKinds.begin(), kKinds.end(), rest) == kKinds.end()) return {};
  const bool scales = !rest.empty();
  const int64_t experts = e.shape[0], n = std::ssize(parts);
  if (experts < 1 || e.dtype == FileDType::other || (!scales && e.shape.size() != 3)) return {};
  const bool of_whole = scales && e.count() == experts;  // one of an expert is each part's
  if (!of_whole && (e.shape.size() < 2 || e.shape[1] % n != 0)) return {};

  std::vector<int64_t> shape = {1};
  if (!of_whole) {
    shape.assign(e.shape.begin() + 1, e.shape.end());
    shape[0] /= n;
  }
  std::vector<SafetensorsEntry> out;
  const int64_t pieces = of_whole ? experts : experts * n;
  const size_t bytes = e.data.size() / static_cast<size_t>(pieces);
  for (int64_t i = 0; i < experts * n; ++i)
    out.push_back(
        {.name = layer + std::to_string(i / n) + "." + parts[static_cast<size_t>(i % n)] +
                 ".weight" + std::string(rest),
         .dtype = e.dtype,
         .shape = shape,
         .data = e.data.subspan(static_cast<size_t>(of_whole ? i / n : i) * bytes, bytes)});
  return out;
}

std::unordered_set<std::string> unused_names(std::span<const std::string> names) {
  std::unordered_set<std::string> prediction_layers, out;
  for (const std::string& name : names)
    if (name.ends_with(".eh_proj.weight")) prediction_layers.insert(layer_prefix(name));
  for (const std::string& name : names)
    if (name.ends_with("rotary_emb.inv_freq") || prediction_layers.contains(layer_prefix(name)))
      out.insert(name);
  return out;
}

bool is_packed(std::string_view name) {
  constexpr std::array<std::string_view, 6> kEnds = {
      ".weight_packed",  // compressed-tensors
      ".qweight",        // GPTQ, AWQ
      "_proj_blocks",    // MXFP4 of fused experts
      ".quant_state.bitsandbytes__nf4",
      ".quant_state.bitsandbytes__fp4",  // bitsandbytes
      "_proj_packed"};
  return std::any_of(kEnds.begin(), kEnds.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace nereus
