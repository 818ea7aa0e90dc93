#include "parallel/clipped_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/philox.h"

namespace nereus {
namespace {

// Offsets of counts drawn at random: rank r has up to `most` rows for each expert.
std::vector<int32_t> random_offsets(int64_t ranks, int64_t experts, uint32_t most, uint64_t seed) {
  std::vector<int32_t> out;
  uint64_t n = 0;
  for (int64_t r = 0; r < ranks; ++r) {
    out.push_back(0);
    for (int64_t e = 0; e < experts; ++e)
      out.push_back(out.back() + static_cast<int32_t>(philox(seed, n++).v[0] % (most + 1)));
  }
  return out;
}

TEST(ClippedRows, NoRankReceivesMoreThanItsCapacityAndNobodyElseLosesARow) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (const int64_t ranks : {1, 2, 4}) {
      constexpr int64_t kExperts = 8;
      const int64_t E = kExperts / ranks;
      const std::vector<int32_t> all = random_offsets(ranks, kExperts, 9, seed);
      for (const int64_t capacity : {0, 1, 17, 60, 1000}) {
        const ClippedRows clipped(all, ranks, kExperts, capacity);
        int64_t wanted = 0;
        for (int64_t to = 0; to < ranks; ++to) {
          int64_t before = 0, after = 0;
          for (int64_t from = 0; from < ranks; ++from) {
            const size_t at = static_cast<size_t>(from * (kExperts + 1) + to * E);
            before += all[at + static_cast<size_t>(E)] - all[at];
            after += clipped.offsets[at + static_cast<size_t>(E)] - clipped.offsets[at];
          }
          EXPECT_LE(after, capacity);
          if (before <= capacity) {
            EXPECT_EQ(after, before);
          } else {  // rounding costs less than a row for each expert and rank
            EXPECT_GT(after, capacity - ranks * E);
          }
          wanted = std::max(wanted, before);
        }
        EXPECT_EQ(clipped.wanted, wanted);
      }
    }
  }
}

TEST(ClippedRows, RowsThatAreKeptComeFirstInTheirOrderAndOthersLast) {
  const std::vector<int32_t> all = {0, 4, 4, 10, 12,  // 12 rows: 4, 0, 6, 2 for experts 0 to 3
                                    0, 4, 8, 8,  8};
  const ClippedRows clipped(all, 2, 4, 8);  // the first rank of experts would receive 12
  EXPECT_EQ(clipped.wanted, 12);
  EXPECT_EQ(clipped.offsets, (std::vector<int32_t>{0, 2, 2, 8, 10, 0, 2, 4, 4, 4}));
  EXPECT_EQ(clipped.places(all, 0, 4),
            (std::vector<int32_t>{0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(clipped.places(all, 1, 4), (std::vector<int32_t>{0, 1, 4, 5, 2, 3, 6, 7}));
}

}  // namespace
}  // namespace nereus
