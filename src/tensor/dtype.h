// Element types. bf16 is stored in 16 bits and computed in f32: widening is exact, narrowing rounds
// to nearest even and keeps NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/hostdevice.h"

namespace nereus {

enum class DType : uint8_t { f32, bf16, f16, f8e4m3, f64, i64, i32, i16, u8 };

constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::i16:
      return 2;
    case DType::f8e4m3:
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::f8e4m3:
      return "f8e4m3";
    case DType::f64:
      return "f64";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::i16:
      return "i16";
    case DType::u8:
      return "u8";
  }
  return "?";
}

struct bf16 {
  uint16_t bits;

  bf16() = default;
  NEREUS_HD explicit bf16(float x) {
#ifdef __CUDA_ARCH__  // one instruction, the same rounding
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);  // a quiet NaN stays one
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
#endif
  }
  NEREUS_HD explicit operator float() const {
    const uint32_t u = uint32_t{bits} << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
  }
};
static_assert(sizeof(bf16) == 2);

// Calls f.template operator()<E>() with E = float or bf16. Returns false for any other type.
template <class F>
bool visit_float(DType t, F&& f) {
  if (t == DType::f32) {
    f.template operator()<float>();
  } else if (t == DType::bf16) {
    f.template operator()<bf16>();
  } else {
    return false;
  }
  return true;
}

}  // namespace nereus
