// Weights in Hugging Face's layout: a .safetensors file, or a folder with model.safetensors or with
// shards and their model.safetensors.index.json (where both are there and the index does not name
// model.safetensors, that file counts, as for transformers). Element types are read to f32;
// block-scaled FP8
//
//   w[i, j] = q[i, j] * weight_scale_inv[i / 128, j / 128]
//
// too (config.json's quantization_config.weight_block_size, 128 x 128 unless given; blocks at the
// edges are cut), or with weight_scale; scales are F32, BF16, F16 or F8_E8M0, of a block, of a row
// ([rows, 1]) or of all (one element). Other forms of the same tensors
// (hf_forms.h) have the usual names here. Files are mapped, never read whole.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "parallel/parameter_store.h"
#include "tensor/safetensors.h"

namespace nereus {

class HfWeights {
 public:
  // Throws Error{kConfig} that names what is missing or wrong; every file is opened and checked.
  static HfWeights open(const std::string& path);

  // By name, as hf_names.h has them; the scales of FP8 tensors are left out.
  std::vector<std::string> names() const;
  const SafetensorsEntry* find(const std::string& name) const;  // nullptr: there is none

  // Rows [begin, end) of dim 0 (all of a scalar is one row) as f32; rows of `out` are row_stride
  // elements apart (0: without gaps).
  void read_f32(const std::string& name, int64_t begin, int64_t end, float* out,
                int64_t row_stride = 0) const;
  void read_f32(const std::string& name, float* out) const;

  // Gives the pages of a tensor, and of its scales, that were read back to the system: they count
  // as memory of the process.
  void release_pages(const std::string& name) const;

  // Throws Error{kConfig} when the tensor is FP8 and its scales are missing or of another shape or
  // type.
  void check_scale(const std::string& name) const;

  const std::string& path() const { return path_; }
  // What of the files is read in another way than they say it, a line each: for the log.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Place {
    size_t file;
    SafetensorsEntry entry;
  };
  void add(Place place);
  void add_file(const std::string& path);
  void add_index(const std::string& path);
  void read_block_size(const std::string& config);
  void use_usual_names();
  void check_halves(const Place& fused, const SafetensorsEntry& part) const;
  void split_experts();
  void set_scales_apart();
  const SafetensorsEntry* scale_of(const SafetensorsEntry&) const;  // nullptr: it has none
  const SafetensorsEntry& require_scale(const SafetensorsEntry&) const;
  std::array<int64_t, 2> block_of(const SafetensorsEntry&, const SafetensorsEntry& scale) const;
  void read_scaled(const SafetensorsEntry& e, const SafetensorsEntry& scale, int64_t begin,
                   int64_t end, float* out, int64_t row_stride) const;

  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> notes_;
  std::map<std::string, Place> places_, scales_;  // under the usual names
  std::array<int64_t, 2> block_{128, 128};
};

// Fills every tensor (logical names; f32, the last dim contiguous) from `path`, and logs what the
// files have beyond them. Throws Error{kConfig} before anything is read when tensors are missing,
// have another shape or a type that is no float: it lists the first of each and counts them.
//
// The tensors are in memory of `device`'s device, without gaps between the rows of one; in host
// memory when it is null. A tensor may be a part of its parameter (NamedView::origin), and others
// may be other ranks': `model` then has all parameters (and biases) of the model, and what is
// checked and said is of all of them, the same on every rank. Without `model` the tensors are the
// model.
void load_hf_weights(const std::string& path, std::span<const NamedView> tensors,
                     Stream* device = nullptr, std::span<const Parameter> model = {});

inline constexpr int64_t kShardBytes = 5'000'000'000;

// Writes `folder` with model.safetensors, or with shards of at most shard_bytes (or one tensor) and
// their index, and config.json. The folder is written as `folder`.partial and renamed: it is
// complete or absent, also after a power cut; weights that were there before are replaced, and a
// folder with other files is kept as `folder`.old. Where it cannot be renamed what was there is
// there again and `folder`.partial stays, complete. `dtype` is f32, bf16 or f16; the routers'
// correction biases are always f32. Returns the bytes of the tensors, which are in memory of
// `device`'s device (null: the host's). With `fetch` the tensors have shapes alone, and fetch(i)
// gives the elements of tensor i, in host memory until the next call; it is called once for each,
// in order.
// Errors: kConfig when the folder cannot be made, kIo while writing.
using FetchTensor = std::function<ConstTensorView(size_t)>;
int64_t save_hf_weights(const std::string& folder, std::span<const NamedView> tensors,
                        const std::string& config_json, DType dtype = DType::f32,
                        int64_t shard_bytes = kShardBytes, Stream* device = nullptr,
                        const FetchTensor& fetch = {});

}  // namespace nereus
