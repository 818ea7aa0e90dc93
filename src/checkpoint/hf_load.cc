#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "base/log.h"
#include "checkpoint/hf_names.h"
#include "checkpoint/hf_weights.h"
#include "checkpoint/listing.h"
#include "tensor/convert.h"
#include "tensor/format.h"

namespace nereus {
namespace {

// One tensor of the files and where it goes: rows of a parameter, or of one of its experts.
struct Target {
  std::string name;
  TensorView view;
};

std::vector<Target> targets(std::span<const NamedView> tensors) {
  std::vector<Target> out;
  for (const NamedView& t : tensors) {
    NEREUS_CHECK(kContract, t.view.dtype == DType::f32 && t.view.data != nullptr,
                 "'{}': weights are loaded into f32, not into {}", t.name, t.view);
    const std::vector<std::string> names = hf_names_of(t.name, t.view);
    for (size_t i = 0; i < names.size(); ++i)
      out.push_back({names[i], has_experts(t.name) ? t.view[static_cast<int64_t>(i)] : t.view});
  }
  return out;
}

std::vector<int64_t> dims(const TensorView& view) {
  std::vector<int64_t> out;
  for (int d = 0; d < view.rank(); ++d) out.push_back(view.dim(d));
  return out;
}

void check_targets(const HfWeights& weights, const std::vector<Target>& all) {
  std::vector<std::string> missing, misshapen, types, complaints;
  for (const Target& t : all) {
    const SafetensorsEntry* e = weights.find(t.name);
    if (e == nullptr) {
      missing.push_back(t.name);
    } else if (e->shape != dims(t.view)) {
      misshapen.push_back(
          fmt::format("{} is {} where {} is expected", t.name, e->to_string(), t.view.shape));
    } else if (const auto dtype = dtype_of(e->dtype); !dtype || !is_float(*dtype)) {
      types.push_back(fmt::format("{} is {}", t.name, e->to_string()));
    }
  }
  if (!missing.empty())
    complaints.push_back(fmt::format("{} of the model's {} tensors are missing: {}", missing.size(),
                                     all.size(), first_of(missing)));
  if (!misshapen.empty())
    complaints.push_back(
        fmt::format("{} have another shape: {}", misshapen.size(), first_of(misshapen, "; ")));
  if (!types.empty())
    complaints.push_back(
        fmt::format("{} are of a type that is no float: {}", types.size(), first_of(types)));
  NEREUS_CHECK(kConfig, complaints.empty(),
               "{}: these weights are not the model's: {}; check that the model's sizes "
               "(config.json, model.flavor, [model_overrides]) are those of the weights",
               weights.path(), fmt::join(complaints, "; "));
}

// "model.layers.61." of "model.layers.61.eh_proj.weight"; empty outside the layers.
std::string layer_prefix(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return "";
  const size_t dot = name.find('.', kLayers.size());
  return dot == std::string::npos ? "" : name.substr(0, dot + 1);
}

// What the files have and the model has not: known by name to be no loss, or surplus.
void sort_surplus(const HfWeights& weights, const std::vector<Target>& all, LoadReport& report) {
  std::unordered_set<std::string> wanted, prediction_layers;
  for (const Target& t : all) wanted.insert(t.name);
  const std::vector<std::string> names = weights.names();
  for (const std::string& name : names)
    if (name.ends_with(".eh_proj.weight")) prediction_layers.insert(layer_prefix(name));
  for (const std::string& name : names) {
    if (wanted.contains(name)) continue;
    const bool known =
        name.ends_with("rotary_emb.inv_freq") || prediction_layers.contains(layer_prefix(name));
    (known ? report.ignored : report.surplus).push_back(name);
  }
}

// A piece of rows at a time: of the file no more than a piece is in memory.
void read(const HfWeights& weights, const Target& t, Stream* device) {
  constexpr int64_t kPiece = 4 << 20;  // elements
  const int64_t rows = t.view.dim(0), stride = t.view.row_stride();
  const int64_t width = t.view.rank() > 1 ? t.view.dim(1) : 1;
  const int64_t piece = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, width));
  std::vector<float> staging(device == nullptr ? 0 : static_cast<size_t>(piece * width));
  for (int64_t row = 0; row < rows; row += piece) {
    const int64_t end = std::min(rows, row + piece);
    if (device == nullptr) {
      weights.read_f32(t.name, row, end, t.view.as<float>() + row * stride, stride);
    } else {
      weights.read_f32(t.name, row, end, staging.data(), width);
      copy_to_device(*device, t.view.rows(row, end), staging.data());
      device->synchronize();
    }
    weights.release_pages(t.name);
  }
}

}  // namespace

LoadReport load_hf_weights(const std::string& path, std::span<const NamedView> tensors,
                           Stream* device) {
  const HfWeights weights = HfWeights::open(path);
  const std::vector<Target> all = targets(tensors);
  check_targets(weights, all);
  LoadReport report;
  sort_surplus(weights, all, report);
  if (!report.ignored.empty())
    log::info("{}: {} tensors of multi-token prediction layers or rotary tables are not used: {}",
              path, report.ignored.size(), first_of(report.ignored));
  if (!report.surplus.empty())
    log::warning("{}: {} tensors are not in this model and were not read: {}", path,
                 report.surplus.size(), first_of(report.surplus));
  for (const Target& t : all) {
    read(weights, t, device);
    ++report.tensors;
    report.elements += t.view.count();
  }
  return report;
}

}  // namespace nereus
