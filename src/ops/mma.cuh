// The instructions that warps' tensor-core kernels are made of: loads of 8 x 8 matrices of bf16,
// products of 16 x 8 x 16. For .cu files only. Fragments, with lane l: g = l / 4, p = 2 (l % 4):
//
//   A [16 x 16]  a[0] = (g, p..p+1)  a[1] = (g+8, p..)  a[2] = (g, p+8..)  a[3] = (g+8, p+8..)
//   B [16 x 8]   b0 = (p..p+1, g)    b1 = (p+8.., g)
//   C [16 x 8]   c[0], c[1] = (g, p..p+1)               c[2], c[3] = (g+8, p..p+1)
//
// So a C fragment's pairs, packed, are an A fragment of the next product.
#pragma once

#include <cstdint>

#include "ops/async_copy.cuh"

namespace nereus::ops::cuda {

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8 and gets of matrix i
// the elements (g, p..p+1), transposed (p..p+1, g), in m[i].
__device__ inline void load_matrices(uint32_t (&m)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row)
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&m)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row)
               : "memory");
}

// c += a b
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline float shared_float(uint32_t address) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(x) : "r"(address) : "memory");
  return x;
}
__device__ inline int shared_int(uint32_t address) {
  int x;
  asm volatile("ld.shared.s32 %0, [%1];\n" : "=r"(x) : "r"(address) : "memory");
  return x;
}

// Two values rounded to bf16, the first in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// 2^x to 2 units in the last place; 0 for minus infinity.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace nereus::ops::cuda
