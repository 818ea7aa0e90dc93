#include "ops/gemm.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "ops/simd.h"

namespace nereus::ops::cpu {
namespace {

using simd::f32x8;
using simd::splat;

constexpr int64_t kRowsAtOnce = 96;  // packed rows of the left matrix: with kInner, 96 KiB of cache
constexpr int64_t kNarrow = 32;      // columns: below, packing the left matrix does not pay

struct Strides {
  int64_t row, inner, right_inner, c;
};

// f(0), f(1) ... f(N - 1) with constant arguments, so that arrays indexed by them stay in registers
// whatever the compiler thinks of unrolling.
template <int N, class F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>()), ...);
  }
  (std::make_integer_sequence<int, N>());
}

// R x 8 V elements of the result in registers: 12 of the 16 of AVX2, at R = 6 and V = 2.
template <int R, int V>
void tile(float* c, const Strides& stride, int64_t k, const float* left, const float* right,
          bool accumulate) {
  f32x8 sum[R * V];
  for (f32x8& s : sum) s = splat(0);
  for (int i = 0; i < R; ++i) __builtin_prefetch(c + i * stride.c);
  const int64_t row = stride.row, left_step = stride.inner, right_step = stride.right_inner;
  for (int64_t p = 0; p < k; ++p, left += left_step, right += right_step) {
    f32x8 b[V];
    unrolled<V>([&](auto j) __attribute__((always_inline)) { b[j] = simd::load(right + 8 * j); });
    unrolled<R>([&](auto i) __attribute__((always_inline)) {
      const f32x8 a = splat(left[i * row]);
      unrolled<V>([&](auto j) __attribute__((always_inline)) {
        sum[i * V + j] = simd::fma(a, b[j], sum[i * V + j]);
      });
    });
  }
  unrolled<R>([&](auto i) __attribute__((always_inline)) {
    unrolled<V>([&](auto j) __attribute__((always_inline)) {
      float* to = c + i * stride.c + 8 * j;
      simd::store(to, accumulate ? simd::load(to) + sum[i * V + j] : sum[i * V + j]);
    });
  });
}

using Tile = void (*)(float*, const Strides&, int64_t, const float*, const float*, bool);
constexpr Tile kTiles[2][kTileRows] = {
    {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>},
    {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>, tile<5, 2>, tile<6, 2>}};

}  // namespace

void multiply(float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, const Left& left,
              const Right& right, bool accumulate, bool whole) {
  for (int64_t j = 0; j < n; j += kTileColumns) {
    const int64_t columns = std::min(kTileColumns, n - j);
    const bool direct = whole || columns == kTileColumns || columns == kTileColumns / 2;
    const auto& tiles = kTiles[whole || columns > kTileColumns / 2 ? 1 : 0];
    const float* strip = right.data + j / kTileColumns * right.strip;
    for (int64_t i = 0; i < m; i += kTileRows) {
      const int64_t rows = std::min(kTileRows, m - i);
      const Tile kernel = tiles[rows - 1];
      const float* from = left.data + i / kTileRows * left.strip;
      float* to = c + i * ldc + j;
      if (direct) {
        kernel(to, {left.row, left.inner, right.inner, ldc}, k, from, strip, accumulate);
        continue;
      }
      float edge[kTileRows * kTileColumns];
      kernel(edge, {left.row, left.inner, right.inner, kTileColumns}, k, from, strip, false);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t x = 0; x < columns; ++x) {
          const float value = edge[r * kTileColumns + x];
          to[r * ldc + x] = accumulate ? to[r * ldc + x] + value : value;
        }
      }
    }
  }
}

namespace {

// A strip of Width from rows of x: `width` of them, each with its k elements side by side.
template <int Width, class E>
void pack_across(float* out, const E* x, int64_t ld, int64_t width, int64_t k) {
  int64_t p = 0;
  for (; p + 8 <= k; p += 8) {
    for (int64_t half = 0; half < Width; half += 8) {
      f32x8 r[8];
      for (int64_t i = 0; i < 8; ++i)
        r[i] = half + i < width ? simd::load(x + (half + i) * ld + p) : splat(0);
      simd::transpose(r);
      // A strip of 6 stores 8: the next store, or the next strip, overwrites the surplus.
      for (int64_t i = 0; i < 8; ++i) simd::store(out + (p + i) * Width + half, r[i]);
    }
  }
  for (; p < k; ++p)
    for (int64_t i = 0; i < Width; ++i)
      out[p * Width + i] = i < width ? static_cast<float>(x[i * ld + p]) : 0.0f;
}

// Strips of Width from columns of x: [k, width], a few strips at a time, for few pages are open
// at once and each line of the cache is used whole.
template <int Width, class E>
void pack_along(float* out, const E* x, int64_t ld, int64_t width, int64_t k) {
  constexpr int64_t kStrips = Width < 16 ? 16 : 4;
  for (int64_t begin = 0; begin < width; begin += kStrips * Width) {
    const int64_t end = std::min(width, begin + kStrips * Width);
    for (int64_t p = 0; p < k; ++p) {
      const E* from = x + p * ld;
      float* to = out + begin * k + p * Width;
      int64_t j = begin;
      for (; j + Width <= end; j += Width, to += Width * k) {
        if constexpr (Width == 16) {
          simd::store(to, simd::load(from + j));
          simd::store(to + 8, simd::load(from + j + 8));
        } else if constexpr (std::is_same_v<E, float>) {
          memcpy(to, from + j, Width * sizeof(float));
        } else {
          for (int64_t i = 0; i < Width; ++i) to[i] = static_cast<float>(from[j + i]);
        }
      }
      if (j < end)
        for (int64_t i = 0; i < Width; ++i)
          to[i] = j + i < end ? static_cast<float>(from[j + i]) : 0.0f;
    }
  }
}

// op(x) or its transpose in strips of Width of its `width` rows; `across` says that a row's k
// elements are side by side.
template <int Width>
void pack(float* out, const Operand& x, bool across, int64_t width, int64_t k) {
  visit_float(x.dtype, [&]<class E>() {
    const E* data = reinterpret_cast<const E*>(x.data);
    if (!across) return pack_along<Width>(out, data, x.ld, width, k);
    for (int64_t i = 0; i < width; i += Width)
      pack_across<Width>(out + i * k, data + i * x.ld, x.ld, std::min<int64_t>(Width, width - i),
                         k);
  });
}

}  // namespace

Left pack_left(float* out, const Operand& x, int64_t m, int64_t k) {
  pack<kTileRows>(out, x, !x.transposed, m, k);
  return {out, 1, kTileRows, kTileRows * k};
}

Right pack_right(float* out, const Operand& x, int64_t k, int64_t n) {
  pack<kTileColumns>(out, x, x.transposed, n, k);
  return {out, kTileColumns, kTileColumns * k};
}

void gemm(std::byte* c, DType c_dtype, int64_t ldc, int64_t m, int64_t n, int64_t k,
          const Operand& a, const Operand& b, bool accumulate, Scratch scratch) {
  constexpr int64_t kSums = kBlockRows * kBlockColumns, kRight = kInner * kBlockColumns;
  constexpr int64_t kLeft = kInner * kRowsAtOnce;
  static_assert((kSums + kRight + kLeft + 2 * kPackSlack) * 4 <=
                int64_t{ThreadPool::kScratchBytes});
  NEREUS_CHECK(kContract, m <= kBlockRows && n <= kBlockColumns, "gemm: a block of {} x {}", m, n);
  float* right_strips = reinterpret_cast<float*>(scratch.data());
  float* left_strips = right_strips + kRight + kPackSlack;
  const bool f32 = c_dtype == DType::f32;
  float* sums = f32 ? reinterpret_cast<float*>(c) : left_strips + kLeft + kPackSlack;
  const int64_t sums_ld = f32 ? ldc : round_up(n, kTileColumns);
  const bool packed = n > kNarrow || a.dtype != DType::f32 || a.transposed;

  const int64_t parts = std::max<int64_t>(1, (k + kInner - 1) / kInner);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = k * part / parts, inner = k * (part + 1) / parts - begin;
    const Right right = pack_right(right_strips, b.at(begin, 0), inner, n);
    for (int64_t i = 0; i < m; i += kRowsAtOnce) {
      const int64_t rows = std::min(kRowsAtOnce, m - i);
      const Operand from = a.at(i, begin);
      const Left left = packed ? pack_left(left_strips, from, rows, inner)
                               : rows_of(reinterpret_cast<const float*>(from.data), from.ld);
      multiply(sums + i * sums_ld, sums_ld, rows, n, inner, left, right,
               part > 0 || (f32 && accumulate), !f32);
    }
  }
  if (f32) return;
  for (int64_t i = 0; i < m; ++i) {
    bf16* out = reinterpret_cast<bf16*>(c) + i * ldc;
    const float* row = sums + i * sums_ld;
    simd::for_each(n, [&](auto get, auto put) {
      put(out, accumulate ? get(row, 0) + get(out, 0) : get(row, 0));
    });
  }
}

namespace {

// n in equal blocks of at most `most`, a multiple of `unit` each.
void cut(int64_t n, int64_t most, int64_t unit, int64_t& block, int64_t& blocks) {
  blocks = (n + most - 1) / most;
  if (blocks == 0) return;
  block = round_up((n + blocks - 1) / blocks, unit);
  blocks = (n + block - 1) / block;
}

}  // namespace

// Chooses the partition with the shortest estimated time. Large blocks keep packing cheap, many
// blocks keep threads busy. In units of a multiply-add: an element costs kPack to pack, a task
// kTask; a thread that comes late costs a tenth of a task.
Blocks::Blocks(int64_t M, int64_t N, int64_t K, int threads) {
  constexpr double kPack = 8, kTask = 6e4;
  if (M == 0 || N == 0) return;
  const auto inner = static_cast<double>(std::max<int64_t>(K, 1));
  double best = INFINITY;
  for (int64_t most_rows = kBlockRows; most_rows >= 4 * kTileRows; most_rows /= 2) {
    for (int64_t most_columns = kBlockColumns; most_columns >= 4 * kTileColumns;
         most_columns /= 2) {
      Blocks b;
      cut(M, most_rows, kTileRows, b.rows, b.row_blocks);
      cut(N, most_columns, kTileColumns, b.columns, b.column_blocks);
      const auto m = static_cast<double>(b.rows), n = static_cast<double>(b.columns);
      const auto rounds = static_cast<double>((b.count() + threads - 1) / threads);
      const double cost = (rounds + 0.1) * ((m * n + kPack * (m + n)) * inner + kTask);
      if (cost < best) {
        best = cost;
        *this = b;
      }
    }
  }
}

}  // namespace nereus::ops::cpu
