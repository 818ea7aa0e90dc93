// Attention on the CPU. A task is one head of one tile of query rows: its scores against all keys
// it may see lie in the task's scratch as one short, wide matrix, so that the products are few and
// large and the softmax needs no rescaling.
#include <algorithm>
#include <cmath>

#include "ops/attention.h"
#include "ops/blas.h"
#include "ops/simd.h"

namespace nereus::ops::cpu {
namespace {

using simd::f32x8;
using simd::splat;

constexpr int64_t kRows = 64;  // query rows a tile, fewer when the keys are many
constexpr int64_t kKeys = 64;  // keys a tile, where keys go in tiles

// One head of a [T, H, D] tensor, rows from `t` on, as f32: in place, or widened into `buffer`.
struct Rows {
  const float* data;
  int64_t ld;
};
Rows rows_of(const ConstTensorView& x, int64_t t, int64_t h, int64_t n, float* buffer) {
  const int64_t at = t * x.stride[0] + h * x.stride[1], D = x.dim(2);
  if (x.dtype == DType::f32) return {x.as<float>() + at, x.stride[0]};
  for (int64_t i = 0; i < n; ++i) {
    const bf16* row = x.as<bf16>() + at + i * x.stride[0];
    simd::for_each(D, [&](auto get, auto put) { put(buffer + i * D, get(row, 0)); });
  }
  return {buffer, D};
}

void store_rows(const TensorView& x, int64_t t, int64_t h, int64_t n, const float* from) {
  const int64_t D = x.dim(2);
  visit_float(x.dtype, [&]<class E>() {
    for (int64_t i = 0; i < n; ++i) {
      E* row = x.as<E>() + (t + i) * x.stride[0] + h * x.stride[1];
      simd::for_each(D, [&](auto get, auto put) { put(row, get(from + i * D, 0)); });
    }
  });
}

// The tiles of a call, and what a tile sees.
template <class A>
struct Tiling {
  explicit Tiling(const A& a)
      : T(a.q.dim(0)), H(a.q.dim(1)), S(a.sequence), f32(a.q.dtype == DType::f32) {
    // Two matrices of scores, and some room for tiles of q, k, v.
    const int64_t room = int64_t{ThreadPool::kScratchBytes} * 3 / 4 / (2 * 4 * S);
    rows = std::clamp<int64_t>(room, 1, kRows);
    tiles = (S + rows - 1) / rows;
  }
  int64_t count() const { return T / S * H * tiles; }

  int64_t T, H, S, rows, tiles;
  bool f32;
};

struct Tile {
  template <class A>
  Tile(const A& a, const Tiling<A>& tiling, int64_t task) {
    h = task % tiling.H;
    const int64_t rest = task / tiling.H, sequence = rest / tiling.tiles * tiling.S;
    // The longest tiles first, so that no thread is left with one at the end.
    begin = sequence + (tiling.tiles - 1 - rest % tiling.tiles) * tiling.rows;
    end = std::min(begin + tiling.rows, sequence + tiling.S);
    first = a.first_key.template as<int32_t>()[begin];  // ascending within a sequence
    n = end - first;
  }
  int64_t h, begin, end;  // query rows
  int64_t first, n;       // keys [first, end)
  int64_t rows() const { return end - begin; }
};

// out[rows, n] = x y^T for keys [first, first + n), with y widened a tile at a time if it is bf16.
void against_keys(float* out, int64_t ld, const Rows& x, int64_t rows, const ConstTensorView& y,
                  int64_t first, int64_t n, int64_t h, float* buffer) {
  const int64_t D = y.dim(2), step = y.dtype == DType::f32 ? n : kKeys;
  for (int64_t j = 0; j < n; j += step) {
    const int64_t width = std::min(step, n - j);
    const Rows keys = rows_of(y, first + j, h, width, buffer);
    sgemm(out + j, ld, rows, width, D, x.data, x.ld, false, keys.data, keys.ld, true, false);
  }
}

// out[rows, D] = p[rows, n] y.
void over_keys(float* out, const float* p, int64_t ld, int64_t rows, const ConstTensorView& y,
               int64_t first, int64_t n, int64_t h, float* buffer) {
  const int64_t D = y.dim(2), step = y.dtype == DType::f32 ? n : kKeys;
  for (int64_t j = 0; j < n; j += step) {
    const int64_t width = std::min(step, n - j);
    const Rows keys = rows_of(y, first + j, h, width, buffer);
    sgemm(out, D, rows, D, width, p + j, ld, false, keys.data, keys.ld, false, j > 0);
  }
}

// The part of a row of scores that row t sees: [begin, end) relative to the tile's first key.
struct Visible {
  int64_t begin, end;
};
Visible visible(const int32_t* first_key, int64_t t, int64_t first) {
  return {first_key[t] - first, t + 1 - first};
}

void zero_outside(float* row, const Visible& v, int64_t n) {
  std::fill(row, row + v.begin, 0.0f);
  std::fill(row + v.end, row + n, 0.0f);
}

}  // namespace

void attention_forward(Stream& stream, const AttentionForward& a) {
  const Tiling tiling(a);
  const int64_t Dqk = a.q.dim(2), Dv = a.v.dim(2);
  const int32_t* first_key = a.first_key.as<int32_t>();
  stream.parallel_for(tiling.count(), [&](int64_t task, Scratch scratch) {
    const Tile tile(a, tiling, task);
    float* scores = reinterpret_cast<float*>(scratch.data());
    float* out = scores + tiling.rows * tiling.S;
    float* q_buffer = out + tiling.rows * Dv;
    float* key_buffer = q_buffer + tiling.rows * Dqk;
    const Rows q = rows_of(a.q, tile.begin, tile.h, tile.rows(), q_buffer);
    against_keys(scores, tile.n, q, tile.rows(), a.k, tile.first, tile.n, tile.h, key_buffer);
    const f32x8 scale = splat(a.scale);
    for (int64_t i = 0; i < tile.rows(); ++i) {
      const Visible v = visible(first_key, tile.begin + i, tile.first);
      float* row = scores + i * tile.n;
      const int64_t width = v.end - v.begin;
      f32x8 most = splat(-INFINITY), sums = splat(0);
      simd::for_each(
          width, [&](auto get, auto) { most = simd::max(most, get(row + v.begin, -INFINITY)); });
      const float top = a.scale * simd::max(most);
      simd::for_each(width, [&](auto get, auto put) {
        const f32x8 e = simd::exp(get(row + v.begin, -INFINITY) * scale - splat(top));
        sums += e;
        put(row + v.begin, e);
      });
      const float sum = simd::sum(sums);
      const f32x8 factor = splat(1.0f / sum);
      simd::for_each(
          width, [&](auto get, auto put) { put(row + v.begin, get(row + v.begin, 0) * factor); });
      zero_outside(row, v, tile.n);
      a.lse.as<float>()[(tile.begin + i) * a.lse.row_stride() + tile.h] = top + std::log(sum);
    }
    over_keys(out, scores, tile.n, tile.rows(), a.v, tile.first, tile.n, tile.h, key_buffer);
    store_rows(a.o, tile.begin, tile.h, tile.rows(), out);
  });
}

namespace {

// P and scale * dS of a tile of query rows against keys [first, first + n), zero where not visible.
void probabilities(const AttentionBackward& a, float* p, float* ds, const Rows& q, const Rows& dout,
                   int64_t begin, int64_t rows, int64_t h, int64_t first, int64_t n,
                   float* buffer) {
  const int32_t* first_key = a.first_key.as<int32_t>();
  against_keys(p, n, q, rows, a.k, first, n, h, buffer);
  against_keys(ds, n, dout, rows, a.v, first, n, h, buffer);
  const f32x8 scale = splat(a.scale);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t t = begin + i;
    const f32x8 lse = splat(a.lse.as<float>()[t * a.lse.row_stride() + h]);
    const f32x8 delta = splat(a.delta.as<float>()[t * a.delta.row_stride() + h]);
    Visible v = visible(first_key, t, first);
    v.begin = std::clamp<int64_t>(v.begin, 0, n);
    v.end = std::clamp<int64_t>(v.end, v.begin, n);
    float *p_row = p + i * n, *ds_row = ds + i * n;
    simd::for_each(v.end - v.begin, [&](auto get, auto put) {
      const f32x8 e = simd::exp(get(p_row + v.begin, -INFINITY) * scale - lse);
      put(p_row + v.begin, e);
      put(ds_row + v.begin, scale * e * (get(ds_row + v.begin, 0) - delta));
    });
    zero_outside(p_row, v, n);
    zero_outside(ds_row, v, n);
  }
}

void row_dots(Stream& stream, const AttentionBackward& a) {
  const int64_t T = a.q.dim(0), H = a.q.dim(1), Dv = a.v.dim(2);
  visit_float(a.o.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        for (int64_t h = 0; h < H; ++h) {
          const E* o = a.o.as<E>() + t * a.o.stride[0] + h * a.o.stride[1];
          const E* d = a.dout.as<E>() + t * a.dout.stride[0] + h * a.dout.stride[1];
          f32x8 dot = splat(0);
          simd::for_each(Dv, [&](auto get, auto) { dot += get(o, 0) * get(d, 0); });
          a.delta.as<float>()[t * a.delta.row_stride() + h] = simd::sum(dot);
        }
      }
    });
  });
}

void zero_head(const TensorView& x, int64_t t, int64_t h, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    std::fill_n(x.as<float>() + (t + i) * x.stride[0] + h * x.stride[1], x.dim(2), 0.0f);
}

// f32: a task is a head of a sequence. Its query tiles follow one another, so that dk and dv are
// summed where they belong, in order.
void backward_f32(Stream& stream, const AttentionBackward& a) {
  const Tiling tiling(a);
  const int64_t Dqk = a.q.dim(2), Dv = a.v.dim(2), S = a.sequence, H = tiling.H;
  stream.parallel_for(tiling.T / S * H, [&](int64_t task, Scratch scratch) {
    const int64_t h = task % H, sequence = task / H * S;
    float* p = reinterpret_cast<float*>(scratch.data());
    float* ds = p + tiling.rows * S;
    zero_head(a.dk, sequence, h, S);
    zero_head(a.dv, sequence, h, S);
    for (int64_t i = tiling.tiles; i-- > 0;) {
      const Tile tile(a, tiling, (sequence / S * tiling.tiles + tiling.tiles - 1 - i) * H + h);
      const int64_t rows = tile.rows(), n = tile.n;
      const Rows q = rows_of(a.q, tile.begin, h, rows, nullptr);
      const Rows dout = rows_of(a.dout, tile.begin, h, rows, nullptr);
      const Rows k = rows_of(a.k, tile.first, h, n, nullptr);
      probabilities(a, p, ds, q, dout, tile.begin, rows, h, tile.first, n, nullptr);
      const auto at = [h](const TensorView& x, int64_t t) {
        return x.as<float>() + t * x.stride[0] + h * x.stride[1];
      };
      sgemm(at(a.dq, tile.begin), a.dq.stride[0], rows, Dqk, n, ds, n, false, k.data, k.ld, false,
            false);
      sgemm(at(a.dk, tile.first), a.dk.stride[0], n, Dqk, rows, ds, n, true, q.data, q.ld, false,
            true);
      sgemm(at(a.dv, tile.first), a.dv.stride[0], n, Dv, rows, p, n, true, dout.data, dout.ld,
            false, true);
    }
  });
}

// bf16: sums need f32 room, so dq goes by query tiles and dk, dv by key tiles, each computing its
// own probabilities.
void backward_bf16(Stream& stream, const AttentionBackward& a) {
  const Tiling tiling(a);
  const int64_t Dqk = a.q.dim(2), Dv = a.v.dim(2), S = a.sequence, H = tiling.H;
  stream.parallel_for(tiling.count(), [&](int64_t task, Scratch scratch) {
    const Tile tile(a, tiling, task);
    const int64_t rows = tile.rows(), n = tile.n, h = tile.h;
    float* p = reinterpret_cast<float*>(scratch.data());
    float* ds = p + tiling.rows * S;
    float* q_buffer = ds + tiling.rows * S;
    float* dout_buffer = q_buffer + tiling.rows * Dqk;
    float* sum = dout_buffer + tiling.rows * Dv;
    float* key_buffer = sum + tiling.rows * Dqk;
    const Rows q = rows_of(a.q, tile.begin, h, rows, q_buffer);
    const Rows dout = rows_of(a.dout, tile.begin, h, rows, dout_buffer);
    probabilities(a, p, ds, q, dout, tile.begin, rows, h, tile.first, n, key_buffer);
    over_keys(sum, ds, n, rows, a.k, tile.first, n, h, key_buffer);
    store_rows(a.dq, tile.begin, h, rows, sum);
  });
  const int64_t key_tiles = (S + kKeys - 1) / kKeys;
  stream.parallel_for(tiling.T / S * key_tiles * H, [&](int64_t task, Scratch scratch) {
    const int64_t h = task % H, sequence = task / H / key_tiles * S;
    const int64_t first = sequence + task / H % key_tiles * kKeys;
    const int64_t n = std::min(kKeys, sequence + S - first);
    float* p = reinterpret_cast<float*>(scratch.data());
    float* ds = p + kRows * kKeys;
    float* q_buffer = ds + kRows * kKeys;
    float* dout_buffer = q_buffer + kRows * Dqk;
    float* dk = dout_buffer + kRows * Dv;
    float* dv = dk + kKeys * Dqk;
    float* key_buffer = dv + kKeys * Dv;
    std::fill_n(dk, n * Dqk, 0.0f);
    std::fill_n(dv, n * Dv, 0.0f);
    for (int64_t begin = first; begin < sequence + S; begin += kRows) {
      if (a.first_key.as<int32_t>()[begin] >= first + n) break;  // later documents only
      const int64_t rows = std::min(kRows, sequence + S - begin);
      const Rows q = rows_of(a.q, begin, h, rows, q_buffer);
      const Rows dout = rows_of(a.dout, begin, h, rows, dout_buffer);
      probabilities(a, p, ds, q, dout, begin, rows, h, first, n, key_buffer);
      sgemm(dk, Dqk, n, Dqk, rows, ds, n, true, q.data, q.ld, false, true);
      sgemm(dv, Dv, n, Dv, rows, p, n, true, dout.data, dout.ld, false, true);
    }
    store_rows(a.dk, first, h, n, dk);
    store_rows(a.dv, first, h, n, dv);
  });
}

}  // namespace

void attention_backward(Stream& stream, const AttentionBackward& a) {
  row_dots(stream, a);
  if (a.q.dtype == DType::f32) {
    backward_f32(stream, a);
  } else {
    backward_bf16(stream, a);
  }
}

}  // namespace nereus::ops::cpu
