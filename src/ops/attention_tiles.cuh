// Shared by the kernels of attention_flash.h: tiles of heads in shared memory, and their fragments.
// For .cu files only.
#pragma once

#include "ops/attention_flash.h"
#include "ops/mma.cuh"

namespace nereus::ops::cuda {

inline constexpr int kFlashWarps = 8, kFlashThreads = 32 * kFlashWarps;
inline constexpr int kWidthQk = 192, kWidthV = 128;  // narrower heads are padded with zeros
inline constexpr float kLog2e = 1.4426950408889634f;

// A [T, H, D] tensor; `chunks` of 8 elements a head.
template <class E>
struct Heads {
  E* data;
  int64_t token, head;
  int chunks;

  __device__ E* at(int64_t t, int h) const { return data + t * token + h * head; }
};
template <class View>
bool fits(const View& v, int width) {
  return v.dtype == DType::bf16 && v.dim(2) <= width && aligned(v);
}

template <class View>
auto heads_of(const View& v) {
  using E = std::remove_pointer_t<decltype(v.template as<bf16>())>;
  return Heads<E>{v.template as<bf16>(), v.stride[0], v.stride[1], static_cast<int>(v.dim(2) / 8)};
}

// Rows of S queries and Sk keys: the key of a row's first query is its key `chunk_start`.
struct FlashRows {
  int S, Sk, chunk_start;
};
template <class A>
FlashRows flash_rows(const A& a) {
  return {static_cast<int>(a.sequence), static_cast<int>(keys_of_row(a)),
          static_cast<int>(a.chunk_start)};
}

// kRows rows of kWidth elements in shared memory. The order of a row's chunks depends on the row (a
// swizzle), so that the same chunk of 8 rows lies in different banks.
template <int kRows, int kWidth>
struct Tile {
  static constexpr int kChunks = kWidth / 8, kBytes = kRows * kWidth * 2, kSteps = kWidth / 16;
  static_assert(kChunks % 8 == 0 && kRows * kChunks % kFlashThreads == 0);
  uint32_t base;

  __device__ uint32_t at(int row, int chunk) const {
    return base + static_cast<uint32_t>((row * kChunks + (chunk ^ (row & 7))) * 16);
  }

  // Starts the copies of tokens [first, first + count) of head h; zeros in other rows and chunks.
  // All threads of the block call it.
  __device__ void copy(const Heads<const bf16>& x, int64_t first, int count, int h) const {
    const bf16* const begin = x.at(first, h);
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kFlashThreads; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * kFlashThreads;
      const int row = piece / kChunks, chunk = piece % kChunks;
      const bool there = row < count && chunk < x.chunks;
      copy_async16(at(row, chunk), there ? begin + row * x.token + chunk * 8 : begin, there);
    }
  }

  // Rows [row, row + 16) as A's rows, elements [16 step, ..) as what is summed over. Here and below
  // `row` is a multiple of 16.
  __device__ void rows(uint32_t (&a)[4], int row, int step, int lane) const {
    load_matrices(a, of_lane(row + lane % 16, step, lane / 16, lane));
  }
  // The same as B's columns: b[0], b[1] of the first eight, b[2], b[3] of the others.
  __device__ void columns(uint32_t (&b)[4], int row, int step, int lane) const {
    load_matrices(b, of_lane(row + lane % 8 + lane / 16 * 8, step, lane / 8 % 2, lane));
  }
  // Rows [row, row + 16) as what is summed over, elements [16 step, ..) as B's columns.
  __device__ void summed(uint32_t (&b)[4], int row, int step, int lane) const {
    load_matrices_transposed(b, of_lane(row + lane % 16, step, lane / 16, lane));
  }

 private:
  // at(row, 2 step + half) where row % 8 is lane % 8, with as little as possible to do for each
  // (constant) row and step.
  __device__ uint32_t of_lane(int row, int step, int half, int lane) const {
    const auto mine = static_cast<uint32_t>((half ^ (lane & 7)) * 16);
    return base + static_cast<uint32_t>(row * kWidth * 2) + (mine ^ (2u * step % 8 * 16)) +
           static_cast<uint32_t>(step / 4 * 128);
  }
};

// Elements of a C fragment over kTiles x 8 columns, summed over in the next product: A's fragment
// of the columns [16 step, ..).
template <int kTiles>
__device__ void as_rows(uint32_t (&a)[4], const float (&c)[kTiles][4], int step) {
  a[0] = pack_bf16(c[2 * step][0], c[2 * step][1]);
  a[1] = pack_bf16(c[2 * step][2], c[2 * step][3]);
  a[2] = pack_bf16(c[2 * step + 1][0], c[2 * step + 1][1]);
  a[3] = pack_bf16(c[2 * step + 1][2], c[2 * step + 1][3]);
}

// sum[.., 8 n..] += c times the rows of a tile: 16 kSteps columns of c, all elements of the tile.
template <int kTiles, int kRows, int kWidth>
__device__ void add_product(float (&sum)[kWidth / 8][4], const float (&c)[kTiles][4],
                            const Tile<kRows, kWidth>& tile, int lane) {
#pragma unroll
  for (int k = 0; k < kTiles / 2; ++k) {
    uint32_t a[4];
    as_rows(a, c, k);
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      uint32_t b[4];
      tile.summed(b, 16 * k, n, lane);
      multiply_add(sum[2 * n], a, b[0], b[1]);
      multiply_add(sum[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// c = rows [row, row + 16) of `left` times the transpose of all rows of `right`.
template <int kTiles, int kLeft, int kRight, int kWidth>
__device__ void product(float (&c)[kTiles][4], const Tile<kLeft, kWidth>& left, int row,
                        const Tile<kRight, kWidth>& right, int lane) {
  static_assert(kTiles * 8 == kRight);
#pragma unroll
  for (int n = 0; n < kTiles; ++n) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    uint32_t a[4];
    left.rows(a, row, k, lane);
#pragma unroll
    for (int n = 0; n < kTiles / 2; ++n) {
      uint32_t b[4];
      right.columns(b, 16 * n, k, lane);
      multiply_add(c[2 * n], a, b[0], b[1]);
      multiply_add(c[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// Writes a C fragment's two rows, times `factor`, to tokens first + g and first + g + 8 of head h
// where those are below `end`; added to what is there if `accumulate`.
template <int kTiles>
__device__ void write_rows(const Heads<bf16>& out, const float (&c)[kTiles][4],
                           const float (&factor)[2], int64_t first, int64_t end, int h, int lane,
                           bool accumulate) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t t = first + lane / 4 + 8 * half;
    if (t >= end) continue;
    auto* const row = reinterpret_cast<uint32_t*>(out.at(t, h)) + lane % 4;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      if (n >= out.chunks) break;
      float low = c[n][2 * half] * factor[half], high = c[n][2 * half + 1] * factor[half];
      if (accumulate) {
        const uint32_t pair = row[4 * n];
        low += __uint_as_float(pair << 16);
        high += __uint_as_float(pair & 0xffff0000u);
      }
      row[4 * n] = pack_bf16(low, high);
    }
  }
}

// What queries [first, first + count) of the row b, at most 128, see; two of them are this lane's.
struct SeenKeys {
  int first[2], last[2];          // keys of the row that this lane's queries see
  int warp_first, warp_last;      // keys that some query of the warp sees
  int common_first, common_last;  // keys that every query of the warp sees

  __device__ SeenKeys(const int* first_key, const FlashRows& rows, int b, int first_query_of_tile,
                      int count, int warp, int lane) {
    const int* const bounds = first_key + int64_t{b} * rows.S;
    const int begin = b * rows.Sk;  // the contract counts keys in 32 bits
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = 16 * warp + lane / 4 + 8 * half, i = first_query_of_tile + min(r, count - 1);
      first[half] = bounds[i] - begin;
      last[half] = rows.chunk_start + i;
    }
    warp_first = __shfl_sync(0xffffffffu, first[0], 0);
    common_first = __shfl_sync(0xffffffffu, first[1], 31);
    common_last = __shfl_sync(0xffffffffu, last[0], 0);
    warp_last = __shfl_sync(0xffffffffu, last[1], 31);
    if (16 * warp >= count) warp_last = -1;  // no query: sees nothing
  }
  // Of the keys [key, key + n):
  __device__ bool none(int key, int n) const { return key > warp_last || key + n <= warp_first; }
  __device__ bool all(int key, int n) const {
    return key >= common_first && key + n - 1 <= common_last;
  }
  __device__ bool sees(int half, int key) const { return key >= first[half] && key <= last[half]; }
};

}  // namespace nereus::ops::cuda
