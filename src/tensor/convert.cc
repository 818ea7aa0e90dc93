#include "tensor/convert.h"

#include <array>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace nereus {
namespace {

uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

constexpr std::array<float, 256> f8e4m3_table() {
  std::array<float, 256> table{};
  for (unsigned i = 0; i < 256; ++i) {
    const unsigned exponent = (i >> 3) & 15, mantissa = i & 7;
    float value = 0;
    if (exponent == 15 && mantissa == 7) {
      value = std::numeric_limits<float>::quiet_NaN();
    } else {
      // Units of 2^-9, the smallest subnormal: (8 + mantissa) 2^(exponent - 1), or the mantissa.
      value = static_cast<float>(exponent == 0 ? mantissa : (8 + mantissa) << (exponent - 1));
      value /= 512;
    }
    table[i] = (i & 128) != 0 ? -value : value;
  }
  return table;
}
constexpr std::array<float, 256> kF8E4M3 = f8e4m3_table();

// Applies `convert` to n elements of E at src, which need not be aligned.
template <class E, class Convert>
void read_each(const std::byte* src, int64_t n, float* dst, Convert convert) {
  for (int64_t i = 0; i < n; ++i) {
    E x;
    memcpy(&x, src + i * static_cast<int64_t>(sizeof(E)), sizeof(E));
    dst[i] = convert(x);
  }
}
template <class E, class Convert>
void write_each(const float* src, int64_t n, std::byte* dst, Convert convert) {
  for (int64_t i = 0; i < n; ++i) {
    const E x = convert(src[i]);
    memcpy(dst + i * static_cast<int64_t>(sizeof(E)), &x, sizeof(E));
  }
}

}  // namespace

float f16_to_f32(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return float_of(bits_of(magnitude) | sign);
  }
  if (exponent == 31) return float_of(sign | 0x7f800000u | (mantissa << 13));
  return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t f32_to_f16(float x) {
  const uint32_t u = bits_of(x), magnitude = u & 0x7fffffffu;
  const uint32_t sign = (u >> 16) & 0x8000u;
  uint32_t h;
  if (magnitude > 0x7f800000u) {
    h = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {
    h = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude >= 0x38800000u) {
    // Rebias the exponent by 112; the carry of rounding moves into it rightly.
    h = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {
    // In 0.5 + |x| the last mantissa bit is 2^-24, f16's smallest subnormal: the adder rounds.
    h = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  }
  return static_cast<uint16_t>(sign | h);
}

float f8e4m3_to_f32(uint8_t bits) { return kF8E4M3[bits]; }

bool is_float(DType t) {
  switch (t) {
    case DType::f64:
    case DType::f32:
    case DType::bf16:
    case DType::f16:
    case DType::f8e4m3:
      return true;
    case DType::i64:
    case DType::i32:
    case DType::i16:
    case DType::u8:
      return false;
  }
  return false;
}

void convert_to_f32(DType dtype, const std::byte* src, int64_t n, float* dst) {
  if (n <= 0) return;
  switch (dtype) {
    case DType::f32:
      memcpy(dst, src, static_cast<size_t>(n) * 4);
      return;
    case DType::f64:
      return read_each<double>(src, n, dst, [](double x) { return static_cast<float>(x); });
    case DType::bf16:
      return read_each<bf16>(src, n, dst, [](bf16 x) { return static_cast<float>(x); });
    case DType::f16:
      return read_each<uint16_t>(src, n, dst, f16_to_f32);
    case DType::f8e4m3:
      return read_each<uint8_t>(src, n, dst, f8e4m3_to_f32);
    default:
      NEREUS_FAIL(kContract, "convert_to_f32 does not read {}", name_of(dtype));
  }
}

void convert_from_f32(DType dtype, const float* src, int64_t n, std::byte* dst) {
  if (n <= 0) return;
  switch (dtype) {
    case DType::f32:
      memcpy(dst, src, static_cast<size_t>(n) * 4);
      return;
    case DType::f64:
      return write_each<double>(src, n, dst, [](float x) { return static_cast<double>(x); });
    case DType::bf16:
      return write_each<bf16>(src, n, dst, [](float x) { return bf16(x); });
    case DType::f16:
      return write_each<uint16_t>(src, n, dst, f32_to_f16);
    default:
      NEREUS_FAIL(kContract, "convert_from_f32 does not write {}", name_of(dtype));
  }
}

}  // namespace nereus
