#include "ops/arrivals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "base/philox.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// Against a sort of (expert, sender, place among the sender's).
TEST(Arrivals, AreSortedByExpertThenSender) {
  for (const Device device : test::devices()) {
    for (const auto& [P, all, first, E] :
         {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 4, 0, 4},
          {4, 8, 2, 2},
          {3, 6, 5, 1},
          {8, 300, 256, 44}}) {
      std::vector<double> offsets;
      std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>> rows;  // and the arrival
      for (int64_t r = 0; r < P; ++r) {
        double at = 0;
        offsets.push_back(at);
        for (int64_t e = 0; e < all; ++e) {
          // Some experts get nothing, one gets many.
          const auto draw = philox(1, static_cast<uint64_t>(r * all + e)).v[0] % 7;
          const int64_t n = draw < 3 ? 0 : e == first ? 700 : draw;
          if (e >= first && e < first + E)
            for (int64_t i = 0; i < n; ++i)
              rows.emplace_back(e, r, i, static_cast<int64_t>(rows.size()));
          offsets.push_back(at += static_cast<double>(n));
        }
      }
      const auto R = static_cast<int64_t>(rows.size());
      auto given = test::Tensor(device, DType::i32, {P, all + 1});
      given.set(offsets);
      const auto row_of_arrival = test::Tensor(device, DType::i32, {R, 1}).fill(-1);
      const auto arrival_of_row = test::Tensor(device, DType::i32, {R}).fill(-1);
      const auto local = test::Tensor(device, DType::i32, {E + 1}).fill(-1);
      Stream s = test::stream(device);
      arrivals(s, {.row_of_arrival = row_of_arrival,
                   .arrival_of_row = arrival_of_row,
                   .local_offsets = local,
                   .offsets = given,
                   .first = first});
      s.synchronize();
      std::sort(rows.begin(), rows.end());
      for (int64_t i = 0; i < R; ++i) {
        const int64_t arrival = std::get<3>(rows[static_cast<size_t>(i)]);
        ASSERT_EQ(arrival_of_row[i], arrival);
        ASSERT_EQ(row_of_arrival[arrival], i);
      }
      for (int64_t e = 0; e <= E; ++e) {
        const auto before = std::count_if(rows.begin(), rows.end(), [&, f = first](const auto& x) {
          return std::get<0>(x) < f + e;
        });
        EXPECT_EQ(local[e], before);
      }
    }
  }
}

}  // namespace
}  // namespace nereus::ops
