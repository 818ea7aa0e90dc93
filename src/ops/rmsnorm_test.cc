#include "ops/rmsnorm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

struct Case {
  Device device;
  DType dtype;
  int64_t T, D;
};
void PrintTo(const Case& c, std::ostream* s) { *s << name_of(c.dtype) << " " << c.T << "x" << c.D; }

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const auto& [T, D] :
           {std::pair<int64_t, int64_t>{0, 8},
            {1, 1},
            {5, 67},
            {33, 512},
            {2, 7168},
            // Several rows for each warp or thread block of a GPU, and every plan of its kernels.
            {9000, 64},
            {1700, 256},
            {2500, 1536},
            {301, 1000},
            {9, 3200},
            {600, 7168},
            {3, 8200},
            {2, 17000}})
        out.push_back({device, dtype, T, D});
  return out;
}

class RmsNormTest : public testing::TestWithParam<Case> {};
constexpr double kEps = 1e-5;

TEST_P(RmsNormTest, ForwardAndBackwardAgreeWithTheFormulas) {
  const auto& [device, dtype, T, D] = GetParam();
  const auto x = test::Tensor(device, dtype, {T, D}).fill_normal(1),
             a = test::Tensor(device, dtype, {T, D}).fill_normal(2);
  const auto w = test::Tensor(device, DType::f32, {D}).fill_normal(3, 1, 0.5);
  const auto dy = test::Tensor(device, dtype, {T, D}).fill_normal(4),
             r = test::Tensor(device, dtype, {T, D}).fill_normal(5);
  const auto y = test::Tensor(device, dtype, {T, D}).poison(),
             sum = test::Tensor(device, dtype, {T, D}).poison();
  const auto rstd = test::Tensor(device, DType::f32, {T}).poison();
  Stream s = test::stream(device);
  rmsnorm_forward(s, {.y = y,
                      .rstd = rstd,
                      .sum = sum,
                      .x = x,
                      .addend = a,
                      .weight = w,
                      .eps = static_cast<float>(kEps)});
  const auto dx = test::Tensor(device, dtype, {T, D}).poison();
  auto dw = test::Tensor(device, DType::f32, {D}).fill_normal(6);
  const auto dw_before = dw.values();
  rmsnorm_backward(s, {.dx = dx,
                       .dweight = dw,
                       .dy = dy,
                       .x = sum,
                       .residual = r,
                       .weight = w,
                       .rstd = rstd,
                       .accumulate = true});
  s.synchronize();

  const double u = test::unit_roundoff(dtype);
  const auto xs = x.values(), as = a.values(), ws = w.values(), dys = dy.values(), rs = r.values(),
             sums = sum.values();
  const auto ys = y.values(), dxs = dx.values(), dws = dw.values(), rstds = rstd.values();
  std::vector<double> want_dw = dw_before, dw_magnitude(static_cast<size_t>(D));
  for (size_t t = 0; t < static_cast<size_t>(T); ++t) {
    const auto at = [&](size_t d) { return t * static_cast<size_t>(D) + d; };
    double squares = 0, dot = 0;
    for (size_t d = 0; d < static_cast<size_t>(D); ++d) {
      ASSERT_NEAR(sums[at(d)], xs[at(d)] + as[at(d)], u * std::abs(xs[at(d)] + as[at(d)]));
      squares += sums[at(d)] * sums[at(d)];
    }
    const double want_rstd = 1 / std::sqrt(squares / static_cast<double>(D) + kEps);
    // A lane of the sum rounds D / 8 times, then the tree, the root and the division.
    ASSERT_NEAR(rstds[t], want_rstd, (static_cast<double>(D) / 8 + 8) * 0x1p-24 * want_rstd);
    for (size_t d = 0; d < static_cast<size_t>(D); ++d)
      dot += dys[at(d)] * ws[d] * sums[at(d)] * want_rstd;
    for (size_t d = 0; d < static_cast<size_t>(D); ++d) {
      const double n = sums[at(d)] * want_rstd;
      ASSERT_NEAR(ys[at(d)], n * ws[d], (u + 1e-6) * std::abs(n * ws[d]));
      const double want =
          want_rstd * (dys[at(d)] * ws[d] - n * dot / static_cast<double>(D)) + rs[at(d)];
      ASSERT_NEAR(dxs[at(d)], want, u * std::abs(want) + 1e-5 * (1 + want_rstd));
      want_dw[d] += dys[at(d)] * n;
      dw_magnitude[d] += std::abs(dys[at(d)] * n);
    }
  }
  for (size_t d = 0; d < static_cast<size_t>(D); ++d)
    ASSERT_NEAR(dws[d], want_dw[d],
                1e-6 + ((static_cast<double>(D) / 8 + 16) * 0x1p-24) * dw_magnitude[d]);
}
INSTANTIATE_TEST_SUITE_P(EveryDeviceTypeAndSize, RmsNormTest, testing::ValuesIn(cases()));

TEST(RmsNorm, WritesOnlyItsColumnsAndRoundsTheNormalisedValueWhenAsked) {
  for (const Device device : test::devices()) {
    const auto x = test::Tensor(device, DType::bf16, {3, 12}).fill_normal(1);
    const auto w = test::Tensor(device, DType::f32, {8}).fill_normal(2, 1, 0.3);
    const auto y = test::Tensor(device, DType::bf16, {3, 12}).poison();
    const auto rstd = test::Tensor(device, DType::f32, {3}).poison();
    Stream s = test::stream(device);
    rmsnorm_forward(s, {.y = y.view().columns(2, 10),
                        .rstd = rstd,
                        .x = x.view().columns(4, 12),
                        .weight = w,
                        .eps = 1e-6f,
                        .round_normalized = true});
    s.synchronize();
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t d = 0; d < 12; ++d) {
        if (d < 2 || d >= 10) {
          EXPECT_TRUE(y.poisoned(t * 12 + d));
          continue;
        }
        const auto n = static_cast<float>(x[t * 12 + d + 2]) * static_cast<float>(rstd[t]);
        const auto rounded = static_cast<float>(bf16(n));
        EXPECT_EQ(y[t * 12 + d], static_cast<float>(bf16(rounded * static_cast<float>(w[d - 2]))));
      }
  }
}

// The latents of MLA at their real widths, which a GPU does in one launch, and others.
TEST(RmsNormPair, GivesWhatItsTwoNormsGive) {
  struct Sizes {
    DType dtype;
    int64_t T, first, second;
  };
  for (const Device device : test::devices())
    for (const auto& [dtype, T, first, second] : {Sizes{DType::bf16, 1, 1536, 512},
                                                  {DType::bf16, 5000, 1536, 512},
                                                  {DType::f32, 40, 1536, 512},
                                                  {DType::bf16, 40, 24, 8},
                                                  {DType::bf16, 0, 1536, 512}}) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << " " << T << "x" << first);
      const int64_t width = first + second + 64;
      const auto x = test::Tensor(device, dtype, {T, width}).fill_normal(1),
                 dx = test::Tensor(device, dtype, {T, width}).poison(),
                 want_dx = test::Tensor(device, dtype, {T, width}).poison();
      struct Norm {
        int64_t begin, end;
        test::Tensor weight, dy, y, rstd, dweight, want_y, want_rstd, want_dweight;
      };
      const auto norm = [&](int64_t begin, int64_t end) {
        const int64_t D = end - begin;
        return Norm{begin,
                    end,
                    test::Tensor(device, DType::f32, {D}).fill_normal(2, 1, 0.5),
                    test::Tensor(device, dtype, {T, D}).fill_normal(3),
                    test::Tensor(device, dtype, {T, D}).poison(),
                    test::Tensor(device, DType::f32, {T}).poison(),
                    test::Tensor(device, DType::f32, {D}).fill_normal(4),
                    test::Tensor(device, dtype, {T, D}).poison(),
                    test::Tensor(device, DType::f32, {T}).poison(),
                    test::Tensor(device, DType::f32, {D}).fill_normal(4)};
      };
      const Norm q = norm(0, first), kv = norm(first, first + second);
      const auto forward = [&](const Norm& n, bool want) {
        return RmsNormForward{.y = want ? n.want_y : n.y,
                              .rstd = want ? n.want_rstd : n.rstd,
                              .x = x.view().columns(n.begin, n.end),
                              .weight = n.weight,
                              .eps = 1e-6f};
      };
      // The first dweight is added to, the second written.
      const auto backward = [&](const Norm& n, bool want) {
        return RmsNormBackward{.dx = (want ? want_dx : dx).view().columns(n.begin, n.end),
                               .dweight = want ? n.want_dweight : n.dweight,
                               .dy = n.dy,
                               .x = x.view().columns(n.begin, n.end),
                               .weight = n.weight,
                               .rstd = n.want_rstd,
                               .accumulate = n.begin == 0};
      };
      Stream s = test::stream(device);
      for (const Norm* n : {&q, &kv}) {
        rmsnorm_forward(s, forward(*n, true));
        rmsnorm_backward(s, backward(*n, true));
      }
      rmsnorm_pair_forward(s, {.first = forward(q, false), .second = forward(kv, false)});
      rmsnorm_pair_backward(s, {.first = backward(q, false), .second = backward(kv, false)});
      s.synchronize();

      const double u = test::unit_roundoff(dtype);
      const auto near = [&](const test::Tensor& got, const test::Tensor& want, double relative,
                            double absolute) {
        const auto a = got.values(), b = want.values();
        ASSERT_EQ(a.size(), b.size());
        for (size_t i = 0; i < a.size(); ++i) {
          if (std::isnan(b[i])) {  // poison that neither wrote
            ASSERT_TRUE(std::isnan(a[i])) << i;
          } else {
            ASSERT_NEAR(a[i], b[i], relative * std::abs(b[i]) + absolute) << i;
          }
        }
      };
      near(dx, want_dx, 2 * u, 1e-6);
      for (const Norm* n : {&q, &kv}) {
        near(n->y, n->want_y, 2 * u, 0);
        near(n->rstd, n->want_rstd, 0x1p-22, 0);
        // Sums of T products of about 1, in another order.
        near(n->dweight, n->want_dweight, 0, 0x1p-24 * 16 * std::sqrt(static_cast<double>(T)) * 8);
      }
    }
}

TEST(RmsNormErrors, NamesTheRowsOfAPairThatDiffer) {
  const test::Tensor x(Device::cpu(), DType::f32, {4, 8}), y(Device::cpu(), DType::f32, {4, 8}),
      rstd(Device::cpu(), DType::f32, {4}), weight(Device::cpu(), DType::f32, {8});
  Stream s = test::stream(Device::cpu());
  const RmsNormForward whole{.y = y, .rstd = rstd, .x = x, .weight = weight};
  RmsNormForward part = whole;
  part.y = y.view().rows(0, 2);
  part.rstd = rstd.view().rows(0, 2);
  part.x = x.view().rows(0, 2);
  EXPECT_THAT([&] { rmsnorm_pair_forward(s, {.first = whole, .second = part}); },
              ThrowsMessage<Error>(HasSubstr(
                  "the first x is f32 [4, 8], the second f32 [2, 8], expected one type and as many "
                  "rows")));
}

TEST(RmsNormErrors, NamesTheTensorThatBreaksTheContract) {
  const test::Tensor x(Device::cpu(), DType::f32, {4, 8}), y(Device::cpu(), DType::f32, {4, 8}),
      rstd(Device::cpu(), DType::f32, {4}), weight(Device::cpu(), DType::f32, {16});
  Stream s = test::stream(Device::cpu());
  EXPECT_THAT(
      [&] { rmsnorm_forward(s, {.y = y, .rstd = rstd, .x = x, .weight = weight, .eps = 1e-6f}); },
      ThrowsMessage<Error>(HasSubstr("weight is f32 [16], expected f32 [8]")));
}

}  // namespace
}  // namespace nereus::ops
