#include "observe/kernel_times.h"

#include <gtest/gtest.h>

namespace nereus {
namespace {

// 0..100 a GEMM, 80..180 a gather concurrent with it and alone, a gap, 200..250 attention, and
// within it a meeting of ranks.
const std::vector<KernelRun> kRuns = {{"meet_kernel", 210'000'000, 220'000'000, 7},
                                      {"nvjet_128", 0, 100'000'000, 7},
                                      {"ncclDevKernel_AllGather", 80'000'000, 180'000'000, 9},
                                      {"cudnn_sdpa", 200'000'000, 250'000'000, 7}};

TEST(KernelTimes, CommunicationBesideKernelsIsNotExposed) {
  const KernelTimes t = add_up(kRuns);
  EXPECT_NEAR(t.gemms, 0.1, 1e-9);
  EXPECT_NEAR(t.attention, 0.05, 1e-9);
  EXPECT_NEAR(t.communication, 0.11, 1e-9);
  EXPECT_NEAR(t.exposed, 0.08, 1e-9);
  EXPECT_NEAR(t.hidden, 0.03, 1e-9);
  EXPECT_NEAR(t.gaps, 0.02, 1e-9);
  EXPECT_NEAR(t.span, 0.25, 1e-9);
  EXPECT_EQ(t.kernels.size(), 4U);
  EXPECT_EQ(speed_of_light(t, 0.3, 1e14, 1e15),
            "Speed of light: a step took 300.0 ms; its arithmetic at 1000 TFLOP/s takes 100.0 ms "
            "(33.3 %); GEMMs 100.0, attention 50.0, memory-bound kernels 0.0, copies 0.0, "
            "communication 110.0 (80.0 exposed), gaps 20.0 ms");
}

TEST(KernelTimes, OurOwnAttentionIsAttention) {
  const KernelTimes t =
      add_up({{"void nereus::ops::cuda::hopper::forward_kernel<192, 128>", 0, 30},
              {"nereus::ops::cuda::hopper::backward::prepare_kernel", 30, 40},
              {"void nereus::ops::cuda::forward_kernel<nereus::bf16, 8>", 40, 60}});
  EXPECT_NEAR(t.attention, 40e-9, 1e-12);
  EXPECT_NEAR(t.memory_bound, 20e-9, 1e-12);
}

TEST(KernelTimes, OfNothingAreZero) { EXPECT_EQ(add_up({}).span, 0); }

}  // namespace
}  // namespace nereus
