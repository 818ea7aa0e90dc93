// Updates of a store's states without a model, and what is in them, for tests.
#pragma once

#include <vector>

#include "ops/elementwise.h"
#include "ops/init.h"
#include "ops/optimizer.h"
#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus::test {

// A view's elements, of any shape, as f32.
inline std::vector<float> floats(Stream& stream, const ConstTensorView& view) {
  Tensor wide(stream.device(), DType::f32, {view.count()});
  const ConstTensorView flat(view.data, view.dtype, {view.count()});
  if (view.dtype == DType::f32) {
    copy_rows(stream, wide, flat);
  } else {
    ops::cast(stream, {.out = wide, .x = flat});
  }
  std::vector<float> out(static_cast<size_t>(view.count()));
  copy_to_host(stream, out.data(), wide.view());
  stream.synchronize();
  return out;
}

// AdamW over all states with gradients drawn by `step`.
inline void update(Stream& stream, ParameterStore& store, int64_t step) {
  const Device device = stream.device();
  const auto coefficient = Tensor(device, DType::f32, {1}).fill(0.5);
  const auto ok = Tensor(device, DType::i32, {1}).fill(1);
  store.begin_step(stream);
  ops::init_normal(stream, {.out = store.gradients(), .seed = static_cast<uint64_t>(step)});
  store.visit_states(stream, true, [&](const ParameterStore::States& s) {
    ops::adam(stream, {.param = s.master,
                       .remainder = s.remainder,
                       .m = s.first_moment,
                       .v = s.second_moment,
                       .copy = s.copy,
                       .grad = s.gradient,
                       .coefficient = coefficient,
                       .step_ok = ok,
                       .lr = 1e-3,
                       .beta1 = 0.9,
                       .beta2 = 0.95,
                       .eps = 1e-8,
                       .weight_decay = 0.1,
                       .step = step});
  });
  stream.synchronize();
}

}  // namespace nereus::test
