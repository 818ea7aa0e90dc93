#include "train/optimizer.h"

#include <cmath>

#include "ops/elementwise.h"
#include "ops/optimizer.h"

namespace nereus {
namespace {

constexpr int64_t kSlot = Arena::kAlignment;  // bytes a scalar: none shares a line with another

TensorView scalar(const Buffer& buffer, int64_t index, DType dtype) {
  return TensorView(buffer.data() == nullptr ? nullptr : buffer.data() + index * kSlot, dtype, {1});
}

}  // namespace

Optimizer::Optimizer(Stream& stream, Engine& engine, const Options& options)
    : stream_(stream),
      engine_(engine),
      options_(options),
      buffer_(stream.device(), 5 * kSlot, "step results"),
      loss_(scalar(buffer_, 0, DType::f32)),
      norm_(scalar(buffer_, 1, DType::f32)),
      coefficient_(scalar(buffer_, 2, DType::f32)),
      step_ok_(scalar(buffer_, 3, DType::i32)),
      sum_squares_(scalar(buffer_, 4, DType::f64)) {
  ops::fill(stream, {.out = step_ok_, .value = 1});
}

void Optimizer::update(int64_t step, double lr) {
  ParameterStore& store = engine_.store();
  ops::sum_squares(stream_, {.out = sum_squares_, .x = store.counted_gradients()});
  store.groups().sum_over_model(stream_, sum_squares_);
  store.groups().sum_losses(stream_, loss_);
  ops::clip_coefficient(stream_, {.norm = norm_,
                                  .coefficient = coefficient_,
                                  .step_ok = step_ok_,
                                  .sum_squares = sum_squares_,
                                  .max_norm = static_cast<float>(options_.max_norm)});
  engine_.update_expert_bias();
  store.visit_states(stream_, true, [&](const ParameterStore::States& s) {
    ops::adam(stream_, {.param = s.master,
                        .remainder = s.remainder,
                        .m = s.first_moment,
                        .v = s.second_moment,
                        .copy = s.copy,
                        .grad = s.gradient,
                        .coefficient = coefficient_,
                        .step_ok = step_ok_,
                        .lr = lr,
                        .beta1 = options_.beta1,
                        .beta2 = options_.beta2,
                        .eps = options_.eps,
                        .weight_decay = options_.weight_decay,
                        .step = step,
                        .decoupled = options_.decoupled});
  });
}

Optimizer::Result Optimizer::read() {
  Result result{.loss = 0, .grad_norm = 0, .ok = false};
  int32_t ok = 0;
  copy_to_host(stream_, &result.loss, loss_);
  copy_to_host(stream_, &result.grad_norm, norm_);
  copy_to_host(stream_, &ok, step_ok_);
  stream_.synchronize();
  result.ok = ok != 0 && std::isfinite(result.loss);
  return result;
}

}  // namespace nereus
