#include "ops/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

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

// Columns of a wider tensor as operands and result; what lies around the result stays as it was.
TEST(Matmul, WorksOnStridedRowsAndWritesNothingElse) {
  constexpr int64_t M = 13, N = 21, K = 10, W = 40;  // W: width of the wider tensors
  for (const Device device : test::devices()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int orientation : {0, 1, 2, 3}) {
        const bool trans_a = (orientation & 1) != 0, trans_b = (orientation & 2) != 0;
        auto wide_a = test::Tensor(device, dtype, {trans_a ? K : M, W});
        auto wide_b = test::Tensor(device, dtype, {trans_b ? N : K, W});
        auto wide_out = test::Tensor(device, dtype, {M, W});
        wide_a.fill_normal(1);
        wide_b.fill_normal(2);
        wide_out.poison();
        Stream s = test::stream(device);
        matmul(s, {.out = wide_out.view().columns(3, 3 + N),
                   .a = wide_a.view().columns(8, 8 + (trans_a ? M : K)),
                   .b = wide_b.view().columns(1, 1 + (trans_b ? K : N)),
                   .trans_a = trans_a,
                   .trans_b = trans_b});
        s.synchronize();
        const auto got = wide_out.values(), av = wide_a.values(), bv = wide_b.values();
        const auto at = [](int64_t r, int64_t c) { return static_cast<size_t>(r * W + c); };
        for (int64_t i = 0; i < M; ++i) {
          for (int64_t j = 0; j < W; ++j) {
            if (j < 3 || j >= 3 + N) {
              ASSERT_TRUE(wide_out.poisoned(i * W + j)) << "outside of the result";
              continue;
            }
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < K; ++k) {
              const double x = av[trans_a ? at(k, 8 + i) : at(i, 8 + k)] *
                               bv[trans_b ? at(j - 3, 1 + k) : at(k, 1 + j - 3)];
              sum += x;
              magnitude += std::abs(x);
            }
            ASSERT_NEAR(got[at(i, j)], sum, tolerance({device, dtype, dtype, M, N, K}, magnitude));
          }
        }
      }
    }
  }
}

// Shapes of the debug and the tiny model; a sample of the elements, since a judge in double is
// slow.
TEST(Matmul, AgreesWithTheFormulaAtShapesOfModels) {
  struct Real {
    int64_t M, N, K;
    bool trans_a, trans_b, accumulate;
  };
  constexpr Real kReal[] = {
      {1024, 3072, 256, false, true, false}, {1024, 256, 2048, false, false, false},
      {576, 256, 1024, true, false, true},   {1024, 8, 256, false, true, false},
      {128, 20000, 128, false, true, false}, {128, 128, 20000, false, false, false},
      {20000, 128, 128, true, false, true}};
  for (const Device device : test::devices()) {
    for (const auto& [M, N, K, trans_a, trans_b, accumulate] : kReal) {
      auto a = test::Tensor(device, DType::f32, trans_a ? Shape{K, M} : Shape{M, K});
      auto b = test::Tensor(device, DType::f32, trans_b ? Shape{N, K} : Shape{K, N});
      auto out = test::Tensor(device, DType::f32, {M, N});
      a.fill_normal(1);
      b.fill_normal(2);
      out.fill(0.5);
      Stream s = test::stream(device);
      matmul(s, {.out = out,
                 .a = a,
                 .b = b,
                 .trans_a = trans_a,
                 .trans_b = trans_b,
                 .accumulate = accumulate});
      s.synchronize();
      const auto av = a.values(), bv = b.values(), got = out.values();
      for (int64_t sample = 0; sample < 500; ++sample) {
        // The corners, then a walk that meets all residues of the tiles.
        const int64_t i = sample < 4 ? (sample & 1) * (M - 1) : sample * 7919 % M;
        const int64_t j = sample < 4 ? (sample >> 1) * (N - 1) : sample * 104729 % N;
        double sum = accumulate ? 0.5 : 0, magnitude = sum;
        for (int64_t k = 0; k < K; ++k) {
          const double x = av[static_cast<size_t>(trans_a ? k * M + i : i * K + k)] *
                           bv[static_cast<size_t>(trans_b ? j * K + k : k * N + j)];
          sum += x;
          magnitude += std::abs(x);
        }
        // Roundings of a chain of K: they grow as its root in practice, and never beyond K.
        ASSERT_NEAR(got[static_cast<size_t>(i * N + j)], sum,
                    8 * std::sqrt(static_cast<double>(K)) * 0x1p-24 * magnitude)
            << M << "x" << N << "x" << K << " at " << i << ", " << j;
      }
    }
  }
}

std::vector<double> on_threads(int threads, const std::function<void(Stream&)>& work,
                               const test::Tensor& out) {
  ThreadPool pool(threads);
  Stream s(Device::cpu(), &pool);
  work(s);
  return out.values();
}

TEST(Matmul, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int orientation : {0, 1, 2, 3}) {
      const bool trans_a = (orientation & 1) != 0, trans_b = (orientation & 2) != 0;
      auto a = test::Tensor(Device::cpu(), dtype, trans_a ? Shape{300, 515} : Shape{515, 300});
      auto b = test::Tensor(Device::cpu(), dtype, trans_b ? Shape{700, 300} : Shape{300, 700});
      a.fill_normal(1);
      b.fill_normal(2);
      std::vector<double> first;
      for (const int threads : {1, 2, 5}) {
        auto out = test::Tensor(Device::cpu(), dtype, {515, 700});
        out.poison();
        const auto got = on_threads(
            threads,
            [&](Stream& s) {
              matmul(s, {.out = out, .a = a, .b = b, .trans_a = trans_a, .trans_b = trans_b});
            },
            out);
        if (first.empty()) first = got;
        EXPECT_EQ(got, first) << threads << " threads";
      }
    }
  }
}

TEST(Matmul, RefusesAResultWhereAnOperandLies) {
  const test::Tensor a(Device::cpu(), DType::f32, {4, 4}), b(Device::cpu(), DType::f32, {4, 4});
  Stream s = test::stream(Device::cpu());
  EXPECT_THAT([&] { matmul(s, {.out = a, .a = a, .b = b}); },
              ThrowsMessage<Error>(HasSubstr("matmul: out f32 [4, 4] is where a lies")));
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

TEST(Grouped, GivesTheSameBitsOnAnyNumberOfThreads) {
  constexpr int64_t E = 4, N = 300, K = 270;
  const auto offsets = offsets_of(Device::cpu(), {600, 0, 1, 130});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto x = test::Tensor(Device::cpu(), dtype, {731, K});
    auto dy = test::Tensor(Device::cpu(), dtype, {731, N});
    auto w = test::Tensor(Device::cpu(), dtype, {E, N, K});
    x.fill_normal(1);
    dy.fill_normal(2);
    w.fill_normal(3);
    std::vector<double> forward, wgrad;
    for (const int threads : {1, 2, 5}) {
      const test::Tensor y(Device::cpu(), dtype, {731, N}),
          dw(Device::cpu(), DType::f32, {E, N, K});
      const auto y_got = on_threads(
          threads,
          [&](Stream& s) {
            grouped_matmul(s, {.out = y, .a = x, .b = w, .offsets = offsets, .trans_b = true});
          },
          y);
      const auto dw_got = on_threads(
          threads,
          [&](Stream& s) { grouped_wgrad(s, {.out = dw, .dy = dy, .x = x, .offsets = offsets}); },
          dw);
      if (forward.empty()) {
        forward = y_got;
        wgrad = dw_got;
      }
      EXPECT_EQ(y_got, forward) << threads << " threads";
      EXPECT_EQ(dw_got, wgrad) << threads << " threads";
    }
  }
}

// An expert's GEMM is the dense one of its rows, bit for bit.
TEST(Grouped, AnExpertIsADenseProduct) {
  constexpr int64_t N = 48, K = 600;
  auto x = test::Tensor(Device::cpu(), DType::f32, {40, K});
  auto w = test::Tensor(Device::cpu(), DType::f32, {2, N, K});
  x.fill_normal(1);
  w.fill_normal(2);
  const test::Tensor grouped(Device::cpu(), DType::f32, {40, N}),
      dense(Device::cpu(), DType::f32, {29, N});
  Stream s = test::stream(Device::cpu());
  grouped_matmul(s, {.out = grouped,
                     .a = x,
                     .b = w,
                     .offsets = offsets_of(Device::cpu(), {11, 29}),
                     .trans_b = true});
  matmul(s, {.out = dense, .a = x.view().rows(11, 40), .b = w.view()[1], .trans_b = true});
  for (int64_t i = 0; i < 29 * N; ++i) ASSERT_EQ(grouped[11 * N + i], dense[i]);
}

TEST(Grouped, RefusesOffsetsThatLeaveTheRows) {
  const test::Tensor x(Device::cpu(), DType::f32, {4, 8}), w(Device::cpu(), DType::f32, {2, 6, 8}),
      y(Device::cpu(), DType::f32, {4, 6}), narrow(Device::cpu(), DType::f32, {4, 5});
  Stream s = test::stream(Device::cpu());
  const auto run = [&](const test::Tensor& out, const std::vector<double>& values) {
    auto offsets = test::Tensor(Device::cpu(), DType::i32, {3});
    offsets.set(values);
    grouped_matmul(s, {.out = out, .a = x, .b = w, .offsets = offsets, .trans_b = true});
  };
  EXPECT_THAT(
      [&] {
        run(y, {0, 2, 5});
      },
      ThrowsMessage<Error>(HasSubstr("offsets run from 0 to 5, expected from 0 to at most 4")));
  EXPECT_THAT(
      [&] {
        run(y, {0, 3, 2});
      },
      ThrowsMessage<Error>(HasSubstr("offsets[1] = 3 > offsets[2] = 2")));
  EXPECT_THAT(
      [&] {
        run(narrow, {0, 2, 4});
      },
      ThrowsMessage<Error>(HasSubstr("grouped_matmul: out is f32 [4, 5], expected f32 [4, 6]")));
}

}  // namespace
}  // namespace nereus::ops
