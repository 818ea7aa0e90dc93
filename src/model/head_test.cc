#include "model/head.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/layer_test.h"

namespace nereus {
namespace {

using test::normal;
using test::poisoned;
using test::Tensor;
using test::Values;

constexpr int64_t kTokens = 9, kDim = 7, kVocabulary = 13;
constexpr size_t kT = kTokens, kV = kVocabulary;
constexpr double kScale = 0.125;

struct Judge {
  double eps;
  Values labels, x, norm, output;

  double loss() const {
    const Values logits = test::product(test::rms_normalised(x, norm, eps), output, kDim);
    double sum = 0;
    for (size_t t = 0; t < kT; ++t) {
      if (labels[t] < 0) continue;
      double total = 0;
      for (size_t v = 0; v < kV; ++v) total += std::exp(logits[t * kV + v]);
      sum += std::log(total) - logits[t * kV + static_cast<size_t>(labels[t])];
    }
    return kScale * sum;
  }
};

Microbatch microbatch(const Tensor& labels, bool training) {
  return {.ids = labels,
          .labels = labels,
          .positions = labels,
          .first_key = labels,
          .loss_scale = static_cast<float>(kScale),
          .training = training};
}

TEST(Head, LossAndGradientsAreThoseOfTheFormulas) {
  for (const bool huggingface : {false, true}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      ModelArgs args;
      args.numerics =
          numerics_of(huggingface ? NumericsFamily::huggingface : NumericsFamily::torchtitan);
      args.vocab_size = kVocabulary;
      args.dim = kDim;
      args.norm_eps = 0.5;
      args.numerics.final_norm_eps = 0.02;
      const Tensor x = normal(1, {kTokens, kDim}, 1, dtype),
                   norm = normal(2, {kDim}, 0.3, DType::f32, 1),
                   output = normal(3, {kVocabulary, kDim}, 0.7, dtype),
                   labels = test::integers({0, 12, 5, -1, 5, 3, -100, 7, 1});  // two are ignored
      Judge judge{.eps = 0.02,
                  .labels = labels.values(),
                  .x = x.values(),
                  .norm = norm.values(),
                  .output = output.values()};
      const double want_loss = judge.loss();
      const auto value = [&] { return judge.loss(); };
      const Values want_dx = test::derivatives(judge.x, value),
                   want_dnorm = test::derivatives(judge.norm, value),
                   want_doutput = test::derivatives(judge.output, value);

      test::LayerMemory memory;
      IdentityRegion region;
      const Head head(args, region);
      const Head::Weights w{norm, output};
      const Tensor dnorm = poisoned(norm.shape()), doutput = poisoned(output.shape());
      const Tensor loss = Tensor(Device::cpu(), DType::f32, {1}).fill(1);
      const double tolerance = dtype == DType::f32 ? 2e-6 : 0.02;
      // The loss is always added to; gradients by the second microbatch.
      for (const int pass : {1, 2}) {
        memory.reset();
        const Tensor dx = poisoned(x.shape(), dtype);
        Head::Saved saved;
        Context ctx = memory.context(pass == 2);
        head.forward(ctx, w, microbatch(labels, true), x, loss, saved, {dnorm, doutput});
        EXPECT_NEAR(loss[0], 1 + pass * want_loss, (pass + 1) * tolerance * want_loss);
        head.backward_input(ctx, w, dx, saved, {dnorm, doutput});
        Values dnorm_values = want_dnorm, doutput_values = want_doutput;
        for (Values* v : {&dnorm_values, &doutput_values})
          for (double& d : *v) d *= pass;
        EXPECT_LT(test::normwise_error(dx.values(), want_dx), 2 * tolerance);
        EXPECT_LT(test::normwise_error(dnorm.values(), dnorm_values), 2 * tolerance);
        EXPECT_LT(test::normwise_error(doutput.values(), doutput_values), 2 * tolerance);
      }
      // An evaluation: the same loss, and no gradient that could be written.
      const double before = loss[0];
      memory.reset();
      Head::Saved saved;
      Context ctx = memory.context();
      head.forward(ctx, w, microbatch(labels, false), x, loss, saved, {});
      EXPECT_NEAR(loss[0] - before, want_loss, 3 * tolerance * want_loss);
      EXPECT_FALSE(saved.dn);
    }
  }
}

// A vocabulary of which kChunkBytes hold two tokens: three make a chunk of two and one of one. Its
// rows repeat themselves after kPeriod, so that the judge has few to look at.
TEST(Head, ChunksOfTokensAddUp) {
  constexpr int64_t V = Head::kChunkBytes / 4 / 2 - 5, T = 3, kPeriod = 101;
  ModelArgs args;
  args.vocab_size = V;
  args.dim = 1;
  args.numerics.final_norm_eps = 0.5;
  const Tensor x = normal(1, {T, 1}), norm = normal(2, {1}, 0.3, DType::f32, 1),
               labels = test::integers({0, static_cast<double>(V - 1), 1000});
  const Buffer memory(Device::cpu(), 2 * 4 * V, "a test");
  const TensorView output(memory.data(), DType::f32, {V, 1}),
      doutput(memory.data() + 4 * V, DType::f32, {V, 1});
  float* const weight = output.as<float>();
  for (int64_t v = 0; v < V; ++v) weight[v] = static_cast<float>(v % kPeriod) / kPeriod;
  std::memset(doutput.data, 0xff, static_cast<size_t>(doutput.bytes()));

  test::LayerMemory arenas(Head::kChunkBytes + (1 << 12));
  IdentityRegion region;
  const Tensor loss = Tensor(Device::cpu(), DType::f32, {1}).fill(0), dnorm = poisoned({1});
  Head::Saved saved;
  Context ctx = arenas.context();
  Head(args, region)
      .forward(ctx, {norm, output}, microbatch(labels, true), x, loss, saved, {dnorm, doutput});

  const Values n = test::rms_normalised(x.values(), norm.values(), 0.5);
  double want_loss = 0;
  Values want_dn(T), want_doutput(kPeriod);  // the latter of rows that are nobody's label
  for (size_t t = 0; t < T; ++t) {
    const auto label = static_cast<int64_t>(labels[static_cast<int64_t>(t)]);
    double sum = 0;
    for (int64_t r = 0; r < kPeriod; ++r)
      sum +=
          static_cast<double>((V - r + kPeriod - 1) / kPeriod) * std::exp(n[t] * double{weight[r]});
    want_loss += kScale * (std::log(sum) - n[t] * double{weight[label]});
    want_dn[t] = -kScale * double{weight[label]};
    for (int64_t r = 0; r < kPeriod; ++r) {
      const double p = std::exp(n[t] * double{weight[r]}) / sum;
      want_dn[t] +=
          kScale * static_cast<double>((V - r + kPeriod - 1) / kPeriod) * p * double{weight[r]};
      want_doutput[static_cast<size_t>(r)] += kScale * p * n[t];
    }
  }
  EXPECT_NEAR(loss[0], want_loss, 1e-5 * want_loss);
  // Sums of millions of terms in f32.
  for (size_t t = 0; t < T; ++t)
    EXPECT_NEAR(double{saved.dn.as<float>()[t]}, want_dn[t], 1e-4) << t;
  const double most = *std::max_element(want_doutput.begin(), want_doutput.end());
  for (int64_t v = 0; v < V; ++v) {
    double want = want_doutput[static_cast<size_t>(v % kPeriod)];
    for (size_t t = 0; t < T; ++t)
      if (v == static_cast<int64_t>(labels[static_cast<int64_t>(t)])) want -= kScale * n[t];
    const double got{doutput.as<float>()[v]};
    if (!(std::abs(got - want) <= 1e-5 * (std::abs(want) + std::abs(most))))
      FAIL() << "row " << v << " is " << got << ", expected " << want;
  }
}

}  // namespace
}  // namespace nereus
