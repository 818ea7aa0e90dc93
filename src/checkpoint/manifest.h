// What a native checkpoint holds: manifest.json in its folder, beside the shards.
//
// A shard is a safetensors file that one rank wrote, of the boxes that it keeps of the model's
// parameters: f32 masters ("model") and the optimizer's two moments ("exp_avg", "exp_avg_sq").
// Together they are every element once. The manifest says of every tensor which box of it lies at
// which byte of which file, so that any rank of any layout finds what it needs; and it carries what
// the run wants to know of itself, as JSON that is not looked at here. It is written last: a
// folder with a manifest is complete.
//
// Errors: kIo for what is damaged or not whole, another checkpoint can be taken then; kConfig for
// a format that is newer than this program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace nereus {

enum class SavedState : uint8_t { model, first_moment, second_moment };
const char* name_of(SavedState);  // "model", "exp_avg", "exp_avg_sq"

struct Manifest {
  static constexpr int64_t kVersion = 1;

  struct File {
    std::string name;
    int64_t bytes = 0;
  };
  // A box, row-major without gaps, from byte `offset` of a file on.
  struct Slice {
    int32_t file = 0;
    int64_t offset = 0;
    Shape origin, extent;
    uint64_t checksum = 0;  // checkpoint/checksum.h
  };
  struct Tensor {
    std::string name;  // of the parameter
    SavedState state = SavedState::model;
    DType dtype = DType::f32;  // f32, bf16 or f16
    Shape shape = {};
    std::vector<Slice> slices = {};

    uint64_t checksum() const;  // of all of it
  };

  std::string run = "{}";  // a JSON object
  std::vector<File> files;
  std::vector<Tensor> tensors;

  bool has(SavedState) const;
  int64_t bytes() const;  // of the files
};

inline constexpr const char* kManifestFile = "manifest.json";

std::string to_text(const Manifest&);
// `path` is for messages.
Manifest parse_manifest(const std::string& text, const std::string& path);

// Of all ranks' parts, in the order of ranks: their files and tensors together. `run` is left
// alone.
Manifest merge(std::vector<Manifest> parts);

// Every tensor's slices are within it and make it up, and lie within their files.
void check_slices(const Manifest&, const std::string& path);
// The files are in `folder`, as long as they should be.
void check_files(const Manifest&, const std::string& folder);

// {folder}/manifest.json, with the checks above.
Manifest read_manifest(const std::string& folder);

}  // namespace nereus
