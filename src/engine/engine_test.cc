#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/philox.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// Every part of the model at a size where finite differences are cheap: q_lora, a dense block and
// two of experts, shared experts, normalised sigmoid routing, document masks.
ModelArgs small_args() {
  ModelArgs a;
  a.max_seq_len = 12;
  a.vocab_size = 37;
  a.dim = 24;
  a.inter_dim = 40;
  a.moe_inter_dim = 16;
  a.n_layers = 3;
  a.n_dense_layers = 1;
  a.n_heads = 2;
  a.q_lora_rank = 12;
  a.kv_lora_rank = 8;
  a.qk_nope_head_dim = 8;
  a.qk_rope_head_dim = 4;
  a.v_head_dim = 8;
  a.attn_mask_type = MaskType::block_causal;
  a.eos_id = 1;
  a.moe = {.num_experts = 4,
           .num_shared_experts = 1,
           .top_k = 2,
           .score_func = ScoreFunction::sigmoid,
           .route_norm = true,
           .route_scale = 2.5,
           .score_before_experts = false};
  return a;
}

struct Outcome {
  double loss = 0;
  std::vector<std::vector<double>> gradients;  // by logical parameter
  std::vector<std::string> names;
};

class EngineTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 2, kSequence = 12;
  static constexpr uint64_t kSeed = 3;

  EngineTest() : stream_(Device::cpu(), &test::pool()) {
    for (uint64_t i = 0; i < kRows * kSequence * 2; ++i) {
      ids_.push_back(static_cast<int32_t>(philox(11, i).v[0] % 37));
      labels_.push_back(static_cast<int32_t>(philox(12, i).v[0] % 37));
    }
  }

  std::unique_ptr<Engine> engine(const ModelArgs& args, Recompute recompute = {},
                                 int64_t rows = kRows, DType compute = DType::f32) {
    auto e = std::make_unique<Engine>(
        args, stream_,
        Engine::Options{
            .compute = compute,
            .rows = rows,
            .sequence = kSequence,
            .eos_id = 1,
            .recompute = std::vector<Recompute>(static_cast<size_t>(args.n_layers), recompute)});
    e->store().initialize(stream_, kSeed);
    // Larger weights than the initial ones, so that every part has a say.
    for (const NamedView& w : e->store().master_views()) {
      if (w.view.rank() == 1 || w.name == "tok_embeddings.weight") continue;
      scale(w.view, 4);
    }
    e->store().refresh_copies(stream_);
    return e;
  }

  static void scale(const TensorView& view, float factor) {
    if (view.rank() > 1) {
      for (int64_t i = 0; i < view.dim(0); ++i) scale(view[i], factor);
      return;
    }
    for (int64_t i = 0; i < view.dim(0); ++i) view.as<float>()[i] *= factor;
  }

  static void append(const TensorView& view, std::vector<double>& out) {
    if (view.rank() > 1) {
      for (int64_t i = 0; i < view.dim(0); ++i) append(view[i], out);
      return;
    }
    for (int64_t i = 0; i < view.dim(0); ++i)
      out.push_back(static_cast<double>(view.as<float>()[i]));
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
    e.executor().run(sequential_schedule(microbatches), host, static_cast<float>(1 / counted), loss,
                     [] {});
    Outcome out;
    out.loss = loss[0];
    for (const NamedView& g : e.store().gradient_views()) {
      append(g.view, out.gradients.emplace_back());
      out.names.push_back(g.name);
    }
    return out;
  }

  double loss(Engine& e) {
    const test::Tensor out(Device::cpu(), DType::f32, {1});
    out.view().as<float>()[0] = 0;
    e.executor().evaluate({.ids = std::span(ids_).first(kRows * kSequence),
                           .labels = std::span(labels_).first(kRows * kSequence)},
                          1.0f / (kRows * kSequence), out);
    return out[0];
  }

  Stream stream_;
  std::vector<int32_t> ids_, labels_;
};

// The directional derivative along the gradient itself, parameter by parameter: in f32 this is far
// better conditioned than single elements. d loss / d s of w + s g / |g| is |g|.
void expect_gradients(EngineTest&, Engine& e, const Outcome& run,
                      const std::function<double()>& loss) {
  const std::vector<NamedView> weights = e.store().master_views();
  const std::vector<NamedView> gradients = e.store().gradient_views();
  for (size_t p = 0; p < weights.size(); ++p) {
    double norm = 0;
    for (const double g : run.gradients[p]) norm += g * g;
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0) << run.names[p] << " has no gradient";
    const std::function<void(const TensorView&, const TensorView&, double)> move =
        [&](const TensorView& w, const TensorView& g, double step) {
          if (w.rank() > 1) {
            for (int64_t i = 0; i < w.dim(0); ++i) move(w[i], g[i], step);
            return;
          }
          for (int64_t i = 0; i < w.dim(0); ++i)
            w.as<float>()[i] +=
                static_cast<float>(step * static_cast<double>(g.as<float>()[i]) / norm);
        };
    const double h = 0.01;
    move(weights[p].view, gradients[p].view, h);
    const double up = loss();
    move(weights[p].view, gradients[p].view, -2 * h);
    const double down = loss();
    move(weights[p].view, gradients[p].view, h);
    // The loss is f32 of about 4: its rounding divided by 2h, and the cubic term.
    EXPECT_NEAR((up - down) / (2 * h), norm, 0.02 * norm + 4e-7 * 4 / h) << run.names[p];
  }
}

// Round-robin routing below: a learned choice that flips between the two losses has no derivative.
TEST_F(EngineTest, GradientsAgreeWithFiniteDifferencesOfTheLoss) {
  ModelArgs args = small_args();
  args.moe.force_load_balance = true;
  const auto e = engine(args);
  const Outcome r = run(*e);
  expect_gradients(*this, *e, r, [&] { return loss(*e); });
}

TEST_F(EngineTest, GradientsAgreeWithFiniteDifferencesWithoutQLoraAndWithScoresBeforeExperts) {
  ModelArgs args = small_args();
  args.q_lora_rank = 0;
  args.attn_mask_type = MaskType::causal;
  args.moe.score_before_experts = true;
  args.moe.score_func = ScoreFunction::softmax;
  args.moe.route_norm = false;
  args.moe.route_scale = 1;
  args.moe.num_shared_experts = 2;
  args.moe.force_load_balance = true;
  const auto e = engine(args);
  const Outcome r = run(*e);
  expect_gradients(*this, *e, r, [&] { return loss(*e); });
}

TEST_F(EngineTest, RecomputeGivesTheSameBitsWithLessMemory) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const auto none = engine(small_args(), Recompute::none(), kRows, compute);
    const auto selective = engine(small_args(), Recompute::selective(), kRows, compute);
    const auto full = engine(small_args(), Recompute::full(), kRows, compute);
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
  const auto whole = engine(small_args(), {}, 2);
  const auto parts = engine(small_args(), {}, 1);
  const Outcome a = run(*whole, 1, 2), b = run(*parts, 2, 1);
  EXPECT_NEAR(a.loss, b.loss, 1e-6);
  for (size_t p = 0; p < a.gradients.size(); ++p)
    EXPECT_LT(test::normwise_error(b.gradients[p], a.gradients[p]), 2e-6) << a.names[p];
}

TEST_F(EngineTest, TheNumberOfThreadsDoesNotChangeABit) {
  const auto two = engine(small_args());
  const Outcome a = run(*two);
  ThreadPool one(1), five(5);
  for (ThreadPool* pool : {&one, &five}) {
    Stream stream(Device::cpu(), pool);
    Engine e(small_args(), stream, {.rows = kRows, .sequence = kSequence, .eos_id = 1});
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
  const auto e = engine(small_args());
  e->reset_expert_load();
  const double evaluated = loss(*e);
  for (const Engine::LayerLoad& l : e->expert_load())
    for (int64_t i = 0; i < l.load.count(); ++i) EXPECT_EQ(l.load.as<int64_t>()[i], 0);
  EXPECT_EQ(run(*e).loss, evaluated);
  for (const Engine::LayerLoad& l : e->expert_load()) {
    int64_t sum = 0;
    for (int64_t i = 0; i < l.load.count(); ++i) sum += l.load.as<int64_t>()[i];
    EXPECT_EQ(sum, kRows * kSequence * 2);  // top_k choices a token
  }
}

TEST_F(EngineTest, OnTheMetaDeviceAllIsCheckedAndMeasuredAndNothingAllocated) {
  Stream meta(Device::meta());
  Engine e(small_args(), meta, {.rows = kRows, .sequence = kSequence, .eos_id = 1});
  const auto real = engine(small_args());
  EXPECT_EQ(e.executor().memory().total, real->executor().memory().total);
  EXPECT_EQ(e.store().bytes().masters, real->store().bytes().masters);
  EXPECT_EQ(e.store().masters().data, nullptr);
}

}  // namespace
}  // namespace nereus
