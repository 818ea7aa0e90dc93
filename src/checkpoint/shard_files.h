// Which tensor goes into which file of a folder of weights in Hugging Face's layout, and the index
// that says so.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/safetensors.h"

namespace nereus {

struct ShardFiles {
  struct File {
    std::string name;           // model.safetensors, or model-00001-of-00163.safetensors
    size_t begin = 0, end = 0;  // of its tensors, in their list
    int64_t bytes = 0;          // of them
  };
  std::vector<File> files;
  int64_t bytes = 0;  // of all tensors
};

// Consecutive tensors of at most shard_bytes together, or one that is larger.
ShardFiles shard_files(std::span<const SafetensorsWriter::Tensor>, int64_t shard_bytes);

// model.safetensors.index.json; "" for one file, which needs none.
std::string index_json(const ShardFiles&, std::span<const SafetensorsWriter::Tensor>);

}  // namespace nereus
