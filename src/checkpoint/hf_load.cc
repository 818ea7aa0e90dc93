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

constexpr std::string_view kBias = ".mlp.gate.e_score_correction_bias";

// A tensor of the files: a parameter, or one of its experts.
struct FileTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// A part of it and where that goes: rows.
struct Target {
  FileTensor tensor;
  TensorView view;
  int64_t first_row = 0, first_column = 0;  // of the part
};

void add_tensors(const std::string& parameter, const Shape& whole, int64_t first_expert,
                 int64_t experts, std::vector<FileTensor>& out) {
  const bool by_expert = has_experts(parameter);
  std::vector<int64_t> shape;
  for (int d = by_expert ? 1 : 0; d < whole.rank(); ++d) shape.push_back(whole[d]);
  for (int64_t e = 0; e < (by_expert ? experts : 1); ++e)
    out.push_back({hf_name(parameter, first_expert + e), shape});
}

std::vector<Target> targets(std::span<const NamedView> tensors) {
  std::vector<Target> out;
  for (const NamedView& t : tensors) {
    NEREUS_CHECK(kContract, t.view.dtype == DType::f32 && t.view.data != nullptr,
                 "'{}': weights are loaded into f32, not into {}", t.name, t.view);
    const bool experts = has_experts(t.name);
    const auto first = [&](int d) { return t.origin.rank() > d ? t.origin[d] : 0; };
    const int row = experts ? 1 : 0;
    std::vector<FileTensor> parts;
    add_tensors(t.name, t.whole.rank() > 0 ? t.whole : t.view.shape, first(0), t.view.dim(0),
                parts);
    for (size_t i = 0; i < parts.size(); ++i)
      out.push_back({.tensor = std::move(parts[i]),
                     .view = experts ? t.view[static_cast<int64_t>(i)] : t.view,
                     .first_row = first(row),
                     .first_column = first(row + 1)});
  }
  return out;
}

// All that the model needs of the files, the same on every rank: what a rank says of them is of the
// whole model. Without `model` the targets are whole and all there is.
std::vector<FileTensor> tensors_of(std::span<const Parameter> model,
                                   const std::vector<Target>& targets) {
  std::vector<FileTensor> out;
  for (const Parameter& p : model) add_tensors(p.name, p.shape, 0, p.shape[0], out);
  if (model.empty())
    for (const Target& t : targets) out.push_back(t.tensor);
  return out;
}

// Models that were balanced by an auxiliary loss have no balancing bias at all, and lack nothing
// else. Some biases without the others are an incomplete file. Do they begin at zero?
bool biases_begin_at_zero(const HfWeights& weights, const std::vector<FileTensor>& model) {
  const std::vector<std::string> names = weights.names();
  if (std::any_of(names.begin(), names.end(), [&](const auto& n) { return n.ends_with(kBias); }))
    return false;
  std::vector<std::string> biases;
  for (const FileTensor& t : model) {
    if (t.name.ends_with(kBias)) {
      biases.push_back(t.name);
    } else if (weights.find(t.name) == nullptr) {
      return false;
    }
  }
  if (biases.empty()) return false;
  log::warning(
      "{}: the weights have no biases that balance the experts; they begin at zero: {}; "
      "model_overrides.load_balance_coeff = 0 trains without them",
      weights.path(), first_of(biases));
  return true;
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

void check_tensors(const HfWeights& weights, const std::vector<FileTensor>& all, bool biases,
                   const std::vector<std::string>& surplus) {
  std::vector<std::string> missing, misshapen, types, complaints;
  for (const FileTensor& t : all) {
    if (!biases && t.name.ends_with(kBias)) continue;
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
  for (const FileTensor& t : all)
    if (biases || !t.name.ends_with(kBias)) weights.check_scale(t.name);
}

// What the files have and the model has not: known by name to be no loss, or surplus.
struct Others {
  std::vector<std::string> ignored;  // known and not needed: multi-token prediction, rotary tables
  std::vector<std::string> surplus;  // not known, or not in this model
};
Others others_in(const HfWeights& weights, const std::vector<FileTensor>& model) {
  Others out;
  std::unordered_set<std::string> wanted;
  for (const FileTensor& t : model) wanted.insert(t.name);
  const std::vector<std::string> names = weights.names();
  const std::unordered_set<std::string> unused = unused_names(names);
  for (const std::string& name : names) {
    if (wanted.contains(name)) continue;
    (unused.contains(name) ? out.ignored : out.surplus).push_back(name);
  }
  return out;
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
  const std::string& name = t.tensor.name;
  const std::vector<int64_t>& shape = t.tensor.shape;
  const int64_t whole = shape.size() > 1 ? shape[1] : 1;  // of a row in the file
  const bool direct = device == nullptr && width == whole;
  const int64_t piece = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, whole));
  std::vector<float> staging(direct ? 0 : static_cast<size_t>(piece * whole));
  for (int64_t row = 0; row < rows; row += piece) {
    const int64_t end = std::min(rows, row + piece);
    const int64_t first = t.first_row + row, last = t.first_row + end;
    if (direct) {
      weights.read_f32(name, first, last, t.view.as<float>() + row * stride, stride);
      weights.release_pages(name);
      continue;
    }
    weights.read_f32(name, first, last, staging.data(), whole);
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
    weights.release_pages(name);
  }
}

}  // namespace

void load_hf_weights(const std::string& path, std::span<const NamedView> tensors, Stream* device,
                     std::span<const Parameter> model) {
  const HfWeights weights = HfWeights::open(path);
  const std::vector<Target> mine = targets(tensors);
  const std::vector<FileTensor> all = tensors_of(model, mine);
  const Others others = others_in(weights, all);
  const bool biases = !biases_begin_at_zero(weights, all);
  check_tensors(weights, all, biases, others.surplus);
  for (const std::string& note : weights.notes()) log::info("{}", note);
  if (!others.ignored.empty())
    log::info("{}: {} tensors of multi-token prediction layers or rotary tables are not used: {}",
              path, others.ignored.size(), first_of(others.ignored));
  if (!others.surplus.empty())
    log::warning("{}: {} tensors are not in this model and were not read: {}", path,
                 others.surplus.size(), first_of(others.surplus));
  for (const Target& t : mine) {
    if (biases || !t.tensor.name.ends_with(kBias)) {
      read(weights, t, device);
    } else {
      fill_with_zeros(t, device);
    }
  }
}

}  // namespace nereus
