#include "ops/peer_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "ops/permute.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

using test::Tensor;
using testing::HasSubstr;

struct Case {
  Device device;
  DType dtype;
  int64_t P, T, K, E, D;  // E experts a rank
  int64_t R;              // rows of a rank's capacity
};
void PrintTo(const Case& c, std::ostream* s) {
  *s << name_of(c.dtype) << " P" << c.P << " T" << c.T << " K" << c.K << " E" << c.E << " D" << c.D
     << " R" << c.R;
}
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const auto& [P, T, K, E, D, R] : std::vector<std::array<int64_t, 6>>{
               {1, 5, 2, 3, 8, 10},      // one rank
               {2, 0, 2, 2, 8, 4},       // no tokens
               {2, 37, 3, 4, 21, 222},   // odd width
               {3, 64, 8, 5, 64, 1536},  // more choices than fit one round
               {4, 16, 12, 3, 16, 768},
               {3, 33, 2, 2, 16, 40}})  // too little capacity
        out.push_back({device, dtype, P, T, K, E, D, R});
  return out;
}

// P ranks whose memory lies on one device, each a block with rows and a number for each row.
class Ranks {
 public:
  explicit Ranks(const Case& c)
      : c_(c), row_bytes_((c.R * c.D * size_of(c.dtype) + 255) / 256 * 256) {
    std::vector<double> addresses;
    for (int64_t r = 0; r < c.P; ++r) {
      blocks_.push_back(std::make_unique<Tensor>(c.device, DType::u8, Shape{row_bytes_ + 4 * c.R}));
      addresses.push_back(
          static_cast<double>(reinterpret_cast<uintptr_t>(blocks_.back()->view().data)));
    }
    bases_ = std::make_unique<Tensor>(c.device, DType::i64, Shape{c.P});
    bases_->set(addresses);  // below 2^53
  }
  PeerTensor rows() const { return {*bases_, 0, c_.dtype, {c_.R, c_.D}}; }
  PeerTensor numbers() const { return {*bases_, row_bytes_, DType::f32, {c_.R}}; }
  TensorView rows_of(int64_t r) const { return TensorView(block(r).data, c_.dtype, {c_.R, c_.D}); }
  TensorView numbers_of(int64_t r) const {
    return TensorView(block(r).data + row_bytes_, DType::f32, {c_.R});
  }

 private:
  TensorView block(int64_t r) const { return blocks_[static_cast<size_t>(r)]->view(); }
  Case c_;
  int64_t row_bytes_;
  std::vector<std::unique_ptr<Tensor>> blocks_;
  std::unique_ptr<Tensor> bases_;
};

std::vector<double> read(Stream& s, const Device& device, ConstTensorView v) {
  Tensor copy(device, v.dtype, v.shape);
  copy_rows(s, copy.view().reshape({1, v.count()}), v.reshape({1, v.count()}));
  s.synchronize();
  return copy.values();
}

void write(Stream& s, const Device& device, TensorView to, const std::vector<double>& values) {
  Tensor from(device, to.dtype, to.shape);
  from.set(values);
  copy_rows(s, to.reshape({1, to.count()}), from.view().reshape({1, to.count()}));
  s.synchronize();
}

class PeerRowsTest : public testing::TestWithParam<Case> {};

TEST_P(PeerRowsTest, RowsGoToTheRanksOfTheirExpertsAndComeBack) {
  const Case& c = GetParam();
  const int64_t slots = c.T * c.K, all = c.P * c.E;
  const double u = test::unit_roundoff(c.dtype);
  Stream s = test::stream(c.device);

  // What each rank has: ids (no token goes to expert 1), and its own sort.
  std::vector<Tensor> ids, row_of_slot;
  Tensor offsets(c.device, DType::i32, {c.P, all + 1});
  for (int64_t r = 0; r < c.P; ++r) {
    ids.push_back(Tensor(c.device, DType::i32, {c.T, c.K})
                      .fill_uniform_int(static_cast<uint64_t>(r) + 1, all > 2 ? 2 : 0, all));
    row_of_slot.emplace_back(c.device, DType::i32, Shape{c.T, c.K});
    const Tensor slot_of_row(c.device, DType::i32, {slots});
    permute_plan(s, {.row_of_slot = row_of_slot.back(),
                     .slot_of_row = slot_of_row,
                     .offsets = offsets.view()[r],
                     .ids = ids.back()});
    s.synchronize();
  }

  // The judge: all slots of all ranks, by expert, then sender, then slot.
  struct Slot {
    int64_t expert, sender, slot;
  };
  std::vector<Slot> sorted;
  for (int64_t r = 0; r < c.P; ++r) {
    const std::vector<double> e = ids[static_cast<size_t>(r)].values();
    for (int64_t i = 0; i < slots; ++i)
      sorted.push_back({static_cast<int64_t>(e[static_cast<size_t>(i)]), r, i});
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Slot& a, const Slot& b) { return a.expert < b.expert; });
  std::vector<int64_t> filled(static_cast<size_t>(c.P), 0);
  std::vector<std::vector<std::array<int64_t, 2>>> place(
      static_cast<size_t>(c.P), std::vector<std::array<int64_t, 2>>(static_cast<size_t>(slots)));
  std::vector<std::vector<int64_t>> first(static_cast<size_t>(c.P));  // by rank: its experts'
  for (int64_t e = 0, i = 0; e < all; ++e) {
    auto& rows = filled[static_cast<size_t>(e / c.E)];
    first[static_cast<size_t>(e / c.E)].push_back(std::min(rows, c.R));
    for (; i < static_cast<int64_t>(sorted.size()) && sorted[static_cast<size_t>(i)].expert == e;
         ++i) {
      const Slot& it = sorted[static_cast<size_t>(i)];
      place[static_cast<size_t>(it.sender)][static_cast<size_t>(it.slot)] = {
          rows < c.R ? e / c.E : -1, rows};
      ++rows;
    }
  }
  const int64_t most = *std::max_element(filled.begin(), filled.end());

  const Ranks ranks(c);
  for (int64_t r = 0; r < c.P; ++r) {
    write(s, c.device, ranks.rows_of(r), std::vector<double>(static_cast<size_t>(c.R * c.D), -7));
    write(s, c.device, ranks.numbers_of(r), std::vector<double>(static_cast<size_t>(c.R), -7));
  }
  std::vector<Tensor> places, x, weights;
  for (int64_t r = 0; r < c.P; ++r) {
    const auto q = static_cast<size_t>(r);
    places.push_back(Tensor(c.device, DType::i32, {c.T, c.K, 2}).poison());
    const Tensor local = Tensor(c.device, DType::i32, {c.E + 1}).poison();
    const Tensor scratch = Tensor(c.device, DType::i32, {all}).poison();
    const Tensor wanted = Tensor(c.device, DType::i64, {1}).fill(0);
    peer_plan(s, {.place = places[q],
                  .local_offsets = local,
                  .first_row = scratch,
                  .wanted = wanted,
                  .ids = ids[q],
                  .row_of_slot = row_of_slot[q],
                  .offsets = offsets,
                  .rank = r,
                  .rows = c.R});
    x.push_back(Tensor(c.device, c.dtype, {c.T, c.D}).fill_normal(20 + static_cast<uint64_t>(r)));
    weights.push_back(
        Tensor(c.device, DType::f32, {c.T, c.K}).fill_normal(40 + static_cast<uint64_t>(r)));
    peer_permute(s, {.rows = ranks.rows(),
                     .row_weights = ranks.numbers(),
                     .x = x[q],
                     .weights = weights[q],
                     .place = places[q]});
    s.synchronize();
    const std::vector<double> p = places[q].values(), l = local.values();
    for (size_t i = 0; i < static_cast<size_t>(slots); ++i) {
      ASSERT_EQ(p[2 * i], static_cast<double>(place[q][i][0])) << "slot " << i;
      ASSERT_EQ(p[2 * i + 1], static_cast<double>(place[q][i][1])) << "slot " << i;
    }
    for (size_t e = 0; e < static_cast<size_t>(c.E); ++e)
      ASSERT_EQ(l[e], static_cast<double>(first[q][e]));
    ASSERT_EQ(l.back(), static_cast<double>(std::min(filled[q], c.R)));
    ASSERT_EQ(wanted[0], static_cast<double>(most > c.R ? most : 0));
  }

  // Every row is its slot's, and what no slot has is as it was.
  std::vector<std::vector<double>> rows, numbers;
  for (int64_t r = 0; r < c.P; ++r) {
    rows.push_back(read(s, c.device, ranks.rows_of(r)));
    numbers.push_back(read(s, c.device, ranks.numbers_of(r)));
  }
  std::vector<std::vector<double>> want(rows.size(),
                                        std::vector<double>(static_cast<size_t>(c.R * c.D), -7)),
      want_numbers(rows.size(), std::vector<double>(static_cast<size_t>(c.R), -7));
  for (size_t q = 0; q < place.size(); ++q) {
    const std::vector<double> xv = x[q].values(), wv = weights[q].values();
    for (size_t i = 0; i < static_cast<size_t>(slots); ++i) {
      const auto [rank, row] = place[q][i];
      if (rank < 0) continue;
      const auto t = static_cast<int64_t>(i) / c.K;
      std::copy_n(xv.begin() + t * c.D, c.D, want[static_cast<size_t>(rank)].begin() + row * c.D);
      want_numbers[static_cast<size_t>(rank)][static_cast<size_t>(row)] = wv[i];
    }
  }
  ASSERT_EQ(rows, want);
  ASSERT_EQ(numbers, want_numbers);

  // And back, from other rows.
  std::vector<std::vector<double>> y;
  for (int64_t r = 0; r < c.P; ++r) {
    const auto made =
        Tensor(c.device, c.dtype, {c.R, c.D}).fill_normal(60 + static_cast<uint64_t>(r));
    y.push_back(made.values());
    write(s, c.device, ranks.rows_of(r), y.back());
  }
  for (size_t q = 0; q < place.size(); ++q) {
    const auto addend = Tensor(c.device, c.dtype, {c.T, c.D}).fill_normal(80);
    const Tensor out = Tensor(c.device, c.dtype, {c.T, c.D}).poison(),
                 plain = Tensor(c.device, c.dtype, {c.T, c.D}).poison(),
                 scalars = Tensor(c.device, DType::f32, {c.T, c.K}).poison(),
                 dots = Tensor(c.device, DType::f32, {c.T, c.K}).poison();
    peer_combine(s, {.out = out,
                     .scalars = scalars,
                     .rows = ranks.rows(),
                     .row_scalars = ranks.numbers(),
                     .place = places[q],
                     .weights = weights[q],
                     .addend = addend});
    peer_combine(s, {.out = plain, .rows = ranks.rows(), .place = places[q]});
    peer_dot(s, {.out = dots, .rows = ranks.rows(), .x = x[q], .place = places[q]});
    s.synchronize();
    const std::vector<double> ov = out.values(), pv = plain.values(), sv = scalars.values(),
                              dv = dots.values(), av = addend.values(), wv = weights[q].values(),
                              xv = x[q].values();
    for (int64_t t = 0; t < c.T; ++t) {
      for (int64_t d = 0; d < c.D; ++d) {
        double sum = 0, weighted = 0, size = 0;
        for (int64_t k = 0; k < c.K; ++k) {
          const auto i = static_cast<size_t>(t * c.K + k);
          const auto [rank, row] = place[q][i];
          if (rank < 0) continue;
          const double v = y[static_cast<size_t>(rank)][static_cast<size_t>(row * c.D + d)];
          sum += v;
          weighted += wv[i] * v;
          size += std::abs(v) + std::abs(wv[i] * v);
        }
        const auto at = static_cast<size_t>(t * c.D + d);
        // K additions in f32, rounded once to the type.
        const double bound = (static_cast<double>(c.K) + 1) * 0x1p-23 * (size + std::abs(av[at]));
        ASSERT_NEAR(pv[at], sum, u * std::abs(sum) + bound);
        ASSERT_NEAR(ov[at], weighted + av[at], u * std::abs(weighted + av[at]) + bound);
      }
      for (int64_t k = 0; k < c.K; ++k) {
        const auto i = static_cast<size_t>(t * c.K + k);
        const auto [rank, row] = place[q][i];
        double dot = 0, size = 0;
        for (int64_t d = 0; rank >= 0 && d < c.D; ++d) {
          const double v = y[static_cast<size_t>(rank)][static_cast<size_t>(row * c.D + d)] *
                           xv[static_cast<size_t>(t * c.D + d)];
          dot += v;
          size += std::abs(v);
        }
        ASSERT_NEAR(dv[i], dot, static_cast<double>(c.D) * 0x1p-24 * size);
        ASSERT_EQ(sv[i], rank < 0 ? 0 : wv[i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Device, PeerRowsTest, testing::ValuesIn(cases()));

TEST(PeerRows, RefuseWhatDoesNotFit) {
  Stream s = test::stream(Device::cpu());
  const Tensor place(Device::cpu(), DType::i32, {4, 2, 2}), x(Device::cpu(), DType::f32, {4, 8}),
      bases(Device::cpu(), DType::i64, {2});
  const auto refused = [&](const PeerTensor& rows) {
    try {
      peer_permute(s, {.rows = rows, .x = x, .place = place});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(refused({bases, 0, DType::bf16, {6, 8}}),
              HasSubstr("rows is bf16 [6, 8] at 0 bytes"));
  EXPECT_THAT(refused({bases, 8, DType::f32, {6, 8}}), HasSubstr("a multiple of 16"));
  EXPECT_THAT(refused({bases, 0, DType::f32, {6, 9}}), HasSubstr("expected f32 [6, 8]"));
}

}  // namespace
}  // namespace nereus::ops
