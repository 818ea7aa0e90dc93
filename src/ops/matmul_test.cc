#include "ops/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/grouped_matmul.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

struct Case {
  Device device;
  DType in, out;
  int64_t M, N, K;
};
void PrintTo(const Case& c, std::ostream* s) {
  *s << name_of(c.in) << "->" << name_of(c.out) << " " << c.M << "x" << c.N << "x" << c.K;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  const int64_t sizes[][3] = {{0, 4, 4},     {1, 1, 1},      {3, 5, 0},      {7, 13, 5},
                              {64, 48, 100}, {300, 530, 65}, {20, 700, 1500}};
  for (const Device device : test::devices())
    for (const auto& [M, N, K] : sizes)
      for (const auto& [in, result] : {std::pair{DType::f32, DType::f32},
                                       {DType::bf16, DType::bf16},
                                       {DType::bf16, DType::f32}})
        out.push_back({device, in, result, M, N, K});
  return out;
}

class MatmulTest : public testing::TestWithParam<Case> {};

// |error| of a sum of K products: K roundings of f32 at most, plus that of the store.
double tolerance(const Case& c, double magnitude) {
  return (static_cast<double>(c.K) + 2) * 0x1p-24 * magnitude +
         test::unit_roundoff(c.out) * magnitude;
}

TEST_P(MatmulTest, AgreesWithTheFormulaInEveryOrientation) {
  const Case& c = GetParam();
  Stream s = test::stream(c.device);
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      for (const bool accumulate : {false, true}) {
        const auto a = test::Tensor(c.device, c.in, trans_a ? Shape{c.K, c.M} : Shape{c.M, c.K})
                           .fill_normal(1);
        const auto b = test::Tensor(c.device, c.in, trans_b ? Shape{c.N, c.K} : Shape{c.K, c.N})
                           .fill_normal(2);
        auto out = test::Tensor(c.device, c.out, {c.M, c.N});
        if (accumulate) {
          out.fill_normal(3);
        } else {
          out.poison();
        }
        const auto before = out.values(), av = a.values(), bv = b.values();
        matmul(s, {.out = out,
                   .a = a,
                   .b = b,
                   .trans_a = trans_a,
                   .trans_b = trans_b,
                   .accumulate = accumulate});
        s.synchronize();
        const auto got = out.values();
        const auto at = [](int64_t r, int64_t k, int64_t ld) {
          return static_cast<size_t>(r * ld + k);
        };
        for (int64_t i = 0; i < c.M; ++i) {
          for (int64_t j = 0; j < c.N; ++j) {
            double sum = accumulate ? before[at(i, j, c.N)] : 0, magnitude = std::abs(sum);
            for (int64_t k = 0; k < c.K; ++k) {
              const double x = av[trans_a ? at(k, i, c.M) : at(i, k, c.K)] *
                               bv[trans_b ? at(j, k, c.K) : at(k, j, c.N)];
              sum += x;
              magnitude += std::abs(x);
            }
            ASSERT_NEAR(got[at(i, j, c.N)], sum, tolerance(c, magnitude));
          }
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EveryDeviceTypeAndSize, MatmulTest, testing::ValuesIn(cases()));

// Columns of a wider tensor as operands and result; what lies beside the result stays as it was.
TEST(Matmul, WorksOnStridedRowsAndWritesNothingElse) {
  for (const Device device : test::devices()) {
    const auto wide_a = test::Tensor(device, DType::f32, {5, 20}).fill_normal(1);
    const auto wide_b = test::Tensor(device, DType::f32, {4, 20}).fill_normal(2);
    auto wide_out = test::Tensor(device, DType::f32, {5, 10}).poison();
    Stream s = test::stream(device);
    matmul(s, {.out = wide_out.view().columns(3, 7),
               .a = wide_a.view().columns(8, 16),
               .b = wide_b.view().columns(1, 9),
               .trans_b = true});
    s.synchronize();
    for (int64_t i = 0; i < 5; ++i) {
      for (int64_t j = 0; j < 10; ++j) {
        if (j < 3 || j >= 7) {
          EXPECT_TRUE(wide_out.poisoned(i * 10 + j));
          continue;
        }
        double sum = 0;
        for (int64_t k = 0; k < 8; ++k)
          sum += wide_a[i * 20 + 8 + k] * wide_b[(j - 3) * 20 + 1 + k];
        EXPECT_NEAR(wide_out[i * 10 + j], sum, 1e-5);
      }
    }
  }
}

TEST(Matmul, GivesTheSameBitsOnAnyNumberOfThreads) {
  const auto a = test::Tensor(Device::cpu(), DType::f32, {515, 300}).fill_normal(1);
  const auto b = test::Tensor(Device::cpu(), DType::f32, {700, 300}).fill_normal(2);
  std::vector<double> first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    Stream s(Device::cpu(), &pool);
    const auto out = test::Tensor(Device::cpu(), DType::f32, {515, 700}).poison();
    matmul(s, {.out = out, .a = a, .b = b, .trans_b = true});
    if (first.empty()) first = out.values();
    EXPECT_EQ(out.values(), first);
  }
}

TEST(Matmul, NamesShapesThatDoNotFit) {
  const test::Tensor a(Device::cpu(), DType::f32, {4, 8}), b(Device::cpu(), DType::f32, {7, 5}),
      out(Device::cpu(), DType::f32, {4, 5});
  Stream s = test::stream(Device::cpu());
  EXPECT_THAT([&] { matmul(s, {.out = out, .a = a, .b = b}); },
              ThrowsMessage<Error>(HasSubstr(
                  "matmul: out f32 [4, 5] = a f32 [4, 8] b f32 [7, 5]: shapes do not fit")));
}

struct Routing {
  const char* name;
  std::vector<int32_t> rows;  // of each expert
};
class GroupedTest : public testing::TestWithParam<Routing> {};

test::Tensor offsets_of(Device device, const std::vector<int32_t>& rows) {
  std::vector<double> offsets{0};
  for (const int32_t n : rows) offsets.push_back(offsets.back() + n);
  auto t = test::Tensor(device, DType::i32, {static_cast<int64_t>(offsets.size())});
  t.set(offsets);
  return t;
}

TEST_P(GroupedTest, EachExpertMultipliesItsRowsAndNoOthers) {
  const std::vector<int32_t>& rows = GetParam().rows;
  const auto E = static_cast<int64_t>(rows.size());
  constexpr int64_t N = 13, K = 21, kUnused = 3;
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    const auto offsets = offsets_of(device, rows);
    const auto used = static_cast<int64_t>(offsets[E]);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto x = test::Tensor(device, dtype, {used + kUnused, K}).fill_normal(1);
      const auto dy = test::Tensor(device, dtype, {used + kUnused, N}).fill_normal(2);
      for (const bool trans_b : {false, true}) {
        const auto w =
            test::Tensor(device, dtype, trans_b ? Shape{E, N, K} : Shape{E, K, N}).fill_normal(3);
        const auto out = test::Tensor(device, dtype, {used + kUnused, N}).poison();
        grouped_matmul(s, {.out = out, .a = x, .b = w, .offsets = offsets, .trans_b = trans_b});
        s.synchronize();
        const auto got = out.values(), xv = x.values(), wv = w.values();
        for (int64_t e = 0; e < E; ++e)
          for (auto r = static_cast<int64_t>(offsets[e]); r < static_cast<int64_t>(offsets[e + 1]);
               ++r)
            for (int64_t j = 0; j < N; ++j) {
              double sum = 0, magnitude = 0;
              for (int64_t k = 0; k < K; ++k) {
                const double p =
                    xv[static_cast<size_t>(r * K + k)] *
                    wv[static_cast<size_t>(e * N * K + (trans_b ? j * K + k : k * N + j))];
                sum += p;
                magnitude += std::abs(p);
              }
              ASSERT_NEAR(got[static_cast<size_t>(r * N + j)], sum,
                          2 * test::unit_roundoff(dtype) * magnitude + 1e-5);
            }
        for (int64_t i = used * N; i < out.count(); ++i)
          ASSERT_TRUE(out.poisoned(i)) << "beyond the last row";
      }
      for (const bool accumulate : {false, true}) {
        auto out = test::Tensor(device, DType::f32, {E, N, K});
        if (accumulate) {
          out.fill_normal(4);
        } else {
          out.poison();
        }
        const auto before = out.values();
        grouped_wgrad(s,
                      {.out = out, .dy = dy, .x = x, .offsets = offsets, .accumulate = accumulate});
        s.synchronize();
        const auto got = out.values(), xv = x.values(), dv = dy.values();
        for (int64_t e = 0; e < E; ++e)
          for (int64_t j = 0; j < N; ++j)
            for (int64_t k = 0; k < K; ++k) {
              const auto at = static_cast<size_t>((e * N + j) * K + k);
              double sum = accumulate ? before[at] : 0;
              for (auto r = static_cast<int64_t>(offsets[e]);
                   r < static_cast<int64_t>(offsets[e + 1]); ++r)
                sum += dv[static_cast<size_t>(r * N + j)] * xv[static_cast<size_t>(r * K + k)];
              ASSERT_NEAR(got[at], sum, 2e-4);
            }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EveryRouting, GroupedTest,
                         testing::Values(Routing{"even", {8, 8, 8, 8}},
                                         Routing{"empty_experts", {0, 5, 0, 300, 0}},
                                         Routing{"one_row", {1, 0, 0}},
                                         Routing{"all_to_one", {0, 0, 600}},
                                         Routing{"none", {0, 0, 0}}),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace nereus::ops
