#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/check.h"
#include "base/log.h"
#include "checkpoint/hf_forms.h"
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
  bool from_zero = false;                   // it is not in the files and begins at zero
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

// Models that were balanced by an auxiliary loss have no balancing bias at all, and lack nothing
// else. Some biases without the others are an incomplete file.
void begin_biases_at_zero(const HfWeights& weights, std::vector<Target>& all) {
  constexpr std::string_view kBias = ".mlp.gate.e_score_correction_bias";
  const std::vector<std::string> names = weights.names();
  if (std::any_of(names.begin(), names.end(), [&](const auto& n) { return n.ends_with(kBias); }))
    return;
  std::vector<std::string> biases;
  for (const Target& t : all) {
    if (t.name.ends_with(kBias)) {
      biases.push_back(t.name);
    } else if (weights.find(t.name) == nullptr) {
      return;
    }
  }
  for (Target& t : all) t.from_zero = t.name.ends_with(kBias);
  if (!biases.empty())
    log::warning(
        "{}: the weights have no biases that balance the experts; they begin at zero: {}; "
        "model_overrides.load_balance_coeff = 0 trains without them",
        weights.path(), first_of(biases));
}

void refuse_packed(const HfWeights& weights, const std::vector<std::string>& names) {
  std::vector<std::string> packed;
  for (const std::string& name : names)
    if (is_packed(name)) packed.push_back(name);
  NEREUS_CHECK(kConfig, packed.empty(),
               "{}: {} tensors are packed into 4 bits an element, which cannot be read: {}; F32, "
               "BF16, F16 and FP8 with scales of blocks can: take the model's weights in one of "
               "these, or convert them to BF16",
               weights.path(), packed.size(), first_of(packed));
}

void check_targets(const HfWeights& weights, const std::vector<Target>& all,
                   const std::vector<std::string>& surplus) {
  std::vector<std::string> missing, misshapen, types, complaints;
  for (const Target& t : all) {
    if (t.from_zero) continue;
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
  if (!missing.empty()) refuse_packed(weights, surplus);
  if (!missing.empty())
    complaints.push_back(fmt::format("{} of the model's {} tensors are missing: {}", missing.size(),
                                     all.size(), first_of(missing)));
  if (!misshapen.empty())
    complaints.push_back(
        fmt::format("{} have another shape: {}", misshapen.size(), first_of(misshapen, "; ")));
  if (!types.empty())
    complaints.push_back(
        fmt::format("{} are of a type that is no float: {}", types.size(), first_of(types)));
  const bool others = !missing.empty() && !surplus.empty();
  if (others)
    complaints.push_back(fmt::format("{} tensors of the files are none of the model's: {}",
                                     surplus.size(), first_of(surplus)));
  NEREUS_CHECK(kConfig, complaints.empty(),
               "{}: these weights are not the model's: {}; check that the model's sizes "
               "(config.json, model.flavor, [model_overrides]) are those of the weights{}",
               weights.path(), fmt::join(complaints, "; "),
               others ? ", and the names those of DeepSeek-V3's weights at Hugging Face" : "");
  for (const Target& t : all)
    if (!t.from_zero) weights.check_scale(t.name);
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

void fill_with_zeros(const Target& t, Stream* device) {
  const std::vector<float> zeros(static_cast<size_t>(t.view.count()));  // a bias: one dim
  if (device == nullptr) {
    std::copy(zeros.begin(), zeros.end(), t.view.as<float>());
  } else {
    copy_to_device(*device, t.view, zeros.data());
    device->synchronize();
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
  std::vector<Target> all = targets(tensors);
  LoadReport report;
  sort_surplus(weights, all, model, report);
  begin_biases_at_zero(weights, all);
  check_targets(weights, all, report.surplus);
  for (const std::string& note : weights.notes()) log::info("{}", note);
  if (!report.ignored.empty())
    log::info("{}: {} tensors of multi-token prediction layers or rotary tables are not used: {}",
              path, report.ignored.size(), first_of(report.ignored));
  if (!report.surplus.empty())
    log::warning("{}: {} tensors are not in this model and were not read: {}", path,
                 report.surplus.size(), first_of(report.surplus));
  for (const Target& t : all) {
    if (t.from_zero) {
      fill_with_zeros(t, device);
      continue;
    }
    read(weights, t, device);
    ++report.tensors;
    report.elements += t.view.count();
  }
  return report;
}

}  // namespace nereus
