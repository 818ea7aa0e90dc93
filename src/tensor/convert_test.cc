#include "tensor/convert.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/philox.h"

namespace nereus {
namespace {

// The value of a small float by its definition, in double.
double value_of(unsigned bits, int exponent_bits, int mantissa_bits) {
  const unsigned mantissa = bits & ((1u << mantissa_bits) - 1);
  const unsigned exponent = (bits >> mantissa_bits) & ((1u << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double fraction = mantissa / std::exp2(mantissa_bits);
  const double magnitude = exponent == 0
                               ? fraction * std::exp2(1 - bias)
                               : (1 + fraction) * std::exp2(static_cast<int>(exponent) - bias);
  return (bits >> (exponent_bits + mantissa_bits)) != 0 ? -magnitude : magnitude;
}

// The positive 16-bit float nearest to |x|, ties to even, found by halving.
unsigned nearest_bits(double x, int exponent_bits, int mantissa_bits) {
  const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  unsigned low = 0, high = infinity;  // value_of(infinity) is what the next power of two would be
  while (high - low > 1) {
    const unsigned middle = (low + high) / 2;
    (value_of(middle, exponent_bits, mantissa_bits) <= x ? low : high) = middle;
  }
  const double below = x - value_of(low, exponent_bits, mantissa_bits);
  const double above = value_of(high, exponent_bits, mantissa_bits) - x;
  if (below == above) return low % 2 == 0 ? low : high;
  return below < above ? low : high;
}

TEST(Convert, EveryFloat16ReadsAsItsDefinitionAndIsWrittenBackTheSame) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float x = f16_to_f32(static_cast<uint16_t>(bits));
    if ((bits & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(x)) << bits;
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(x)))) << bits;
      continue;
    }
    if ((bits & 0x7fff) == 0x7c00) {
      EXPECT_TRUE(std::isinf(x)) << bits;
    } else {
      ASSERT_EQ(x, value_of(bits, 5, 10)) << bits;
    }
    ASSERT_EQ(f32_to_f16(x), bits);
    ASSERT_EQ(std::signbit(x), bits >> 15 != 0);
  }
}

// Random numbers, and every midpoint of two neighbours with the floats beside it.
TEST(Convert, Float16AndBfloat16AreRoundedToTheNearestTiesToEven) {
  struct Format {
    DType dtype;
    int exponent_bits, mantissa_bits;
  };
  for (const Format f : {Format{DType::f16, 5, 10}, Format{DType::bf16, 8, 7}}) {
    std::vector<float> numbers = {0.0f, std::numeric_limits<float>::denorm_min(),
                                  std::numeric_limits<float>::max()};
    const unsigned infinity = ((1u << f.exponent_bits) - 1) << f.mantissa_bits;
    for (unsigned bits = 0; bits < infinity; ++bits) {
      const double middle = (value_of(bits, f.exponent_bits, f.mantissa_bits) +
                             value_of(bits + 1, f.exponent_bits, f.mantissa_bits)) /
                            2;
      if (middle > std::numeric_limits<float>::max()) continue;
      const float x = static_cast<float>(middle);
      numbers.push_back(x);
      numbers.push_back(std::nextafter(x, 0.0f));
      numbers.push_back(std::nextafter(x, std::numeric_limits<float>::infinity()));
    }
    for (uint64_t i = 0; i < 100'000; ++i) {
      const float x = std::bit_cast<float>(philox(7, i).v[0] & 0x7fffffffu);
      if (std::isfinite(x)) numbers.push_back(x);
    }
    for (const float x : numbers) {
      if (std::isinf(x)) continue;
      for (const float signed_x : {x, -x}) {
        std::array<std::byte, 2> stored{};
        convert_from_f32(f.dtype, &signed_x, 1, stored.data());
        uint16_t bits = 0;
        memcpy(&bits, stored.data(), 2);
        const unsigned sign = std::signbit(signed_x) ? 0x8000 : 0;
        ASSERT_EQ(bits,
                  sign | nearest_bits(static_cast<double>(x), f.exponent_bits, f.mantissa_bits))
            << name_of(f.dtype) << " " << signed_x;
      }
    }
  }
}

TEST(Convert, Float8E4M3ReadsAsItsDefinitionWithNaNAndNoInfinity) {
  for (unsigned bits = 0; bits < 256; ++bits) {
    const float x = f8e4m3_to_f32(static_cast<uint8_t>(bits));
    if ((bits & 127) == 127) {
      EXPECT_TRUE(std::isnan(x)) << bits;
    } else {
      EXPECT_EQ(x, value_of(bits, 4, 3)) << bits;
      EXPECT_EQ(std::signbit(x), bits > 127) << bits;
    }
  }
  EXPECT_EQ(f8e4m3_to_f32(0x7e), 448.0f);
}

TEST(Convert, AnyAlignmentAndCountIsReadAndWritten) {
  const std::vector<float> x = {1.5f, -2.25f, 0.0f, 448.0f, -0.0078125f};  // exact in all types
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (size_t n = 0; n <= x.size(); ++n) {
      const size_t bytes = n * static_cast<size_t>(size_of(dtype));
      std::vector<std::byte> stored(bytes + 2, std::byte{0x5a});
      convert_from_f32(dtype, x.data(), static_cast<int64_t>(n), stored.data() + 1);
      EXPECT_EQ(stored.front(), std::byte{0x5a});
      EXPECT_EQ(stored.back(), std::byte{0x5a});
      std::vector<float> back(n + 1, -7.0f);
      convert_to_f32(dtype, stored.data() + 1, static_cast<int64_t>(n), back.data());
      EXPECT_TRUE(std::equal(x.begin(), x.begin() + static_cast<int64_t>(n), back.begin()));
      EXPECT_EQ(back.back(), -7.0f) << name_of(dtype) << " " << n;
    }
  }
}

}  // namespace
}  // namespace nereus
