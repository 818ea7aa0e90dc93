#include "checkpoint/hf_weights.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "checkpoint/listing.h"
#include "tensor/convert.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kScaleSuffix = "_scale_inv";

Json read_json(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  NEREUS_CHECK(kConfig, in.good(), "{}: cannot read", path);
  try {
    return Json::parse(in);
  } catch (const Json::exception& e) {
    NEREUS_FAIL(kConfig, "{}: not valid JSON: {}", path, e.what());
  }
}

bool is_there(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is not there
  return fs::exists(path, ignored);
}

// The weights' file in a folder without an index.
std::string only_file_in(const std::string& folder) {
  const std::string usual = folder + "/model.safetensors";
  if (is_there(usual)) return usual;
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
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
  const bool is_folder = fs::is_directory(status);
  const std::string folder = is_folder ? path : fs::path(path).parent_path().string();
  const std::string index = is_folder ? path + "/" + kIndexName : path;
  if (index.ends_with(".index.json") && is_there(index)) {
    w.add_index(index);
  } else {
    w.add_file(is_folder ? only_file_in(path) : path);
  }
  w.read_block_size((fs::path(folder) / "config.json").string());
  w.check_scales();
  return w;
}

void HfWeights::add_file(const std::string& path) {
  files_.push_back(SafetensorsFile::open(path));
  const std::vector<SafetensorsEntry>& entries = files_.back().entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto [place, added] = places_.emplace(entries[i].name, Place{files_.size() - 1, i});
    NEREUS_CHECK(kConfig, added, "{}: tensor '{}' is in {} too", path, entries[i].name,
                 files_[place->second.file].path());
  }
}

void HfWeights::add_index(const std::string& path) {
  const Json index = read_json(path);
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
  const Json json = read_json(config);
  const Json none;
  const Json& quantization = json.is_object() ? json.value("quantization_config", none) : none;
  if (!quantization.is_object() || !quantization.contains("weight_block_size")) return;
  const Json& size = quantization["weight_block_size"];
  const auto positive = [](const Json& n) {
    return n.is_number_unsigned() && n.get<uint64_t>() > 0 && n.get<uint64_t>() <= INT32_MAX;
  };
  NEREUS_CHECK(kConfig,
               size.is_array() && size.size() == 2 && positive(size[0]) && positive(size[1]),
               "{}: quantization_config.weight_block_size is {}; expected two whole numbers",
               config, size.dump());
  block_ = {size[0].get<int64_t>(), size[1].get<int64_t>()};
}

// Every FP8 tensor has scales of the right shape; these are no tensors of their own.
void HfWeights::check_scales() {
  std::vector<std::string> scales;
  for (const auto& [name, place] : places_) {
    const SafetensorsEntry& e = files_[place.file].entries()[place.entry];
    if (e.dtype != FileDType::f8e4m3) continue;
    const std::string& file = files_[place.file].path();
    NEREUS_CHECK(kConfig, e.shape.size() == 2,
                 "{}: tensor '{}' is {}; block-scaled FP8 has two dimensions", file, name,
                 e.to_string());
    const SafetensorsEntry* scale = scale_of(e);
    NEREUS_CHECK(kConfig, scale != nullptr,
                 "{}: tensor '{}' is {} and has no scales: '{}{}' is missing", file, name,
                 e.to_string(), name, kScaleSuffix);
    SafetensorsEntry expected;
    for (size_t d = 0; d < 2; ++d)
      expected.shape.push_back((e.shape[d] + block_[d] - 1) / block_[d]);
    NEREUS_CHECK(kConfig, scale->dtype == FileDType::f32 && scale->shape == expected.shape,
                 "{}: '{}' is {}; expected {} for {} in blocks of {} x {}", file, scale->name,
                 scale->to_string(), expected.to_string(), e.to_string(), block_[0], block_[1]);
    scales.push_back(scale->name);
  }
  for (const std::string& name : scales) {
    scales_.emplace(name, places_.at(name));
    places_.erase(name);
  }
}

const SafetensorsEntry* HfWeights::scale_of(const SafetensorsEntry& e) const {
  if (e.dtype != FileDType::f8e4m3) return nullptr;
  const std::string name = e.name + kScaleSuffix;
  for (const auto* places : {&scales_, &places_}) {
    const auto it = places->find(name);
    if (it != places->end()) return &files_[it->second.file].entries()[it->second.entry];
  }
  return nullptr;
}

std::vector<std::string> HfWeights::names() const {
  std::vector<std::string> out;
  for (const auto& [name, place] : places_) out.push_back(name);
  return out;
}

const SafetensorsEntry* HfWeights::find(const std::string& name) const {
  const auto it = places_.find(name);
  return it == places_.end() ? nullptr : &files_[it->second.file].entries()[it->second.entry];
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
  if (const SafetensorsEntry* scale = scale_of(*e)) {
    read_scaled(*e, *scale, begin, end, out, stride);
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
  const int64_t width = e.shape[1], blocks = scale.shape[1];
  std::vector<float> scales(static_cast<size_t>(blocks));
  int64_t scales_row = -1;
  for (int64_t row = begin; row < end; ++row, out += row_stride) {
    if (row / block_[0] != scales_row) {
      scales_row = row / block_[0];
      scale.read(scales_row * blocks, blocks, scales.data());
    }
    convert_to_f32(DType::f8e4m3, e.data.data() + row * width, width, out);
    for (int64_t b = 0; b < blocks; ++b) {
      const float s = scales[static_cast<size_t>(b)];
      const int64_t block_end = std::min(width, (b + 1) * block_[1]);
      for (int64_t i = b * block_[1]; i < block_end; ++i) out[i] *= s;
    }
  }
}

void HfWeights::release_pages(const std::string& name) const {
  const auto it = places_.find(name);
  if (it == places_.end()) return;
  const SafetensorsFile& file = files_[it->second.file];
  file.release_pages(file.entries()[it->second.entry]);
}

}  // namespace nereus
