// Conversion of host elements between the stored float types and f32.
//
// To f32 exact for all but f64; from f32, and f64 to f32, to the nearest, ties to even: beyond the
// type's range to infinity, below its smallest normal number through the subnormal ones. NaN stays
// NaN.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace nereus {

// float16 (1 sign, 5 exponent, 10 mantissa bits) and f8e4m3 ("fn": no infinity, NaN is 0x7f and
// 0xff).
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float);
float f8e4m3_to_f32(uint8_t bits);

bool is_float(DType);

// n elements of `dtype` at `src`, of any alignment. Throws Error{kContract} for integer types.
void convert_to_f32(DType dtype, const std::byte* src, int64_t n, float* dst);

// n elements of `dtype` (f64, f32, bf16, f16) to `dst`, of any alignment.
void convert_from_f32(DType dtype, const float* src, int64_t n, std::byte* dst);

}  // namespace nereus
