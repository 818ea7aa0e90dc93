// The tensors of a checkpoint under Hugging Face's names, to be read piece by piece: what a
// conversion reads from, whatever the format.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/hf_weights.h"
#include "tensor/safetensors.h"

namespace nereus {

class WeightSource {
 public:
  struct Tensor {
    std::string name;
    FileDType dtype = FileDType::f32;  // in the files; FP8 with scales as well
    std::vector<int64_t> shape;        // empty: a scalar
    int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
    int64_t width() const;  // elements of a row
    bool is_float() const;  // can be read as f32
  };

  virtual ~WeightSource() = default;

  // In the order of their names, numbers by their value: layers one after the other.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  // Rows [begin, end) of tensor i as `to` (f32, bf16, f16; of a tensor that is no float its own
  // type), without gaps. The memory is valid until the next call.
  virtual std::span<const std::byte> read(size_t i, int64_t begin, int64_t end, FileDType to) = 0;

 protected:
  void sort();
  std::vector<Tensor> tensors_;
};

// Of Hugging Face's files, FP8 multiplied by its scales. Pages that were read are given back: the
// process keeps no more than a piece. Throws Error{kConfig} for tensors that cannot be read: packed
// ones, FP8 without scales.
std::unique_ptr<WeightSource> hf_source(const HfWeights&);  // which must outlive it

}  // namespace nereus
