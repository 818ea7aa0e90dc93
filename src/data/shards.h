// Which files a text data set is made of, and what the first bytes of each say before any is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/choices.h"

namespace nereus::data {

// The shards of a data set: path itself, or the *.json.gz, *.jsonl.gz, *.json and *.jsonl files of
// it or its en/, in order of their names, links without a target included. C4's names win over
// others, also those in en/ over others above it, and of them only those of `split` ("train",
// "validation") are taken; training shards never serve as "validation". Hidden files and those that
// describe a data set or a model (dataset_info.json, config.json, ...) are none. Throws
// Error{kConfig} that names the folder, and the key that named it, when there are none.
std::vector<std::string> find_shards(const std::string& path, const std::string& split,
                                     const std::string& path_key = "training.dataset_path");

// What a file is that cannot be read as lines of JSON with a "text".
struct ShardFault {
  std::string what;    // "a Git LFS pointer, not the file itself"
  std::string remedy;  // a sentence
};
// By its name, its size and its first bytes, decompressed where they are gz: some kilobytes.
std::optional<ShardFault> fault_of_shard(const std::string& path);

struct ShardLook {
  int64_t bytes = 0;                // of all that were looked at
  std::vector<std::string> broken;  // paths
  std::string message;              // of those: what they are, with remedies; "" if there are none
};
// Looks at every `stride`-th shard from the `first`-th on, several at a time: disks may be far.
ShardLook look_at_shards(const std::vector<std::string>& shards, size_t first = 0,
                         size_t stride = 1);

// Is this the start of a gz file?
bool is_gz(std::string_view start);

}  // namespace nereus::data
