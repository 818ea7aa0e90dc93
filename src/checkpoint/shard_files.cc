#include "checkpoint/shard_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace nereus {

ShardFiles shard_files(std::span<const SafetensorsWriter::Tensor> all, int64_t shard_bytes) {
  ShardFiles out;
  ShardFiles::File file;
  for (size_t i = 0; i < all.size(); ++i) {
    int64_t bytes = size_of(all[i].dtype);
    for (const int64_t d : all[i].shape) bytes *= d;
    if (i > file.begin && file.bytes + bytes > shard_bytes) {
      file.end = i;
      out.files.push_back(file);
      file = {};
      file.begin = i;
    }
    file.bytes += bytes;
    out.bytes += bytes;
  }
  file.end = all.size();
  out.files.push_back(file);
  const size_t n = out.files.size();
  for (size_t i = 0; i < n; ++i)
    out.files[i].name =
        n == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, n);
  return out;
}

std::string index_json(const ShardFiles& shards, std::span<const SafetensorsWriter::Tensor> all) {
  if (shards.files.size() == 1) return "";
  nlohmann::json weight_map = nlohmann::json::object();
  for (const ShardFiles::File& f : shards.files)
    for (size_t i = f.begin; i < f.end; ++i) weight_map[all[i].name] = f.name;
  const nlohmann::json index = {{"metadata", {{"total_size", shards.bytes}}},
                                {"weight_map", weight_map}};
  return index.dump(2) + "\n";
}

}  // namespace nereus
