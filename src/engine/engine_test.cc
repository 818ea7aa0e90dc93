#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/philox.h"
#include "engine/step_runner.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using test::three_blocks;
using testing::Each;
using testing::IsEmpty;
using testing::Not;

// Calls f(float&) for every element of a view, in order.
template <class F>
void each(const TensorView& view, const F& f) {
  for (int64_t i = 0; i < view.dim(0); ++i) {
    if (view.rank() > 1) {
      each(view[i], f);
    } else {
      f(view.as<float>()[i]);
    }
  }
}

struct Outcome {
  double loss = 0;
  std::vector<std::vector<double>> gradients;  // by logical parameter
  std::vector<std::string> names;
};

class EngineTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 2, kSequence = 12;
  static constexpr uint64_t kSeed = 4;  // whose routers are sure of their choices

  EngineTest() : stream_(Device::cpu(), &test::pool()) {
    for (uint64_t i = 0; i < kRows * kSequence * 2; ++i) {
      ids_.push_back(i % 7 == 4 ? 1 : static_cast<int32_t>(philox(11, i).v[0] % 37));
      labels_.push_back(static_cast<int32_t>(philox(12, i).v[0] % 37));
    }
  }

  std::unique_ptr<Engine> engine(const ModelArgs& args, Recompute recompute = {},
                                 int64_t rows = kRows, DType compute = DType::f32,
                                 int microbatches = 1) {
    const Pipeline pipeline{.parts = {{.first_block = 0, .end_block = args.n_layers}},
                            .schedule = sequential_schedule(microbatches)};
    auto e = std::make_unique<Engine>(
        args, stream_,
        Engine::Options{
            .compute = compute,
            .rows = rows,
            .sequence = kSequence,
            .eos_id = 1,
            .recompute = std::vector<Recompute>(static_cast<size_t>(args.n_layers), recompute),
            .poison_released = true,
            .pipeline = &pipeline});
    e->store().initialize(stream_, kSeed);
    // Larger weights than the initial ones, so that every part has a say.
    for (const NamedView& w : e->store().master_views()) {
      if (w.view.rank() == 1 || w.name == "tok_embeddings.weight") continue;
      const float factor = w.name.find("router.gate") == std::string::npos ? 4 : 40;
      each(w.view, [&](float& x) { x *= factor; });
    }
    e->store().refresh_copies(stream_);
    return e;
  }

  // `microbatches` of `rows` rows each.
  Outcome run(Engine& e, int microbatches = 1, int64_t rows = kRows) {
    const auto tokens = static_cast<size_t>(rows * kSequence);
    std::vector<HostMicrobatch> host;
    for (int m = 0; m < microbatches; ++m)
      host.push_back(
          {.ids = std::span(ids_).subspan(static_cast<size_t>(m) * tokens, tokens),
           .labels = std::span(labels_).subspan(static_cast<size_t>(m) * tokens, tokens)});
    const test::Tensor loss(Device::cpu(), DType::f32, {1});
    const double counted = static_cast<double>(tokens) * microbatches;
    // What a step does not write must not be taken for what another has written.
    for (const NamedView& g : e.store().gradient_views())
      each(g.view, [](float& x) { x = std::nanf(""); });
    e.executor().run(host, static_cast<float>(1 / counted), loss, [] {});
    Outcome out;
    out.loss = loss[0];
    for (const NamedView& g : e.store().gradient_views()) {
      std::vector<double>& values = out.gradients.emplace_back();
      each(g.view, [&](float x) { values.push_back(double{x}); });
      out.names.push_back(g.name);
      EXPECT_TRUE(
          std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); }))
          << g.name << ": not all of its gradient was written";
    }
    return out;
  }

  HostMicrobatch microbatch() const {
    return {.ids = std::span(ids_).first(kRows * kSequence),
            .labels = std::span(labels_).first(kRows * kSequence)};
  }

  Stream stream_;
  std::vector<int32_t> ids_, labels_;
};

// The loss as a function of the weights: in double, from the f32 logits, which is all the rounding
// that finite differences can see; and the experts chosen on the way.
class Evaluation final : public Observer {
 public:
  Evaluation(Engine& e, const HostMicrobatch& microbatch) : labels_(microbatch.labels) {
    const test::Tensor unused(Device::cpu(), DType::f32, {1});
    e.executor().evaluate(microbatch, 1, unused, this);
    loss /= static_cast<double>(labels_.size());
  }
  void see(Stream&, const char* what, int64_t layer, ConstTensorView view) override {
    if (std::string(what) == "router.topk_ids")
      experts.insert(experts.end(), view.as<int32_t>(), view.as<int32_t>() + view.count());
    if (std::string(what) != "logits") return;
    for (int64_t t = 0; t < view.dim(0); ++t) {
      const float* row = view[t].as<float>();
      double sum = 0;
      for (int64_t v = 0; v < view.dim(1); ++v) sum += std::exp(double{row[v]});
      loss += std::log(sum) - double{row[labels_[static_cast<size_t>(layer + t)]]};
    }
  }
  double loss = 0;
  std::vector<int32_t> experts;

 private:
  std::span<const int32_t> labels_;
};

// Holds gradients against central differences of the loss. They are taken along a direction, for
// single elements drown in the rounding of f32, and by five points,
//
//   f'(0) = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h + O(h^4)
//
// Where a router would choose other experts at one of them, h is halved: the derivative is that of
// the choice that was made.
class GradientCheck {
 public:
  GradientCheck(Engine& e, const HostMicrobatch& microbatch)
      : engine_(e), microbatch_(microbatch), here_(e, microbatch) {}

  // The parameters whose gradient is not the derivative along a random direction: plus or minus one
  // for each element. Whatever is missing of a gradient, or too much, is missing here.
  std::vector<std::string> wrong_along_random_directions(const Outcome& run) const {
    std::vector<std::string> wrong;
    const std::vector<NamedView> weights = engine_.store().master_views();
    for (size_t p = 0; p < weights.size(); ++p) {
      for (uint64_t seed = 1; seed <= 2; ++seed) {
        std::vector<double> direction(run.gradients[p].size());
        for (size_t i = 0; i < direction.size(); ++i)
          direction[i] = philox_u32(seed, hash_name(run.names[p]), i) % 2 == 0 ? -1 : 1;
        if (!agrees(weights[p].view, run.gradients[p], direction, 0x1p-8))
          wrong.push_back(run.names[p]);
      }
    }
    return wrong;
  }

  // The same along the gradient itself, where the derivative is its length: the best conditioned
  // direction, which does not see a gradient with zeros where it should have none.
  std::vector<std::string> wrong_along_gradients(const Outcome& run) const {
    std::vector<std::string> wrong;
    const std::vector<NamedView> weights = engine_.store().master_views();
    for (size_t p = 0; p < weights.size(); ++p) {
      std::vector<double> direction = run.gradients[p];
      const double norm = std::sqrt(dot(direction, direction));
      for (double& d : direction) d /= norm;
      if (norm == 0 || !agrees(weights[p].view, run.gradients[p], direction, 0x1p-5))
        wrong.push_back(run.names[p]);
    }
    return wrong;
  }

 private:
  static double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }

  bool agrees(const TensorView& w, const std::vector<double>& gradient,
              const std::vector<double>& direction, double h) const {
    std::vector<float> at;
    each(w, [&](float x) { at.push_back(x); });
    const auto loss = [&](double s) {
      size_t i = 0;
      each(w, [&](float& x) {
        x = static_cast<float>(double{at[i]} + s * direction[i]);
        ++i;
      });
      const Evaluation there(engine_, microbatch_);
      return there.experts == here_.experts ? there.loss : std::nan("");
    };
    double derivative = std::nan("");
    while (std::isnan(derivative) && h > 0x1p-16) {
      const double far = loss(2 * h) - loss(-2 * h);
      if (!std::isnan(far)) derivative = (8 * (loss(h) - loss(-h)) - far) / (12 * h);
      if (std::isnan(derivative)) h /= 2;
    }
    loss(0);
    // f32 leaves up to 4e-7 in a loss of 4, of which 18 / 12 h are seen; the rest is O(h^4).
    const double norm = std::sqrt(dot(gradient, gradient));
    return std::abs(derivative - dot(gradient, direction)) <= 0.005 * norm + 6e-7 / h;
  }

  Engine& engine_;
  HostMicrobatch microbatch_;
  Evaluation here_;
};

// With even routing, which never changes, all steps are wide; learned routing has group limits.
TEST_F(EngineTest, GradientsAreTheDerivativesOfTheLossForEveryKindOfModel) {
  for (const auto& [name, args] : test::every_kind_of_model()) {
    SCOPED_TRACE(name);
    const auto even = engine(test::with_even_routing(args));
    const Outcome r = run(*even);
    const GradientCheck check(*even, microbatch());
    EXPECT_THAT(check.wrong_along_random_directions(r), IsEmpty());
    EXPECT_THAT(check.wrong_along_gradients(r), IsEmpty());
    const auto learned = engine(args);
    EXPECT_THAT(GradientCheck(*learned, microbatch()).wrong_along_random_directions(run(*learned)),
                IsEmpty());
  }
}

// What the check is worth: a gradient that lacks an expert, or a head, is wrong along a random
// direction, and right along itself.
TEST_F(EngineTest, AMissingPartOfAGradientIsSeenAlongARandomDirectionOnly) {
  const auto e = engine(test::with_even_routing(test::without_q_lora(three_blocks())));
  const Outcome right = run(*e);
  const GradientCheck check(*e, microbatch());
  const std::string expert = "layers.1.moe.experts.w2", head = "layers.2.attention.wq.weight";
  for (const auto& [name, parts] : {std::pair<std::string, size_t>{expert, 4}, {head, 2}}) {
    Outcome r = right;
    for (size_t p = 0; p < r.names.size(); ++p)
      if (r.names[p] == name)
        std::fill_n(r.gradients[p].begin(), r.gradients[p].size() / parts, 0.0);
    EXPECT_THAT(check.wrong_along_random_directions(r), Each(name));
    EXPECT_THAT(check.wrong_along_random_directions(r), Not(IsEmpty()));
    EXPECT_THAT(check.wrong_along_gradients(r), IsEmpty());
  }
}

// Parts of it alone and what the modes choose; engine/recompute_test.cc has every combination.
TEST_F(EngineTest, WhateverIsRecomputedTheBitsAreTheSameForEveryKindOfModel) {
  const Recompute recomputes[] = {
      {.norms = true},        {.mla_up = true},
      {.assembly = true},     {.swiglu = true},
      {.dispatch = true},     {.norms = true, .assembly = true, .dispatch = true},
      Recompute::selective(), Recompute::full()};
  for (const auto& [name, args] : test::every_kind_of_model()) {
    const Outcome kept = run(*engine(args));
    for (size_t i = 0; i < std::size(recomputes); ++i) {
      SCOPED_TRACE(fmt::format("{}, recompute {}", name, i));
      const Outcome again = run(*engine(args, recomputes[i]));
      EXPECT_EQ(again.loss, kept.loss);
      for (size_t p = 0; p < kept.names.size(); ++p)
        EXPECT_TRUE(again.gradients[p] == kept.gradients[p]) << kept.names[p];
    }
  }
}

TEST_F(EngineTest, RecomputeGivesTheSameBitsWithLessMemory) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const auto none = engine(three_blocks(), Recompute::none(), kRows, compute);
    const auto selective = engine(three_blocks(), Recompute::selective(), kRows, compute);
    const auto full = engine(three_blocks(), Recompute::full(), kRows, compute);
    const Outcome a = run(*none), b = run(*selective), c = run(*full);
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.loss, c.loss);
    EXPECT_EQ(a.gradients, b.gradients);
    EXPECT_EQ(a.gradients, c.gradients);
    const auto saved = [](Engine& e) {
      const Executor::Memory& m = e.executor().memory();
      return m.total;
    };
    EXPECT_LT(saved(*selective), saved(*none));
    EXPECT_LT(saved(*full), saved(*selective));
  }
}

TEST_F(EngineTest, MicrobatchesAddUpToTheWholeBatch) {
  const auto whole = engine(three_blocks(), {}, 2);
  const auto parts = engine(three_blocks(), {}, 1, DType::f32, 2);
  const Outcome a = run(*whole, 1, 2), b = run(*parts, 2, 1);
  EXPECT_NEAR(a.loss, b.loss, 1e-6);
  for (size_t p = 0; p < a.gradients.size(); ++p)
    EXPECT_LT(test::normwise_error(b.gradients[p], a.gradients[p]), 2e-6) << a.names[p];
}

TEST_F(EngineTest, TheNumberOfThreadsDoesNotChangeABit) {
  const auto two = engine(three_blocks());
  const Outcome a = run(*two);
  ThreadPool one(1), five(5);
  for (ThreadPool* pool : {&one, &five}) {
    Stream stream(Device::cpu(), pool);
    Engine e(three_blocks(), stream, {.rows = kRows, .sequence = kSequence, .eos_id = 1});
    for (size_t i = 0; i < e.store().master_views().size(); ++i) {
      const TensorView from = two->store().masters(), to = e.store().masters();
      std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
    }
    const Outcome b = run(e);
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.gradients, b.gradients);
  }
}

TEST_F(EngineTest, EvaluationGivesTheTrainingLossAndCountsNoLoad) {
  const auto e = engine(three_blocks());
  e->reset_expert_load();
  auto evaluated = test::Tensor(Device::cpu(), DType::f32, {1}).fill(0);
  e->executor().evaluate(microbatch(), 1.0f / (kRows * kSequence), evaluated);
  for (const Engine::LayerLoad& l : e->expert_load())
    for (int64_t i = 0; i < l.load.count(); ++i) EXPECT_EQ(l.load.as<int64_t>()[i], 0);
  EXPECT_EQ(run(*e).loss, evaluated[0]);
  for (const Engine::LayerLoad& l : e->expert_load()) {
    int64_t sum = 0;
    for (int64_t i = 0; i < l.load.count(); ++i) sum += l.load.as<int64_t>()[i];
    EXPECT_EQ(sum, kRows * kSequence * 2);  // top_k choices a token
  }
}

// So many equal losses are one of them to the bit; added in f32 they would have drifted.
TEST_F(EngineTest, EvaluationAddsMicrobatchesInDouble) {
  const auto e = engine(three_blocks());
  StepRunner runner(stream_, *e, {});
  constexpr double kTokens = kRows * kSequence;
  const std::vector<HostMicrobatch> many(1024, microbatch());
  const float one = runner.evaluate(std::span(many).first(1), kTokens, 0);
  EXPECT_GT(one, 1);
  EXPECT_EQ(runner.evaluate(many, kTokens * 1024, 0), one);
}

TEST_F(EngineTest, OnTheMetaDeviceAllIsCheckedAndMeasuredAndNothingAllocated) {
  Stream meta(Device::meta());
  Engine e(three_blocks(), meta, {.rows = kRows, .sequence = kSequence, .eos_id = 1});
  const auto real = engine(three_blocks());
  EXPECT_EQ(e.executor().memory().total, real->executor().memory().total);
  EXPECT_EQ(e.store().bytes().masters, real->store().bytes().masters);
  EXPECT_EQ(e.store().masters().data, nullptr);
}

}  // namespace
}  // namespace nereus
