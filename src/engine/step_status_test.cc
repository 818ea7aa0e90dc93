#include "engine/step_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/philox.h"
#include "comm/thread_ranks.h"
#include "engine/optimizer.h"
#include "engine/step_runner.h"
#include "ops/elementwise.h"
#include "ops/step.h"
#include "parallel/rank_world.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

void set(const TensorView& f32, const TensorView& f64, float loss, double squares) {
  f32.as<float>()[0] = loss;
  f64.as<double>()[0] = squares;
}

TEST(StepStatus, AllRanksHaveTheSumsOfWhatCountsTheMeanPairsAndTheHighestOfTheRest) {
  // Two replicas of a model that is cut in two by tp: one of each pair counts.
  const Mesh mesh({.dp_replicate = 2, .tp = 2}, 4);
  run_thread_ranks(4, {.timeout = std::chrono::seconds(60)}, [&](Communicator& all) {
    const RankWorld world(mesh, all);
    Stream stream(Device::cpu(), &test::pool());
    StepStatus status(stream, world);
    const int replica = world.position(MeshGroup::dp_replicate), tp = world.position(MeshGroup::tp);
    // Squares: of the first replica 3 + 6. Losses: of the first of each pair 1 + 2.
    set(status.loss(), status.sum_squares(), static_cast<float>(tp == 0 ? 1 + replica : 100),
        replica == 0 ? 3.0 * (1 + tp) : 100);
    if (all.rank() == 2) ops::raise(stream, {.word = status.overflow(), .value = 48});
    status.signal(all.rank() == 1 ? 15 : 0);
    // As ranks of other stages have them.
    status.max_over_mean().as<double>()[0] = all.rank() == 3 ? 1.375 : 0;
    const double r = all.rank();
    status.figures({.data_seconds = r, .memory_gib = 8 - r, .memory_percent = r == 2 ? 50.0 : 1.0});
    status.attention_pairs(100 * (1 + replica));
    status.finish(1.5f);
    const StepStatus::Outcome outcome = status.read();
    EXPECT_EQ(outcome.loss, 3);
    EXPECT_EQ(outcome.grad_norm, 3);
    EXPECT_NEAR(status.coefficient().as<float>()[0], 0.5, 1e-6);
    EXPECT_EQ(outcome.required_capacity, 48);
    EXPECT_EQ(outcome.signal, 15);
    EXPECT_EQ(outcome.max_over_mean, 1.375);
    EXPECT_EQ(outcome.attention_pairs, 150);
    EXPECT_EQ(outcome.highest.data_seconds, 3);
    EXPECT_EQ(outcome.highest.memory_gib, 8);
    EXPECT_EQ(outcome.highest.memory_percent, 50);
    EXPECT_FALSE(outcome.ok);
  });
}

TEST(StepStatus, SkipsStepsUntilItIsResetAndRemembersTwoSteps) {
  Stream stream(Device::cpu(), &test::pool());
  const RankWorld alone;
  StepStatus status(stream, alone);
  set(status.loss(), status.sum_squares(), 1, 4);
  status.finish(1);
  set(status.loss(), status.sum_squares(), std::nanf(""), 9);
  status.finish(1);
  EXPECT_THAT([&] { status.finish(1); }, ThrowsMessage<Error>(HasSubstr("2 steps are finished")));
  StepStatus::Outcome outcome = status.read();
  EXPECT_EQ(outcome.loss, 1);
  EXPECT_EQ(outcome.grad_norm, 2);
  EXPECT_TRUE(outcome.ok);
  set(status.loss(), status.sum_squares(), 2, 16);
  status.finish(1);  // enqueued after the bad one
  outcome = status.read();
  EXPECT_TRUE(std::isnan(outcome.loss));
  EXPECT_FALSE(outcome.ok);
  outcome = status.read();
  EXPECT_EQ(outcome.grad_norm, 4);
  EXPECT_FALSE(outcome.ok);
  EXPECT_THAT([&] { status.read(); }, ThrowsMessage<Error>(HasSubstr("have been read")));
  status.reset();
  status.finish(1);
  EXPECT_TRUE(status.read().ok);
  set(status.loss(), status.sum_squares(), 2, HUGE_VAL);
  status.finish(1);
  EXPECT_FALSE(status.read().ok) << "the norm alone";
}

// Everything that a step may change.
std::vector<std::byte> state(Engine& engine, Stream& stream) {
  std::vector<std::byte> out;
  const auto add = [&](const TensorView& v) { out.insert(out.end(), v.data, v.data + v.bytes()); };
  engine.store().visit_states(stream, false, [&](const ParameterStore::States& s) {
    add(s.master);
    add(s.copy);
    add(s.first_moment);
    add(s.second_moment);
  });
  for (const Engine::LayerLoad& l : engine.expert_load()) add(l.bias);
  return out;
}

TEST(Optimizer, AStepThatDoesNotCountAndThoseBehindItChangeNothing) {
  const ModelArgs args = test::without_q_lora(test::two_blocks());
  Stream stream(Device::cpu(), &test::pool());
  Engine engine(args, stream, {.compute = DType::bf16, .rows = 2, .sequence = 8, .eos_id = 1});
  engine.store().initialize(stream, 1);
  engine.store().refresh_copies(stream);
  Optimizer optimizer(stream, engine, {});
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < 16; ++i) ids.push_back(static_cast<int32_t>(philox(1, i).v[0] % 32));
  const HostMicrobatch microbatch{.ids = ids, .labels = ids};
  const auto step = [&](int64_t n, int64_t overflow) {
    engine.reset_expert_load();
    engine.executor().run(std::span(&microbatch, 1), 1.0f / 16, optimizer.loss(), [&] {
      ops::raise(stream, {.word = optimizer.status().overflow(), .value = overflow});
      optimizer.update(n, 1e-3);
    });
    return state(engine, stream);
  };
  const std::vector<std::byte> first = step(1, 0);
  EXPECT_TRUE(optimizer.status().read().ok);
  EXPECT_TRUE(step(2, 7) == first);
  EXPECT_TRUE(step(3, 0) == first);
  EXPECT_EQ(optimizer.status().read().required_capacity, 7);
  const StepStatus::Outcome behind = optimizer.status().read();
  EXPECT_EQ(behind.required_capacity, 0);
  EXPECT_FALSE(behind.ok);
  optimizer.status().reset();
  EXPECT_FALSE(step(2, 0) == first);
  EXPECT_TRUE(optimizer.status().read().ok);
}

TEST(StepRunner, AStepWithoutALabelThatCountsHasLossZeroAndChangesNothing) {
  const ModelArgs args = test::without_q_lora(test::two_blocks());
  Stream stream(Device::cpu(), &test::pool());
  Engine engine(args, stream, {.compute = DType::bf16, .rows = 2, .sequence = 8, .eos_id = 1});
  engine.store().initialize(stream, 1);
  engine.store().refresh_copies(stream);
  StepRunner runner(stream, engine, {.tokens = 16});
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < 16; ++i) ids.push_back(static_cast<int32_t>(philox(1, i).v[0] % 32));
  const std::vector<int32_t> ignored(16, -100);
  const HostMicrobatch full{.ids = ids, .labels = ids}, empty{.ids = ids, .labels = ignored};
  const auto step = [&](int64_t n, const HostMicrobatch& m, int64_t tokens) {
    runner.enqueue({.number = n, .lr = 1e-3, .microbatches = std::span(&m, 1), .tokens = tokens});
    return runner.confirm(n);
  };
  EXPECT_GT(step(1, full, 16).loss, 1);  // moments are there: they would move weights
  const std::vector<std::byte> before = state(engine, stream);
  const StepResult nothing = step(2, empty, 0);
  EXPECT_EQ(nothing.loss, 0);
  EXPECT_EQ(nothing.grad_norm, 0);
  EXPECT_GE(nothing.max_over_mean, 1) << "all tokens count in the load";
  EXPECT_TRUE(state(engine, stream) == before);
  step(3, full, 16);
  EXPECT_FALSE(state(engine, stream) == before);
}

}  // namespace
}  // namespace nereus
