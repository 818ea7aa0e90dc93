#include <algorithm>
#include <cstring>
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

// A part of one tensor of the files and where it goes: rows of a parameter, or of one of its
// experts.
struct Target {
  std::string name;
  TensorView view;
  std::vector<int64_t> shape;               // in the files
  int64_t first_row = 0, first_column = 0;  // of the part
};

std::vector<Target> targets(std::span<const NamedView> tensors) {
  std::vector<Target> out;
  for (const NamedView& t : tensors) {
    NEREUS_CHECK(kContract, t.view.dtype == DType::f32 && t.view.data != nullptr,
                 "'{}': weights are loaded into f32, not into {}", t.name, t.view);
    const bool experts = has_experts(t.name);
    const Shape& whole = t.whole.rank() > 0 ? t.whole : t.view.shape;
    const auto first = [&](int d) { return t.origin.rank() > d ? t.origin[d] : 0; };
    std::vector<int64_t> shape;
    for (int d = experts ? 1 : 0; d < whole.rank(); ++d) shape.push_back(whole[d]);
    const int row = experts ? 1 : 0;
    for (int64_t i = 0; i < (experts ? t.view.dim(0) : 1); ++i)
      out.push_back({.name = hf_name(t.name, first(0) + i),
                     .view = experts ? t.view[i] : t.view,
                     .shape = shape,
                     .first_row = first(row),
                     .first_column = first(row + 1)});
  }
  return out;
}

void check_targets(const HfWeights& weights, const std::vector<Target>& all) {
  std::vector<std::string> missing, misshapen, types, complaints;
  for (const Target& t : all) {
    const SafetensorsEntry* e = weights.find(t.name);
    if (e == nullptr) {
      missing.push_back(t.name);
    } else if (e->shape != t.shape) {
      misshapen.push_back(fmt::format("{} is {} where [{}] is expected", t.name, e->to_string(),
                                      fmt::join(t.shape, ", ")));
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
void sort_surplus(const HfWeights& weights, const std::vector<Target>& all,
                  std::span<const Parameter> model, LoadReport& report) {
  std::unordered_set<std::string> wanted, prediction_layers;
  for (const Target& t : all) wanted.insert(t.name);
  for (const Parameter& p : model)
    for (int64_t e = 0; e < (has_experts(p.name) ? p.shape[0] : 1); ++e)
      wanted.insert(hf_name(p.name, e));
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
  const int64_t whole = t.shape.size() > 1 ? t.shape[1] : 1;  // of a row in the file
  const bool direct = device == nullptr && width == whole;
  const int64_t piece = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, whole));
  std::vector<float> staging(direct ? 0 : static_cast<size_t>(piece * whole));
  for (int64_t row = 0; row < rows; row += piece) {
    const int64_t end = std::min(rows, row + piece);
    const int64_t first = t.first_row + row, last = t.first_row + end;
    if (direct) {
      weights.read_f32(t.name, first, last, t.view.as<float>() + row * stride, stride);
      weights.release_pages(t.name);
      continue;
    }
    weights.read_f32(t.name, first, last, staging.data(), whole);
    if (width < whole)
      for (int64_t r = 0; r < end - row; ++r)
        std::memmove(staging.data() + r * width, staging.data() + r * whole + t.first_column,
                     static_cast<size_t>(width) * sizeof(float));
    if (device == nullptr) {
      for (int64_t r = 0; r < end - row; ++r)
        std::copy_n(staging.data() + r * width, width, t.view.as<float>() + (row + r) * stride);
    } else {
      copy_to_device(*device, t.view.rows(row, end), staging.data());
      device->synchronize();
    }
    weights.release_pages(t.name);
  }
}

}  // namespace

LoadReport load_hf_weights(const std::string& path, std::span<const NamedView> tensors,
                           Stream* device, std::span<const Parameter> model) {
  const HfWeights weights = HfWeights::open(path);
  const std::vector<Target> all = targets(tensors);
  check_targets(weights, all);
  LoadReport report;
  sort_surplus(weights, all, model, report);
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
