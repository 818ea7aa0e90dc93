#include "engine/optimizer.h"

#include "ops/optimizer.h"

namespace nereus {

Optimizer::Optimizer(Stream& stream, Engine& engine, const Options& options)
    : stream_(stream), engine_(engine), options_(options), status_(stream, engine.world()) {
  engine.watch_overflow(status_.overflow());
}

void Optimizer::update(int64_t step, double lr, bool changes) {
  const TraceRange range(stream_.trace(), TraceKind::optimizer, "optimizer");
  ParameterStore& store = engine_.store();
  ops::sum_squares(stream_, {.out = status_.sum_squares(), .x = store.counted_gradients()});
  engine_.sum_expert_load(status_.max_over_mean());
  status_.finish(static_cast<float>(options_.max_norm));
  if (!changes) return;
  engine_.update_expert_bias(status_.ok());
  store.visit_states(stream_, true, [&](const ParameterStore::States& s) {
    ops::adam(stream_, {.param = s.master,
                        .remainder = s.remainder,
                        .m = s.first_moment,
                        .v = s.second_moment,
                        .copy = s.copy,
                        .grad = s.gradient,
                        .coefficient = status_.coefficient(),
                        .step_ok = status_.ok(),
                        .lr = lr,
                        .beta1 = options_.beta1,
                        .beta2 = options_.beta2,
                        .eps = options_.eps,
                        .weight_decay = options_.weight_decay,
                        .step = step,
                        .decoupled = options_.decoupled});
  });
}

}  // namespace nereus
