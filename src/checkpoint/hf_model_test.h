// A model's parameters in memory, for the tests of this layer.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "model/parameters.h"
#include "parallel/parameter_store.h"
#include "test/small_models.h"

namespace nereus::test {

// Every parameter and expert bias of a model, poisoned with NaN. A dim 1 (or 0) twice as long as
// the parameter's stands for fused storage: what lies between must stay poisoned.
class HostModel {
 public:
  explicit HostModel(const ModelArgs& args) {
    for (const Parameter& p : parameters(args)) add(p.name, p.shape);
    for (int64_t layer = args.n_dense_layers; layer < args.n_layers; ++layer)
      add("layers." + std::to_string(layer) + ".moe.expert_bias", {args.moe.num_experts});
  }
  HostModel(const HostModel&) = delete;
  HostModel& operator=(const HostModel&) = delete;

  std::vector<NamedView>& views() { return views_; }
  int64_t elements() const { return elements_; }
  // Elements that no view covers and that are no longer NaN.
  int64_t damaged_gaps() const {
    int64_t damaged = 0;
    for (const Storage& s : storage_) {
      for (size_t i = 0; i < s.floats.size(); ++i) {
        const int64_t in_block = static_cast<int64_t>(i) % (2 * s.block);
        if (s.gaps && in_block >= s.block && s.floats[i] == s.floats[i]) ++damaged;
      }
    }
    return damaged;
  }
  TensorView find(const std::string& name) const {
    for (const NamedView& v : views_)
      if (v.name == name) return v.view;
    return {};
  }

 private:
  struct Storage {
    std::vector<float> floats;
    bool gaps = false;
    int64_t block = 1;  // elements, followed by a gap as long
  };

  void add(const std::string& name, const Shape& shape) {
    const bool fused = name.ends_with(".w1") || name.ends_with(".w3");
    Storage s{.floats = {}, .gaps = fused, .block = fused ? shape[1] * shape[2] : 1};
    s.floats.assign(static_cast<size_t>(shape.count() * (fused ? 2 : 1)),
                    std::numeric_limits<float>::quiet_NaN());
    storage_.push_back(std::move(s));
    TensorView view(reinterpret_cast<std::byte*>(storage_.back().floats.data()), DType::f32, shape);
    if (fused) view.stride[0] *= 2;
    views_.push_back({name, view});
    elements_ += shape.count();
  }

  std::vector<Storage> storage_;
  std::vector<NamedView> views_;
  int64_t elements_ = 0;
};

}  // namespace nereus::test
