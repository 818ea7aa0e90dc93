#include "ops/split_master.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/philox.h"
#include "ops/optimizer.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// Every upper half with the lower halves at which rounding changes its mind, and a random one: all
// infinities, NaNs, zeros, subnormals and ties are among them.
std::vector<uint32_t> patterns() {
  std::vector<uint32_t> out;
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      out.push_back(high << 16 | low);
    out.push_back(high << 16 | (philox(1, high).v[0] & 0xffff));
  }
  return out;
}

template <class T>
std::vector<T> host(Stream& stream, const ConstTensorView& view) {
  std::vector<T> out(static_cast<size_t>(view.count()));
  copy_to_host(stream, out.data(), view);
  stream.synchronize();
  return out;
}

bool is_nan(uint32_t u) { return (u & 0x7fffffff) > 0x7f800000; }

// The formula of the header, in wide integers.
struct Parts {
  uint16_t copy;
  int64_t d;
};
Parts parts_of(uint32_t u) {
  const int64_t high = u >> 16, low = u & 0xffff;
  const bool up = low > 0x8000 || (low == 0x8000 && high % 2 == 1);
  return {static_cast<uint16_t>(high + up), low - (up ? 0x10000 : 0)};
}

TEST(SplitMaster, AndJoinMasterGiveEveryPatternBack) {
  const std::vector<uint32_t> bits = patterns();
  const auto n = static_cast<int64_t>(bits.size());
  for (const Device device : test::devices()) {
    for (const DType moments : {DType::f32, DType::bf16}) {
      Stream s = test::stream(device);
      const auto x = test::Tensor(device, DType::f32, {n}),
                 back = test::Tensor(device, DType::f32, {n}).poison(),
                 copy = test::Tensor(device, DType::bf16, {n}).poison(),
                 remainder = test::Tensor(device, DType::i16, {n}).poison(),
                 v = test::Tensor(device, moments, {n}).fill_normal(2);
      const std::vector<double> before = v.values();
      copy_to_device(s, x, bits.data());
      split_master(s, {.copy = copy, .remainder = remainder, .v = v, .x = x});
      join_master(s, {.x = back, .copy = copy, .remainder = remainder, .v = v});
      const auto b = host<uint32_t>(s, back);
      const auto c = host<uint16_t>(s, copy.view());
      const auto r = host<int16_t>(s, remainder.view());
      const std::vector<double> after = v.values();
      int64_t both[2] = {0, 0};  // ties of even copies, by side
      for (size_t i = 0; i < bits.size(); ++i) {
        ASSERT_EQ(std::abs(after[i]), std::abs(before[i]));
        if (is_nan(bits[i])) {
          ASSERT_TRUE(is_nan(b[i])) << std::hex << bits[i] << " came back as " << b[i];
          ASSERT_TRUE(is_nan(uint32_t{c[i]} << 16)) << std::hex << bits[i];
          continue;
        }
        const Parts want = parts_of(bits[i]);
        ASSERT_EQ(b[i], bits[i]) << std::hex << bits[i] << " came back as " << b[i];
        ASSERT_EQ(c[i], want.copy) << std::hex << bits[i];
        ASSERT_EQ(r[i], static_cast<int16_t>(want.d)) << std::hex << bits[i];
        ASSERT_EQ(std::signbit(after[i]), want.d == 0x8000) << std::hex << bits[i];
        if (std::abs(want.d) == 0x8000) ++both[want.d > 0];
      }
      EXPECT_GT(both[0], 30000);
      EXPECT_GT(both[1], 30000);
    }
  }
}

struct State {
  test::Tensor param, remainder, copy, m, v;
  State(Device device, DType moments, int64_t n)
      : param(device, DType::f32, {n}),
        remainder(device, DType::i16, {n}),
        copy(device, DType::bf16, {n}),
        m(test::Tensor(device, moments, {n}).fill_normal(5, 0, 0.1)),
        v(device, moments, {n}) {
    std::vector<double> squares = test::Tensor(device, moments, {n}).fill_normal(6).values();
    for (double& x : squares) x *= x;
    v.set(squares);
  }
};

// Masters of all finite patterns up to 2^100, so that ties of both sides go through the update. A
// rate of 0 leaves them as they are; whoever loses a bit is caught by the second one.
TEST(Adam, WithMastersInTwoPartsGivesTheBitsOfF32Masters) {
  std::vector<uint32_t> bits;
  for (const uint32_t u : patterns())
    if ((u >> 23 & 0xff) < 227 && u != 0x80000000) bits.push_back(u);  // -0 - (-0) is 0
  for (const Device device : test::devices()) {
    for (const DType moments : {DType::f32, DType::bf16}) {
      for (const int64_t odd : {0, 3}) {
        const int64_t n = static_cast<int64_t>(bits.size()) / 8 * 8 - odd;
        Stream s = test::stream(device);
        const State one(device, moments, n), two(device, moments, n);
        const auto coefficient = test::Tensor(device, DType::f32, {1}).fill(0.5);
        const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
        const auto joined = test::Tensor(device, DType::f32, {n}).poison();
        copy_to_device(s, one.param, bits.data());
        split_master(s, {.copy = two.copy, .remainder = two.remainder, .v = two.v, .x = one.param});
        for (const double lr : {0.0, 1e-3, 1e-6}) {
          const auto grad = test::Tensor(device, DType::f32, {n}).fill_normal(7);
          Adam a{.param = one.param,
                 .m = one.m,
                 .v = one.v,
                 .copy = one.copy,
                 .grad = grad,
                 .coefficient = coefficient,
                 .step_ok = ok,
                 .lr = lr,
                 .beta1 = 0.9,
                 .beta2 = 0.95,
                 .eps = 1e-8,
                 .weight_decay = 0.1};
          adam(s, a);
          a.param = {};
          a.remainder = two.remainder;
          a.copy = two.copy;
          a.m = two.m;
          a.v = two.v;
          adam(s, a);
          join_master(s, {.x = joined, .copy = two.copy, .remainder = two.remainder, .v = two.v});
          const auto want = host<uint32_t>(s, one.param.view());
          EXPECT_EQ(host<uint32_t>(s, joined.view()), want);
          if (lr == 0) {
            bits.resize(want.size());
            EXPECT_EQ(want, bits);
          }
          EXPECT_EQ(host<uint16_t>(s, two.copy.view()), host<uint16_t>(s, one.copy.view()));
          EXPECT_EQ(two.m.values(), one.m.values());
          std::vector<double> v = two.v.values();
          int64_t signs = 0;
          for (double& x : v) {
            signs += std::signbit(x);
            x = std::abs(x);
          }
          EXPECT_EQ(v, one.v.values());
          EXPECT_GT(signs, 0) << "ties that were rounded down";
        }
      }
    }
  }
}

TEST(Adam, WithARemainderNeedsTheCopyAlone) {
  const Device cpu = Device::cpu();
  Stream s = test::stream(cpu);
  const State state(cpu, DType::f32, 8);
  const auto grad = test::Tensor(cpu, DType::f32, {8}), one = test::Tensor(cpu, DType::f32, {1});
  const auto ok = test::Tensor(cpu, DType::i32, {1});
  const auto message = [&](TensorView param, TensorView copy) {
    try {
      adam(s, {.param = param,
               .remainder = state.remainder,
               .m = state.m,
               .v = state.v,
               .copy = copy,
               .grad = grad,
               .coefficient = one,
               .step_ok = ok});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message(state.param, state.copy).find("it needs the copy alone"), std::string::npos);
  EXPECT_NE(message({}, {}).find("it needs the copy alone"), std::string::npos);
  EXPECT_EQ(message({}, state.copy), "");
}

}  // namespace
}  // namespace nereus::ops
