// Rotary frequencies and the softmax scale against the formulas in double and TorchTitan's numbers.
#include <gmock/gmock.h>

#include <cmath>

#include "base/log.h"
#include "config/job_config.h"
#include "config/model_args.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

ModelArgs hf_args(double factor, double mscale, double mscale_all_dim) {
  ModelArgs a = model_args_of_flavor("671B");
  a.numerics = numerics_of(NumericsFamily::huggingface);
  a.hf_yarn = true;
  a.rope_factor = factor;
  a.mscale = mscale;
  a.hf_mscale_given = mscale != 0;
  a.hf_mscale_all_dim = mscale_all_dim;
  return a;
}

TEST(Rope, TorchTitanHasYarnOnlyBeyondTheOriginalLength) {
  ModelArgs a = model_args_of_flavor("671B");
  a.max_seq_len = 4096;
  EXPECT_FALSE(rope_parameters(a).yarn);
  EXPECT_NEAR(rope_parameters(a).softmax_scale, 0.07216878364870322, 1e-16);
  a.max_seq_len = 4097;
  EXPECT_TRUE(rope_parameters(a).yarn);
  EXPECT_NEAR(rope_parameters(a).softmax_scale, 0.1352338, 1e-7);  // m = 1.3688879
  EXPECT_EQ(rope_parameters(a).amplitude, 1.0);
  a.mscale = 0.70;
  EXPECT_NEAR(rope_parameters(a).softmax_scale, 0.1142520, 1e-7);  // m = 1.2582216
}

TEST(Rope, HuggingFaceHasYarnAtAnyLengthWithBothMscales) {
  const double s = 1 / std::sqrt(192.0), m = 0.1 * std::log(40.0) + 1;
  const auto scale = [](const ModelArgs& a) { return rope_parameters(a).softmax_scale; };
  const auto amplitude = [](const ModelArgs& a) { return rope_parameters(a).amplitude; };
  EXPECT_DOUBLE_EQ(scale(hf_args(40, 1, 1)), s * m * m);
  EXPECT_DOUBLE_EQ(amplitude(hf_args(40, 1, 1)), 1);
  const double half = 0.05 * std::log(40.0) + 1;
  EXPECT_DOUBLE_EQ(scale(hf_args(40, 1, 0.5)), s * half * half);
  EXPECT_DOUBLE_EQ(amplitude(hf_args(40, 1, 0.5)), m / half);
  // One of them alone: cos and sin get the default factor.
  EXPECT_DOUBLE_EQ(scale(hf_args(40, 0.5, 0)), s);
  EXPECT_DOUBLE_EQ(amplitude(hf_args(40, 0.5, 0)), m);
  EXPECT_DOUBLE_EQ(scale(hf_args(40, 0, 0.5)), s * half * half);
  EXPECT_DOUBLE_EQ(amplitude(hf_args(40, 0, 0.5)), m);
  EXPECT_DOUBLE_EQ(scale(hf_args(40, 0, 0)), s);
  EXPECT_DOUBLE_EQ(amplitude(hf_args(40, 0, 0)), m);
  EXPECT_DOUBLE_EQ(scale(hf_args(1, 1, 1)), s);
  EXPECT_DOUBLE_EQ(amplitude(hf_args(1, 0, 0)), 1);
}

TEST(Rope, AnOverriddenMscaleIsBothOfHuggingFacesOverAFlavor) {
  JobConfig c;
  c.model.flavor = "671B";
  c.numerics.family = NumericsFamily::huggingface;
  c.model_overrides.mscale = 0.5;
  const double s = 1 / std::sqrt(192.0), half = 0.05 * std::log(40.0) + 1;
  const log::Capture capture;
  RopeParameters r = rope_parameters(resolve_model_args(c));
  EXPECT_DOUBLE_EQ(r.softmax_scale, s * half * half);
  EXPECT_DOUBLE_EQ(r.amplitude, 1);
  EXPECT_EQ(capture.text(), "");

  // Over a config.json it is the one of that name.
  c.model.hf_config = test::source_path("tests/golden/hf_tiny/v3/config.json");
  const ModelArgs a = resolve_model_args(c);
  const double factor = std::log(a.rope_factor);
  r = rope_parameters(a);
  EXPECT_DOUBLE_EQ(r.amplitude, (0.05 * factor + 1) / (0.1 * factor + 1));
  EXPECT_THAT(capture.text(), testing::HasSubstr("model_overrides.mscale = 0.5 scales cos and sin "
                                                 "alone; the attention's scale follows "
                                                 "mscale_all_dim, which is 1 in "));
}

TEST(Rope, FrequenciesArePlainWithoutYarn) {
  ModelArgs a = model_args_of_flavor("671B");
  a.max_seq_len = 4096;
  const std::vector<float> f = rope_frequencies(rope_parameters(a), 64);
  ASSERT_EQ(f.size(), 32u);
  EXPECT_EQ(f[0], 1.0f);
  for (int i = 0; i < 32; ++i)
    EXPECT_NEAR(f[static_cast<size_t>(i)], std::pow(10000.0, -2.0 * i / 64),
                2e-7 * std::pow(10000.0, -2.0 * i / 64));
}

// With the released model's numbers the ramp runs from pair 10 to pair 23.
TEST(Rope, FrequenciesOfYarnKeepFastPairsAndDivideSlowOnes) {
  ModelArgs a = model_args_of_flavor("671B");
  a.max_seq_len = 8192;
  const std::vector<float> f = rope_frequencies(rope_parameters(a), 64);
  for (int i = 0; i < 32; ++i) {
    const double plain = std::pow(10000.0, -2.0 * i / 64);
    const double ramp = std::min(std::max((i - 10) / 13.0, 0.0), 1.0);
    const double expected = plain / 40 * ramp + plain * (1 - ramp);
    EXPECT_NEAR(f[static_cast<size_t>(i)], expected, 4e-7 * expected) << i;
  }
  EXPECT_EQ(f, rope_frequencies(rope_parameters(hf_args(40, 1, 1)), 64));
}

// The ramp's bounds meet when both rotations give the same pair: a step, no division by zero.
TEST(Rope, FrequenciesOfAnEmptyRampAreAStep) {
  ModelArgs a = model_args_of_flavor("671B");
  a.max_seq_len = 64;
  a.original_seq_len = 6;  // fewer than one rotation anywhere: both bounds fall below pair 0
  a.beta_fast = a.beta_slow = 32;
  for (const float f : rope_frequencies(rope_parameters(a), 64)) EXPECT_TRUE(std::isfinite(f));
}

}  // namespace
}  // namespace nereus
