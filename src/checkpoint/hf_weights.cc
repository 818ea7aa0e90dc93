#include "checkpoint/hf_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "checkpoint/hf_forms.h"
#include "checkpoint/listing.h"
#include "config/json_file.h"
#include "tensor/convert.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kFileName = "model.safetensors";
constexpr const char* kScaleSuffixes[] = {"_scale_inv", "_scale"};

// The weights' file in a folder without an index.
std::string only_file_in(const std::string& folder) {
  const std::string usual = folder + "/" + kFileName;
  if (is_there(usual)) return usual;
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : entries_of(folder, error))
    if (entry.path().extension() == ".safetensors")
      files.push_back(entry.path().filename().string());
  std::sort(files.begin(), files.end());
  NEREUS_CHECK(kConfig, !error, "{}: cannot read: {}", folder, error.message());
  NEREUS_CHECK(kConfig, !files.empty(),
               "{}: no weights: it has neither {} nor model.safetensors nor any other .safetensors "
               "file; give a folder or a file of Hugging Face weights",
               folder, kIndexName);
  NEREUS_CHECK(kConfig, files.size() == 1,
               "{}: it has neither {} nor model.safetensors, and {} other .safetensors files: {}; "
               "give the one that is meant",
               folder, kIndexName, files.size(), first_of(files));
  return folder + "/" + files[0];
}

// Does an index that stands beside model.safetensors name it? One that cannot be read does not.
bool names_the_file(const std::string& index) {
  std::ifstream in(index, std::ios::binary);
  const Json json = Json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map")) return false;
  const Json& map = json["weight_map"];
  return map.is_object() &&
         std::any_of(map.begin(), map.end(), [](const Json& file) { return file == kFileName; });
}

const Json* member(const Json* object, const char* name) {
  if (object == nullptr || !object->is_object()) return nullptr;
  const auto it = object->find(name);
  return it == object->end() || it->is_null() ? nullptr : &*it;
}

// quantization_config.weight_block_size, of the model or of its language model; compressed-tensors
// has a block_structure in one of its groups. nullptr: neither.
const Json* block_size(const Json& config) {
  for (const char* part : {"", "text_config", "language_config"}) {
    const Json* model = *part == '\0' ? &config : member(&config, part);
    const Json* quantization = member(model, "quantization_config");
    if (const Json* size = member(quantization, "weight_block_size")) return size;
    const Json* groups = member(quantization, "config_groups");
    if (groups == nullptr || !groups->is_object()) continue;
    for (const Json& group : *groups)
      if (const Json* size = member(member(&group, "weights"), "block_structure")) return size;
  }
  return nullptr;
}

bool is_scale_type(FileDType t) {
  return t == FileDType::f32 || t == FileDType::bf16 || t == FileDType::f16 ||
         t == FileDType::f8e8m0;
}

// [rows] or [rows, 1]: a scale for each row of the tensor.
bool is_by_row(const SafetensorsEntry& e, const SafetensorsEntry& scale) {
  return !scale.shape.empty() && scale.shape[0] == e.shape[0] && scale.count() == e.shape[0];
}

// Elements [begin, begin + n) as f32. A byte e of F8_E8M0 is 2^(e - 127), and 255 no number.
void read_scales(const SafetensorsEntry& e, int64_t begin, int64_t n, float* out) {
  const std::byte* data = e.data.data() + begin * size_of(e.dtype);
  if (e.dtype != FileDType::f8e8m0) return convert_to_f32(*dtype_of(e.dtype), data, n, out);
  for (int64_t i = 0; i < n; ++i) {
    const int exponent = std::to_integer<int>(data[i]);
    out[i] = exponent == 255 ? NAN : std::ldexp(1.0f, exponent - 127);
  }
}

int64_t rows_of(const SafetensorsEntry& e) { return e.shape.empty() ? 1 : e.shape[0]; }
int64_t width_of(const SafetensorsEntry& e) {
  int64_t width = 1;
  for (size_t i = 1; i < e.shape.size(); ++i) width *= e.shape[i];
  return width;
}

}  // namespace

HfWeights HfWeights::open(const std::string& path) {
  HfWeights w;
  w.path_ = path;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  NEREUS_CHECK(kConfig, fs::exists(status), "{}: no weights: {}", path, error.message());
  const bool in_folder = fs::is_directory(status);
  const std::string folder = in_folder ? path : fs::path(path).parent_path().string();
  const std::string index = in_folder ? path + "/" + kIndexName : path;
  const bool both = in_folder && is_there(index) && is_there(folder + "/" + kFileName);
  const bool stale = both && !names_the_file(index);
  if (stale)
    w.notes_.push_back(
        fmt::format("{}: it has {} and an {} that does not name it; the one file is read, as "
                    "transformers does, and the index is not looked at; remove the one that is not "
                    "meant",
                    path, kFileName, kIndexName));
  if (index.ends_with(".index.json") && is_there(index) && !stale) {
    w.add_index(index);
  } else {
    w.add_file(in_folder ? only_file_in(path) : path);
  }
  w.read_block_size((fs::path(folder) / "config.json").string());
  w.use_usual_names();
  w.split_experts();
  w.set_scales_apart();
  return w;
}

void HfWeights::add(Place place) {
  const std::string name = place.entry.name, &file = files_[place.file].path();
  const auto [other, added] = places_.emplace(name, std::move(place));
  NEREUS_CHECK(kConfig, added, "{}: tensor '{}' is in {} too", file, name,
               files_[other->second.file].path());
}

void HfWeights::add_file(const std::string& path) {
  files_.push_back(SafetensorsFile::open(path));
  for (const SafetensorsEntry& e : files_.back().entries()) add({files_.size() - 1, e});
}

void HfWeights::add_index(const std::string& path) {
  const Json index = read_json_file(path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  NEREUS_CHECK(kConfig, map != index.end() && map->is_object(), "{}: it has no weight_map", path);
  std::set<std::string> shards;
  std::vector<std::string> missing;
  for (const auto& [name, shard] : map->items()) {
    NEREUS_CHECK(kConfig, shard.is_string(), "{}: weight_map '{}' is not a file's name", path,
                 name);
    shards.insert(shard.get<std::string>());
  }
  const fs::path folder = fs::path(path).parent_path();
  for (const std::string& shard : shards)
    if (!is_there(folder / shard)) missing.push_back(shard);
  NEREUS_CHECK(kConfig, missing.empty(),
               "{}: {} of its {} files are missing: {}; download or copy them into {}", path,
               missing.size(), shards.size(), first_of(missing), folder.string());
  for (const std::string& shard : shards) add_file((folder / shard).string());
  for (const auto& [name, shard] : map->items()) {
    const auto place = places_.find(name);
    const std::string wanted = (folder / shard.get<std::string>()).string();
    NEREUS_CHECK(
        kConfig, place != places_.end() && files_[place->second.file].path() == wanted,
        "{}: the index says that tensor '{}' is in it, and it is not; the index belongs to "
        "other files",
        wanted, name);
  }
}

void HfWeights::read_block_size(const std::string& config) {
  if (!is_there(config)) return;
  const Json json = read_json_file(config);
  const auto* size = block_size(json);
  if (size == nullptr) return;
  const auto positive = [](const Json& n) {
    return n.is_number_unsigned() && n.get<uint64_t>() > 0 && n.get<uint64_t>() <= INT32_MAX;
  };
  NEREUS_CHECK(
      kConfig,
      size->is_array() && size->size() == 2 && positive((*size)[0]) && positive((*size)[1]),
      "{}: quantization_config.weight_block_size is {}; expected two whole numbers", config,
      size->dump());
  block_ = {(*size)[0].get<int64_t>(), (*size)[1].get<int64_t>()};
}

void HfWeights::use_usual_names() {
  const NamePrefix prefix = prefix_of(names());
  if (prefix.usual()) return;
  notes_.push_back(fmt::format(
      "{}: the model's tensors are called \"{}layers...\" and \"{}lm_head...\" here; they are read "
      "as \"model.layers...\" and \"lm_head...\"",
      path_, prefix.body, prefix.head));
  for (auto& [name, place] : std::exchange(places_, {})) {
    place.entry.name = prefix.without(name);
    add(std::move(place));
  }
}

// A scale of a block that holds rows of the gate and of up would be neither's.
void HfWeights::check_halves(const Place& fused, const SafetensorsEntry& part) const {
  const SafetensorsEntry& e = fused.entry;
  const SafetensorsEntry* scale = scale_of(e);
  if (scale == nullptr || part.shape[0] == e.shape[1]) return;
  const int64_t experts = e.shape[0], rows = e.shape[1];
  const bool of_expert = scale->count() == experts, of_row = scale->count() == experts * rows;
  NEREUS_CHECK(kConfig, of_expert || of_row || part.shape[0] % block_[0] == 0,
               "{}: '{}' is {}: the gate's {} rows of an expert are not whole blocks of {}, so "
               "that its scales cannot be told from up's; save the experts one by one",
               files_[fused.file].path(), e.name, e.to_string(), part.shape[0], block_[0]);
}

void HfWeights::split_experts() {
  std::vector<Place> fused;
  for (const auto& [name, place] : places_)
    if (!expert_parts(place.entry).empty()) fused.push_back(place);
  for (const Place& f : fused) {
    std::vector<SafetensorsEntry> parts = expert_parts(f.entry);
    check_halves(f, parts[0]);
    places_.erase(f.entry.name);
    for (SafetensorsEntry& part : parts) add({f.file, std::move(part)});
  }
}

// The scales of FP8 tensors are no tensors of their own.
void HfWeights::set_scales_apart() {
  std::vector<std::string> scales;
  for (const auto& [name, place] : places_)
    if (const SafetensorsEntry* scale = scale_of(place.entry)) scales.push_back(scale->name);
  for (const std::string& name : scales) scales_.insert(places_.extract(name));
}

const SafetensorsEntry* HfWeights::scale_of(const SafetensorsEntry& e) const {
  if (e.dtype != FileDType::f8e4m3) return nullptr;
  for (const char* suffix : kScaleSuffixes)
    for (const auto* places : {&scales_, &places_}) {
      const auto it = places->find(e.name + suffix);
      if (it != places->end()) return &it->second.entry;
    }
  return nullptr;
}

const SafetensorsEntry& HfWeights::require_scale(const SafetensorsEntry& e) const {
  const std::string& file = files_[places_.at(e.name).file].path();
  NEREUS_CHECK(kConfig, e.shape.size() == 2,
               "{}: tensor '{}' is {}; block-scaled FP8 has two dimensions", file, e.name,
               e.to_string());
  const SafetensorsEntry* scale = scale_of(e);
  NEREUS_CHECK(kConfig, scale != nullptr,
               "{}: tensor '{}' is {} and has no scales: '{}{}' is missing", file, e.name,
               e.to_string(), e.name, kScaleSuffixes[0]);
  std::vector<int64_t> expected;
  for (size_t d = 0; d < 2; ++d) expected.push_back((e.shape[d] + block_[d] - 1) / block_[d]);
  const bool whole = scale->count() == 1, by_row = is_by_row(e, *scale);
  NEREUS_CHECK(kConfig,
               is_scale_type(scale->dtype) && (whole || by_row || scale->shape == expected),
               "{}: '{}' is {}; expected [{}] of F32, BF16, F16 or F8_E8M0 for {} in blocks of {} "
               "x {}",
               file, scale->name, scale->to_string(), fmt::join(expected, ", "), e.to_string(),
               block_[0], block_[1]);
  return *scale;
}

std::array<int64_t, 2> HfWeights::block_of(const SafetensorsEntry& e,
                                           const SafetensorsEntry& scale) const {
  if (scale.count() == 1)
    return {std::max<int64_t>(1, e.shape[0]), std::max<int64_t>(1, e.shape[1])};
  if (is_by_row(e, scale)) return {1, std::max<int64_t>(1, e.shape[1])};
  return block_;
}

void HfWeights::check_scale(const std::string& name) const {
  const SafetensorsEntry* e = find(name);
  if (e != nullptr && e->dtype == FileDType::f8e4m3) require_scale(*e);
}

std::vector<std::string> HfWeights::names() const {
  std::vector<std::string> out;
  for (const auto& [name, place] : places_) out.push_back(name);
  return out;
}

const SafetensorsEntry* HfWeights::find(const std::string& name) const {
  const auto it = places_.find(name);
  return it == places_.end() ? nullptr : &it->second.entry;
}

void HfWeights::read_f32(const std::string& name, float* out) const {
  const SafetensorsEntry* e = find(name);
  read_f32(name, 0, e == nullptr ? 0 : rows_of(*e), out);
}

void HfWeights::read_f32(const std::string& name, int64_t begin, int64_t end, float* out,
                         int64_t row_stride) const {
  const SafetensorsEntry* e = find(name);
  NEREUS_CHECK(kConfig, e != nullptr, "{}: there is no tensor '{}'", path_, name);
  const auto dtype = dtype_of(e->dtype);
  NEREUS_CHECK(kConfig, dtype && is_float(*dtype), "{}: tensor '{}' is {}; expected a float type",
               path_, name, e->to_string());
  const int64_t width = width_of(*e), stride = row_stride == 0 ? width : row_stride;
  NEREUS_CHECK(kContract, 0 <= begin && begin <= end && end <= rows_of(*e) && stride >= width,
               "rows {} to {} of '{}' {} with row stride {}", begin, end, name, e->to_string(),
               stride);
  if (e->dtype == FileDType::f8e4m3) {
    read_scaled(*e, require_scale(*e), begin, end, out, stride);
    return;
  }
  const int64_t row_bytes = width * size_of(*dtype);
  if (stride == width) {
    convert_to_f32(*dtype, e->data.data() + begin * row_bytes, (end - begin) * width, out);
    return;
  }
  for (int64_t row = begin; row < end; ++row)
    convert_to_f32(*dtype, e->data.data() + row * row_bytes, width, out + (row - begin) * stride);
}

void HfWeights::read_scaled(const SafetensorsEntry& e, const SafetensorsEntry& scale, int64_t begin,
                            int64_t end, float* out, int64_t row_stride) const {
  const auto [block_rows, block_width] = block_of(e, scale);
  const int64_t width = e.shape[1], blocks = (width + block_width - 1) / block_width;
  std::vector<float> scales(static_cast<size_t>(blocks));
  int64_t scales_row = -1;
  for (int64_t row = begin; row < end; ++row, out += row_stride) {
    if (row / block_rows != scales_row) {
      scales_row = row / block_rows;
      read_scales(scale, scales_row * blocks, blocks, scales.data());
    }
    convert_to_f32(DType::f8e4m3, e.data.data() + row * width, width, out);
    for (int64_t b = 0; b < blocks; ++b) {
      const float s = scales[static_cast<size_t>(b)];
      const int64_t block_end = std::min(width, (b + 1) * block_width);
      for (int64_t i = b * block_width; i < block_end; ++i) out[i] *= s;
    }
  }
}

void HfWeights::release_pages(const std::string& name) const {
  const auto it = places_.find(name);
  if (it == places_.end()) return;
  files_[it->second.file].release_pages(it->second.entry);
  for (const char* suffix : kScaleSuffixes) {
    const auto scale = scales_.find(name + suffix);
    if (scale != scales_.end()) files_[scale->second.file].release_pages(scale->second.entry);
  }
}

}  // namespace nereus
