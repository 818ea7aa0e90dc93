#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/grouped_cutlass.h"
#include "ops/grouped_matmul.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// Experts with no row, with one, with parts of tiles and with many, on every tile that a GPU's
// GEMM of rows may take.
TEST(GroupedTiles, EachGivesTheProductOfEveryExpertsRows) {
  if constexpr (kHasCuda) {
    const std::vector<double> bounds{0, 300, 300, 301, 1001, 1130};
    constexpr int64_t E = 5, R = 1130, N = 264, K = 200, kUnused = 6;
    for (const Device device : test::devices()) {
      if (device.kind != Device::Kind::cuda) continue;
      Stream s = test::stream(device);
      auto offsets = test::Tensor(device, DType::i32, {E + 1});
      offsets.set(bounds);
      const auto x = test::Tensor(device, DType::bf16, {R + kUnused, K}).fill_normal(1);
      const auto xv = x.values();
      for (const bool trans_b : {true, false}) {
        const auto w = test::Tensor(device, DType::bf16, trans_b ? Shape{E, N, K} : Shape{E, K, N})
                           .fill_normal(2);
        const auto wv = w.values();
        std::vector<double> want(static_cast<size_t>(R * N));
        for (int64_t e = 0; e < E; ++e)
          for (auto r = static_cast<int64_t>(bounds[static_cast<size_t>(e)]);
               r < static_cast<int64_t>(bounds[static_cast<size_t>(e + 1)]); ++r)
            for (int64_t j = 0; j < N; ++j)
              for (int64_t k = 0; k < K; ++k)
                want[static_cast<size_t>(r * N + j)] +=
                    xv[static_cast<size_t>(r * K + k)] *
                    wv[static_cast<size_t>(e * N * K + (trans_b ? j * K + k : k * N + j))];
        for (const cuda::GroupedTile tile :
             {cuda::GroupedTile::standard, cuda::GroupedTile::tall, cuda::GroupedTile::wide}) {
          const auto out = test::Tensor(device, DType::bf16, {R + kUnused, N}).poison();
          cuda::force_grouped_tile(s, tile);
          grouped_matmul(s, {.out = out, .a = x, .b = w, .offsets = offsets, .trans_b = trans_b});
          s.synchronize();
          auto got = out.values();
          for (int64_t i = R * N; i < out.count(); ++i)
            ASSERT_TRUE(out.poisoned(i)) << "beyond the last row";
          got.resize(want.size());
          EXPECT_LT(test::normwise_error(got, want), 4e-3) << "tile " << static_cast<int>(tile);
        }
      }
    }
  }
  if (test::devices().size() < 2) GTEST_SKIP() << "needs a GPU";
}

}  // namespace
}  // namespace nereus::ops
