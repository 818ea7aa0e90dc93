// What a conversion makes of the tensors of its source, file by file, in one format or the other.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "checkpoint/conversion_folder.h"
#include "checkpoint/shard_files.h"
#include "checkpoint/weight_source.h"

namespace nereus {

class ConversionTarget {
 public:
  virtual ~ConversionTarget() = default;

  // By tensor of the source: its name, type and shape in the files.
  const std::vector<SafetensorsWriter::Tensor>& tensors() const { return tensors_; }
  const ShardFiles& files() const { return files_; }
  std::span<const SafetensorsWriter::Tensor> tensors_of(const ShardFiles::File& f) const {
    return std::span(tensors_).subspan(f.begin, f.end - f.begin);
  }

  // Was a file made by an interrupted conversion?
  virtual bool is_made(const ConversionFolder&, const ShardFiles::File&) const = 0;
  // Bytes of tensor `i` were written, which follow those before them.
  virtual void wrote(size_t i, std::span<const std::byte> bytes) = 0;
  // All of a file was.
  virtual void finished(const ConversionFolder&, const ShardFiles::File&,
                        const SafetensorsWriter&) = 0;
  // All files are there.
  virtual void complete(const ConversionFolder&) = 0;

 protected:
  std::vector<SafetensorsWriter::Tensor> tensors_;
  ShardFiles files_;
};

// Files of tensors under Hugging Face's names, and their index.
std::unique_ptr<ConversionTarget> hf_target(const WeightSource&, std::optional<DType>,
                                            int64_t shard_bytes);

// A native checkpoint of weights alone: files of slices, and manifest.json. `run`: what it says of
// its run, a JSON object; tensors that are `unused` stay under their names, and `run` gets a list
// of them (kUnusedTensors).
std::unique_ptr<ConversionTarget> native_target(const WeightSource&, std::optional<DType>,
                                                int64_t shard_bytes, std::string run,
                                                const std::unordered_set<std::string>& unused);

// The type of a tensor in the new files, where `asked` is what was asked for (convert.h).
FileDType new_type(const WeightSource::Tensor&, std::optional<DType> asked);

// Is a file complete, with these tensors and no others? One that has its name is whole: it got the
// name when it was.
bool has_tensors(const std::string& path, std::span<const SafetensorsWriter::Tensor>);

}  // namespace nereus
