#include "engine/step_runner.h"

#include <numeric>

#include "base/check.h"
#include "base/log.h"
#include "engine/nonfinite.h"
#include "ops/elementwise.h"

namespace nereus {

namespace {

// Without a label that counts all losses are 0, and so is what they are multiplied by.
float loss_scale(double tokens) { return tokens > 0 ? static_cast<float>(1 / tokens) : 0; }

}  // namespace

StepRunner::StepRunner(Stream& stream, Engine& engine, Options options)
    : stream_(stream),
      engine_(engine),
      options_(std::move(options)),
      optimizer_(stream, engine, options_.optimizer),
      reruns_(options_.reruns) {
  unconfirmed_.reserve(kAhead);
}

void StepRunner::enqueue(const Step& step) {
  NEREUS_CHECK(kContract, unconfirmed_.size() < kAhead, "{} steps are not confirmed",
               unconfirmed_.size());
  unconfirmed_.push_back(step);
  launch(step);
}

void StepRunner::launch(const Step& step) {
  if (!rehearsed_ && engine_.executor().needs_rehearsal())
    engine_.executor().rehearse(step.microbatches, loss_scale(tokens(step)), loss());
  rehearsed_ = true;
  optimizer_.status().signal(step.signal);
  optimizer_.status().attention_pairs(step.attention_pairs);
  engine_.reset_expert_load();
  engine_.executor().run(step.microbatches, loss_scale(tokens(step)), loss(), [&] {
    send_figures(step.logged);
    optimizer_.update(step.updates > 0 ? step.updates : step.number, step.lr, tokens(step) > 0);
  });
}

void StepRunner::send_figures(bool send) {
  optimizer_.status().figures(send && options_.figures ? options_.figures() : RankFigures());
}

void StepRunner::compute_gradients(std::span<const HostMicrobatch> microbatches) {
  compute_gradients(microbatches, options_.tokens);
}

void StepRunner::compute_gradients(std::span<const HostMicrobatch> microbatches, double tokens) {
  engine_.executor().run(microbatches, loss_scale(tokens), loss(), [] {});
}

StepResult StepRunner::confirm(int64_t number) {
  for (;;) {
    NEREUS_CHECK(kContract, !unconfirmed_.empty() && unconfirmed_.front().number == number,
                 "step {} is to be confirmed, and it is not the oldest of the {} enqueued", number,
                 unconfirmed_.size());
    const StepStatus::Outcome outcome = optimizer_.status().read();
    if (outcome.ok) {
      unconfirmed_.erase(unconfirmed_.begin());
      highest_ = outcome.highest;
      return {.loss = outcome.loss,
              .grad_norm = outcome.grad_norm,
              .max_loss = outcome.max_loss_part * engine_.world().size(MeshGroup::dp_cp),
              .signal = outcome.signal,
              .max_over_mean = outcome.max_over_mean,
              .attention_pairs = outcome.attention_pairs};
    }
    run_again(outcome);
  }
}

// The oldest step, and those that were enqueued after it, changed nothing.
void StepRunner::run_again(const StepStatus::Outcome& outcome) {
  StepStatus& status = optimizer_.status();
  while (status.unread() > 0) status.read();
  const Step& first = unconfirmed_.front();
  if (outcome.required_capacity == 0) fail_nonfinite(first, outcome);
  ++reruns_;
  grow_expert_capacity(first.number, outcome.required_capacity);
  status.reset();
  for (const Step& step : unconfirmed_) launch(step);
}

// An eighth more than was wanted: the routing of the next steps is much like that of this one.
void StepRunner::grow_expert_capacity(int64_t step, int64_t required_capacity) {
  const int64_t had = engine_.expert_capacity(),
                rows = required_capacity + (required_capacity + 7) / 8;
  const auto factor = [&](int64_t n) {
    return static_cast<double>(n) / static_cast<double>(engine_.expert_slots());
  };
  NEREUS_CHECK(kContract, required_capacity > had,
               "step {}: experts want {} rows, and their capacity is {}", step, required_capacity,
               had);
  try {
    if (options_.check_capacity) options_.check_capacity(rows);
    engine_.grow_expert_capacity(rows);
  } catch (const Error& e) {
    if (e.fault() != Fault::kConfig) throw;
    NEREUS_FAIL(kConfig,
                "step {}: a rank's experts were sent {} rows of a microbatch, over their capacity "
                "of {} (parallelism.expert_capacity_factor {:.3f}). A capacity of {} ({:.3f}) does "
                "not fit:\n{}",
                step, required_capacity, had, factor(had), rows, factor(rows), e.what());
  }
  log::warning(
      "Step {}: a rank's experts were sent {} rows of a microbatch, over their capacity of {}. It "
      "runs again with a capacity of {}; parallelism.expert_capacity_factor was {:.3f} and is "
      "{:.3f} from here on.",
      step, required_capacity, had, engine_.expert_capacity(), factor(had),
      factor(engine_.expert_capacity()));
}

// The weights are those before the step, so that its forward pass can be looked at again.
void StepRunner::fail_nonfinite(const Step& step, const StepStatus::Outcome& outcome) {
  compute_gradients(step.microbatches, tokens(step));
  const std::string culprit =
      first_nonfinite(stream_, engine_, step.microbatches, loss(), engine_.world().world());
  NEREUS_FAIL(kNumeric,
              "step {}: loss is {}, gradient norm is {}: training cannot go on.\n"
              "  first: {}.\n"
              "  The weights are those after step {}. Look at the data of this step and at "
              "optimizer.lr = {}; a lower rate or a longer lr_scheduler.warmup_steps is the usual "
              "remedy.",
              step.number, outcome.loss, outcome.grad_norm,
              culprit.empty() ? "every tensor is finite; the norm itself overflowed" : culprit,
              step.number - 1, options_.base_lr);
}

// Experts may want more capacity than in training: then all is done again.
float StepRunner::evaluate(std::span<const HostMicrobatch> microbatches, double tokens,
                           int64_t step) {
  NEREUS_CHECK(kContract, unconfirmed_.empty(), "{} steps are not confirmed", unconfirmed_.size());
  StepStatus& status = optimizer_.status();
  // Every microbatch's loss by itself, to be added in double: sums in f32 drift with their number.
  const auto n = static_cast<int64_t>(microbatches.size());
  const Buffer buffer(stream_.device(), n * size_of(DType::f32), "losses of a validation");
  const TensorView losses(buffer.data(), DType::f32, {n});
  std::vector<float> on_host(microbatches.size());
  for (;;) {
    ops::fill(stream_, {.out = losses, .value = 0});
    engine_.executor().evaluate(microbatches, loss_scale(tokens), losses);
    copy_to_host(stream_, on_host.data(), losses);
    stream_.synchronize();
    const auto sum = static_cast<float>(std::accumulate(on_host.begin(), on_host.end(), 0.0));
    copy_to_device(stream_, loss(), &sum);
    send_figures(true);
    status.finish(static_cast<float>(options_.optimizer.max_norm));
    const StepStatus::Outcome outcome = status.read();
    status.reset();
    highest_ = outcome.highest;
    if (outcome.required_capacity == 0) return outcome.loss;
    grow_expert_capacity(step, outcome.required_capacity);
  }
}

}  // namespace nereus
