#include "train/optimizer.h"

#include "ops/optimizer.h"

namespace nereus {

Optimizer::Optimizer(Stream& stream, Engine& engine, const Options& options)
    : stream_(stream), engine_(engine), options_(options), gate_(stream, engine.store().groups()) {
  engine.watch_overflow(gate_.overflow());
}

void Optimizer::update(int64_t step, double lr) {
  ParameterStore& store = engine_.store();
  ops::sum_squares(stream_, {.out = gate_.sum_squares(), .x = store.counted_gradients()});
  gate_.close(static_cast<float>(options_.max_norm));
  engine_.update_expert_bias(gate_.ok());
  ops::adam(stream_, {.param = store.masters(),
                      .m = store.first_moments(),
                      .v = store.second_moments(),
                      .copy = store.copies(),
                      .grad = store.gradients(),
                      .coefficient = gate_.coefficient(),
                      .step_ok = gate_.ok(),
                      .lr = lr,
                      .beta1 = options_.beta1,
                      .beta2 = options_.beta2,
                      .eps = options_.eps,
                      .weight_decay = options_.weight_decay,
                      .step = step,
                      .decoupled = options_.decoupled});
}

}  // namespace nereus
