// Owns the parameters' state: f32 masters, f32 main gradients, the optimizer's two moments and,
// when kernels compute in bf16, bf16 copies. Each state is one flat buffer in the same layout,
// tensor after tensor, so that norm, clipping and the optimizer are one op over all of it.
//
// This is the store of one rank that holds everything. gather, release and reduce are where sharded
// stores communicate; here the whole is always there and they do nothing.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "parallel/parameter.h"

namespace nereus {

// A view of a logical parameter, or of a buffer saved with it, under its name.
struct NamedView {
  std::string name;
  TensorView view;
};

class ParameterStore {
 public:
  struct Options {
    DType compute = DType::f32;  // f32, or bf16: copies are kept beside the masters
    bool gradients = true;
    bool moments = true;
  };

  ParameterStore(Device, std::vector<StoredTensor>, Options);

  // What kernels read: compute type, or f32 for a full_precision tensor. "No tensor" for handle -1.
  ConstTensorView weight(TensorHandle) const;
  // f32, the stored tensor's shape. "No tensor" for handle -1.
  TensorView gradient(TensorHandle) const;
  TensorView master(TensorHandle) const;

  // Flat views over all tensors, padding (always zero) included.
  TensorView masters() const { return flat(masters_, DType::f32); }
  TensorView gradients() const { return flat(gradients_, DType::f32); }
  TensorView first_moments() const { return flat(m_, DType::f32); }
  TensorView second_moments() const { return flat(v_, DType::f32); }
  TensorView copies() const;  // bf16; "no tensor" when kernels compute in f32

  // The logical parameters as strided views into the masters, or into the gradients.
  std::vector<NamedView> master_views() const;
  std::vector<NamedView> gradient_views() const;

  // Draws every parameter's initial value; a function of the seed and its name alone.
  void initialize(Stream&, uint64_t seed);
  // Makes the bf16 copies from the masters: after loading or initializing. The optimizer keeps
  // them.
  void refresh_copies(Stream&);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  int64_t elements() const { return elements_; }  // of a flat buffer, padding included

  // The seams of sharded stores, by bucket.
  void gather(Stream&, int /*bucket*/) {}
  void release(int /*bucket*/) {}
  void reduce(Stream&, int /*bucket*/) {}

  // Bytes by owner, for the memory table.
  struct Bytes {
    int64_t masters = 0, gradients = 0, moments = 0, copies = 0;
  };
  Bytes bytes() const;

 private:
  TensorView flat(const Buffer& buffer, DType dtype) const;
  TensorView at(const Buffer& buffer, DType dtype, TensorHandle handle) const;
  std::vector<NamedView> views(const Buffer& buffer) const;

  std::vector<StoredTensor> tensors_;
  std::vector<int64_t> offsets_;  // in elements
  int64_t elements_ = 0;
  Options options_;
  Buffer masters_, gradients_, m_, v_, copies_;
};

}  // namespace nereus
