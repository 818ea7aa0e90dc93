// The layout of DeepSeek-V3's released weights, for any sizes: names, shapes, FP8 with scales of
// 128 x 128 blocks, the layer of multi-token prediction behind the model's, 163 files.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/philox.h"
#include "checkpoint/hf_names.h"
#include "model/parameters.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"

namespace nereus::test {

struct SparseTensor {
  std::string name;
  FileDType dtype = FileDType::f32;
  std::vector<int64_t> shape;

  int64_t bytes() const {
    int64_t n = size_of(dtype);
    for (const int64_t d : shape) n *= d;
    return n;
  }
};

// A file whose tensors are zero and take no space.
inline void write_sparse(const std::string& path, const std::vector<SparseTensor>& tensors) {
  std::string header = "{";
  int64_t at = 0;
  for (const SparseTensor& t : tensors) {
    std::string shape;
    for (const int64_t d : t.shape) shape += (shape.empty() ? "" : ",") + std::to_string(d);
    header += std::string(header.size() > 1 ? "," : "") + "\"" + t.name + "\":{\"dtype\":\"" +
              name_of(t.dtype) + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(at) + "," + std::to_string(at + t.bytes()) + "]}";
    at += t.bytes();
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  {
    std::ofstream out(path, std::ios::binary);
    const uint64_t length = header.size();
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header;
  }
  if (::truncate(path.c_str(), static_cast<off_t>(8 + header.size()) + at) != 0)
    throw std::runtime_error(path + ": cannot be made so large");
}

struct ReleasedLayout {
  std::vector<std::vector<SparseTensor>> files;
  size_t tensors = 0, scaled = 0, unused = 0;  // without scales
};

inline ReleasedLayout released_layout(const ModelArgs& args, size_t files) {
  std::vector<SparseTensor> all;
  ReleasedLayout out;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    const bool fp8 = (name.ends_with("_proj.weight") || name.ends_with("_with_mqa.weight")) &&
                     !name.ends_with("eh_proj.weight");
    const bool bias = name.ends_with(".e_score_correction_bias");
    all.push_back({name, fp8 ? FileDType::f8e4m3 : bias ? FileDType::f32 : FileDType::bf16, shape});
    ++out.tensors;
    if (!fp8) return;
    ++out.scaled;
    all.push_back(
        {name + "_scale_inv", FileDType::f32, {(shape[0] + 127) / 128, (shape[1] + 127) / 128}});
  };
  std::vector<Parameter> parameters_and_biases = parameters(args);
  for (int64_t layer = args.n_dense_layers; layer < args.n_layers; ++layer)
    parameters_and_biases.push_back(
        {.name = expert_bias_name(layer), .shape = {args.moe.num_experts}, .initial = {}});
  const std::string last = "model.layers." + std::to_string(args.n_layers - 1) + ".";
  const std::string prediction = "model.layers." + std::to_string(args.n_layers) + ".";
  std::vector<std::pair<std::string, std::vector<int64_t>>> more;
  for (const Parameter& p : parameters_and_biases) {
    const bool experts = has_experts(p.name);
    std::vector<int64_t> shape;
    for (int d = experts ? 1 : 0; d < p.shape.rank(); ++d) shape.push_back(p.shape[d]);
    for (int64_t e = 0; e < (experts ? p.shape[0] : 1); ++e) {
      const std::string name = hf_name(p.name, e);
      add(name, shape);
      if (name.starts_with(last)) more.emplace_back(prediction + name.substr(last.size()), shape);
    }
  }
  const int64_t D = args.dim, V = args.vocab_size;
  more.insert(more.end(), {{prediction + "enorm.weight", {D}},
                           {prediction + "hnorm.weight", {D}},
                           {prediction + "eh_proj.weight", {D, 2 * D}},
                           {prediction + "shared_head.norm.weight", {D}},
                           {prediction + "shared_head.head.weight", {V, D}},
                           {prediction + "embed_tokens.weight", {V, D}}});
  for (const auto& [name, shape] : more) add(name, shape);
  out.unused = more.size();
  int64_t total = 0, passed = 0;
  for (const SparseTensor& t : all) total += t.bytes();
  out.files.resize(files);
  for (const SparseTensor& t : all) {
    const double share = static_cast<double>(passed) / static_cast<double>(total);
    out.files[static_cast<size_t>(share * static_cast<double>(files))].push_back(t);
    passed += t.bytes();
  }
  return out;
}

// With config.json's block size and the index. `filled`: with numbers, else sparse.
inline void write_released(const std::string& folder, const ReleasedLayout& layout, bool filled) {
  nlohmann::json map = nlohmann::json::object();
  for (size_t i = 0; i < layout.files.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%06zu.safetensors", i + 1,
                  layout.files.size());
    const std::vector<SparseTensor>& tensors = layout.files[i];
    for (const SparseTensor& t : tensors) map[t.name] = name;
    if (!filled) {
      write_sparse(folder + "/" + name, tensors);
      continue;
    }
    std::vector<SafetensorsWriter::Tensor> declared;
    for (const SparseTensor& t : tensors) declared.push_back({t.name, t.dtype, t.shape});
    SafetensorsWriter writer(folder + "/" + name, declared);
    for (size_t k = 0; k < tensors.size(); ++k) {
      const int64_t n = tensors[k].bytes() / size_of(tensors[k].dtype);
      std::vector<std::byte> bytes(static_cast<size_t>(tensors[k].bytes()));
      const uint64_t stream = hash_name(tensors[k].name);
      std::vector<float> floats(static_cast<size_t>(n));
      for (int64_t j = 0; j < n; ++j) {
        const uint32_t bits = philox_u32(1, stream, static_cast<uint64_t>(j));
        const auto at = static_cast<size_t>(j);
        floats[at] = 0.25f + static_cast<float>(bits % 1000) * 1e-3f;
        if (tensors[k].dtype == FileDType::f8e4m3) bytes[at] = std::byte(bits & 0xf7);  // no NaN
      }
      if (tensors[k].dtype != FileDType::f8e4m3)
        convert_from_f32(*dtype_of(tensors[k].dtype), floats.data(), n, bytes.data());
      writer.append(k, bytes);
    }
    writer.finish();
  }
  std::ofstream(folder + "/model.safetensors.index.json")
      << nlohmann::json{{"metadata", {{"total_size", 0}}}, {"weight_map", map}}.dump();
  std::ofstream(folder + "/config.json")
      << R"({"torch_dtype": "bfloat16", "quantization_config": {"weight_block_size": [128, 128]}})";
}

// The same proportions in a thousandth of the size; no block is whole.
inline ModelArgs small_deepseek_v3() {
  ModelArgs a;
  a.vocab_size = 97;
  a.dim = 200;
  a.inter_dim = 330;
  a.moe_inter_dim = 60;
  a.n_layers = 2;
  a.n_dense_layers = 1;
  a.n_heads = 2;
  a.q_lora_rank = 72;
  a.kv_lora_rank = 48;
  a.qk_nope_head_dim = 16;
  a.qk_rope_head_dim = 8;
  a.v_head_dim = 16;
  a.moe.num_experts = 3;
  return a;
}

}  // namespace nereus::test
