// Attention on the CPU, by tiles of query rows against blocks of keys (Dao et al., FlashAttention,
// arXiv 2205.14135). Forward: a task is a range of queries of one head, whose online softmax is
// rescaled with each block of keys. Backward: a task is a head, which computes probabilities once
// and adds to dq, dk and dv; where dq of a whole sequence does not fit the scratch memory, or there
// are too few heads for the threads, dq and (dk, dv) become tasks of their own, each computing the
// probabilities it needs.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/attention.h"
#include "ops/gemm.h"
#include "ops/simd.h"

namespace nereus::ops::cpu {
namespace {

using simd::f32x8;
using simd::kWidth;
using simd::splat;

constexpr int64_t kTile = 48;          // query rows
constexpr int64_t kGroup = 528;        // query rows of a task, a multiple of kTile
constexpr int64_t kForwardKeys = 256;  // keys of a block
constexpr int64_t kBackwardKeys = 192;
constexpr int64_t kGap = 16;  // between rows of scores: they would share few sets of the cache

int64_t whole(int64_t columns) { return round_up(columns, kTileColumns); }

// Carves a task's scratch.
class ScratchPieces {
 public:
  ScratchPieces(const char* op, Scratch scratch) : op_(op), scratch_(scratch) {}
  float* take(int64_t floats) {
    float* at = reinterpret_cast<float*>(scratch_.data()) + used_;
    used_ += round_up(floats + kPackSlack, 16);
    NEREUS_CHECK(kContract, used_ * 4 <= static_cast<int64_t>(scratch_.size()),
                 "{}: heads are too wide for the {} bytes of a task's scratch", op_,
                 scratch_.size());
    return at;
  }

 private:
  const char* op_;
  Scratch scratch_;
  int64_t used_ = 0;
};

// Where a row's number lies in a [B, H, S] tensor.
int64_t stat(const ConstTensorView& x, int64_t t, int64_t h) {
  const int64_t S = x.dim(2);
  return (t / S * x.dim(1) + h) * S + t % S;
}

// Rows [t, ..) of head h of a [T, H, D] tensor, as a matrix or its transpose.
Operand head(const ConstTensorView& x, int64_t t, int64_t h, bool transposed = false) {
  const int64_t offset = t * x.stride[0] + h * x.stride[1];
  return {x.data + offset * size_of(x.dtype), x.dtype, x.stride[0], transposed};
}

void store_rows(const TensorView& x, int64_t t, int64_t h, int64_t n, const float* from, int64_t ld,
                bool accumulate = false) {
  visit_float(x.dtype, [&]<class E>() {
    for (int64_t i = 0; i < n; ++i) {
      E* row = x.as<E>() + (t + i) * x.stride[0] + h * x.stride[1];
      if (accumulate) {
        simd::for_each(x.dim(2),
                       [&](auto get, auto put) { put(row, get(row, 0) + get(from + i * ld, 0)); });
      } else {
        simd::for_each(x.dim(2), [&](auto get, auto put) { put(row, get(from + i * ld, 0)); });
      }
    }
  });
}

// From query tokens to key tokens: the key of query t of row t / S is t + shift(t / S).
struct Rows {
  int64_t sequence, keys, chunk_start;
  template <class A>
  explicit Rows(const A& a)
      : sequence(a.sequence), keys(keys_of_row(a)), chunk_start(a.chunk_start) {}
  int64_t shift(int64_t row) const { return row * (keys - sequence) + chunk_start; }
};

// A wrong first_key would read out of bounds; tiles are skipped by the first_key of their first
// row.
void check_first_key(const char* op, const ConstTensorView& first_key, const Rows& rows) {
  const int32_t* first = first_key.as<int32_t>();
  for (int64_t t = 0; t < first_key.dim(0); ++t) {
    const int64_t row = t / rows.sequence;
    const int64_t least = t % rows.sequence == 0 ? row * rows.keys : first[t - 1];
    const int64_t most = t + rows.shift(row);
    NEREUS_CHECK(kContract, first[t] >= least && first[t] <= most,
                 "{}: first_key[{}] is {}, expected {} to {}", op, t, first[t], least, most);
  }
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The part of a block of keys that a tile of query rows can see: whole strips from `begin` on.
Range columns_of_tile(const int32_t* first_key, const Range& rows, const Range& keys,
                      int64_t shift) {
  const int64_t begin = std::max<int64_t>(0, first_key[rows.begin] - keys.begin);
  return {begin / kTileColumns * kTileColumns, std::min(keys.end, rows.end + shift) - keys.begin};
}

// Writes minus infinity to the scores of keys that row t does not see, in whole strips; false when
// it sees none.
bool mask_row(float* row, const int32_t* first_key, int64_t t, int64_t shift, const Range& keys,
              const Range& columns) {
  const int64_t begin = std::max(columns.begin, first_key[t] - keys.begin);
  const int64_t end = std::min(columns.end, t + shift + 1 - keys.begin);
  const int64_t last = whole(columns.end);
  if (begin >= end) {
    std::fill(row + columns.begin, row + last, -INFINITY);
    return false;
  }
  std::fill(row + columns.begin, row + begin, -INFINITY);
  std::fill(row + end, row + last, -INFINITY);
  return true;
}

}  // namespace

namespace {

// The running state of a row's online softmax.
struct Softmax {
  float top = -INFINITY, sum = 0;
};

// One step of the online softmax: scores become exp(scale * score - top). Returns the factor by
// which the sums so far must be scaled.
float online_softmax_update(float* row, const Range& columns, float scale, Softmax& state) {
  const int64_t begin = columns.begin, end = whole(columns.end);  // an even number of vectors
  const f32x8 factor = splat(scale);
  f32x8 most[2] = {splat(-INFINITY), splat(-INFINITY)}, sums[2] = {splat(0), splat(0)};
  for (int64_t j = begin; j < end; j += 2 * kWidth)
    for (int u = 0; u < 2; ++u)
      most[u] = simd::max(most[u], simd::load(row + j + u * kWidth) * factor);
  const float top = std::max(state.top, simd::max(simd::max(most[0], most[1])));
  const f32x8 shift = splat(-top);
  for (int64_t j = begin; j < end; j += 2 * kWidth) {
    for (int u = 0; u < 2; ++u) {
      float* at = row + j + u * kWidth;
      const f32x8 e = simd::exp_nonpositive(simd::fma(simd::load(at), factor, shift));
      simd::store(at, e);
      sums[u] += e;
    }
  }
  const float shrink = std::exp(state.top - top);
  state = {top, state.sum * shrink + simd::sum(sums[0] + sums[1])};
  return shrink;
}

void multiply_row(float* row, int64_t n, float factor) {
  for (int64_t j = 0; j < n; j += kWidth) simd::store(row + j, simd::load(row + j) * splat(factor));
}

}  // namespace

void attention_forward(Stream& stream, const AttentionForward& a) {
  const int64_t T = a.q.dim(0), H = a.q.dim(1), S = a.sequence;
  const int64_t Dqk = a.q.dim(2), Dv = a.v.dim(2), o_ld = whole(Dv);
  constexpr int64_t kLd = kForwardKeys + kGap;
  const int32_t* first_key = a.first_key.as<int32_t>();
  const Rows layout(a);
  check_first_key("attention_forward", a.first_key, layout);
  const int64_t groups = (S + kGroup - 1) / kGroup;
  stream.parallel_for(T / S * groups * H, [&](int64_t task, Scratch scratch) {
    const int64_t h = task % H, index = task / H / groups, sequence = index * S;
    const int64_t shift = layout.shift(index), first = index * layout.keys;
    // The longest tasks start first, so that no thread is left with a long one at the end.
    const int64_t group = groups - 1 - task / H % groups;
    const Range queries{sequence + group * kGroup, sequence + std::min(S, (group + 1) * kGroup)};
    ScratchPieces pieces("attention_forward", scratch);
    float* scores = pieces.take(kTile * kLd);
    float* q_strips = pieces.take(packed_left(kTile, Dqk));
    float* k_strips = pieces.take(packed_right(Dqk, kForwardKeys));
    float* v_strips = pieces.take(packed_right(kForwardKeys, Dv));
    float* o = pieces.take(kGroup * o_ld);
    Softmax state[kGroup];
    std::fill_n(o, queries.size() * o_ld, 0.0f);

    const int64_t skipped = (first_key[queries.begin] - first) / kForwardKeys * kForwardKeys;
    for (int64_t key = first + skipped; key < queries.end + shift; key += kForwardKeys) {
      const Range keys{key, std::min(key + kForwardKeys, queries.end + shift)};
      const Right k = pack_right(k_strips, head(a.k, key, h, true), Dqk, keys.size());
      const Right v = pack_right(v_strips, head(a.v, key, h), keys.size(), Dv);
      for (int64_t t = queries.begin; t < queries.end; t += kTile) {
        const Range rows{t, std::min(t + kTile, queries.end)};
        if (rows.end + shift <= keys.begin || first_key[t] >= keys.end) continue;
        const Range columns = columns_of_tile(first_key, rows, keys, shift);
        const Left q = pack_left(q_strips, head(a.q, t, h), rows.size(), Dqk);
        multiply(scores + columns.begin, kLd, rows.size(), columns.size(), Dqk, q,
                 {k.data + columns.begin / kTileColumns * k.strip, k.inner, k.strip}, false, true);
        float* o_tile = o + (t - queries.begin) * o_ld;
        for (int64_t i = 0; i < rows.size(); ++i) {
          float* row = scores + i * kLd;
          if (!mask_row(row, first_key, t + i, shift, keys, columns)) {
            std::fill(row + columns.begin, row + columns.end, 0.0f);
            continue;
          }
          const float shrink =
              online_softmax_update(row, columns, a.scale, state[t - queries.begin + i]);
          if (shrink != 1) multiply_row(o_tile + i * o_ld, o_ld, shrink);
        }
        multiply(o_tile, o_ld, rows.size(), Dv, columns.size(),
                 rows_of(scores + columns.begin, kLd),
                 {v.data + columns.begin * v.inner, v.inner, v.strip}, true, true);
      }
    }
    for (int64_t i = 0; i < queries.size(); ++i) {
      multiply_row(o + i * o_ld, o_ld, 1.0f / state[i].sum);
      a.lse.as<float>()[stat(a.lse, queries.begin + i, h)] = state[i].top + std::log(state[i].sum);
    }
    store_rows(a.o, queries.begin, h, queries.size(), o, o_ld);
  });
}

namespace {

// delta[t,h] = dout[t,h] . o[t,h]
void row_dots(Stream& stream, const AttentionBackward& a) {
  const int64_t T = a.q.dim(0), H = a.q.dim(1), Dv = a.v.dim(2);
  visit_float(a.o.dtype, [&]<class E>() {
    stream.parallel_for((T + kTile - 1) / kTile, [&](int64_t task, Scratch) {
      for (int64_t t = task * kTile; t < std::min(T, (task + 1) * kTile); ++t) {
        for (int64_t h = 0; h < H; ++h) {
          const E* o = a.o.as<E>() + t * a.o.stride[0] + h * a.o.stride[1];
          const E* d = a.dout.as<E>() + t * a.dout.stride[0] + h * a.dout.stride[1];
          f32x8 dot = splat(0);
          simd::for_each(Dv, [&](auto get, auto) { dot += get(o, 0) * get(d, 0); });
          a.delta.as<float>()[stat(a.delta, t, h)] = simd::sum(dot);
        }
      }
    });
  });
}

// Scores become probabilities, and dout . v becomes dS.
void differentiate(float* p, float* ds, const Range& columns, float scale, float lse, float delta) {
  const f32x8 factor = splat(scale), shift = splat(-lse), mean = splat(delta);
  for (int64_t j = columns.begin; j < columns.end; j += kWidth) {
    const f32x8 e = simd::exp_nonpositive(simd::fma(simd::load(p + j), factor, shift));
    simd::store(p + j, e);
    simd::store(ds + j, factor * e * (simd::load(ds + j) - mean));
  }
}

// One head of one sequence: dq of `queries` from all their keys, or dk and dv of `keys` from all
// their queries, or both.
struct Part {
  int64_t h, shift;
  Range queries, keys;
  bool dq, dkv;
};

// An upper bound on the scratch that backward() takes when dq has so many rows.
int64_t backward_bytes(int64_t dq_rows, int64_t Dqk, int64_t Dv) {
  constexpr int64_t kTakes = 12;
  const int64_t q = whole(Dqk), v = whole(Dv);
  return 4 * (2 * kTile * (kBackwardKeys + kGap) + 2 * kTile * (q + v) +
              kBackwardKeys * (3 * q + 2 * v) + dq_rows * q + kTakes * (kPackSlack + 16));
}

void backward(const AttentionBackward& a, const Part& part, Scratch scratch) {
  const int64_t Dqk = a.q.dim(2), Dv = a.v.dim(2), h = part.h;
  const int64_t q_ld = whole(Dqk), v_ld = whole(Dv);
  constexpr int64_t kLd = kBackwardKeys + kGap;
  const int32_t* first_key = a.first_key.as<int32_t>();
  ScratchPieces pieces("attention_backward", scratch);
  float *p = pieces.take(kTile * kLd), *ds = pieces.take(kTile * kLd);
  float* q_strips = pieces.take(packed_left(kTile, Dqk));
  float* dout_strips = pieces.take(packed_left(kTile, Dv));
  float* q_columns = pieces.take(packed_right(kTile, Dqk));
  float* dout_columns = pieces.take(packed_right(kTile, Dv));
  float* k_strips = pieces.take(packed_right(Dqk, kBackwardKeys));
  float* v_strips = pieces.take(packed_right(Dv, kBackwardKeys));
  float* k_columns = pieces.take(packed_right(kBackwardKeys, Dqk));
  float *dk = pieces.take(kBackwardKeys * q_ld), *dv = pieces.take(kBackwardKeys * v_ld);
  float* dq = part.dq ? pieces.take(part.queries.size() * q_ld) : nullptr;
  if (part.dq) std::fill_n(dq, part.queries.size() * q_ld, 0.0f);

  for (int64_t key = part.keys.begin; key < part.keys.end; key += kBackwardKeys) {
    const Range keys{key, std::min(key + kBackwardKeys, part.keys.end)};
    const Right k = pack_right(k_strips, head(a.k, key, h, true), Dqk, keys.size());
    const Right v = pack_right(v_strips, head(a.v, key, h, true), Dv, keys.size());
    const Right k_natural = pack_right(k_columns, head(a.k, key, h), keys.size(), Dqk);
    std::fill_n(dk, keys.size() * q_ld, 0.0f);
    std::fill_n(dv, keys.size() * v_ld, 0.0f);
    const int64_t above =
        std::max<int64_t>(0, keys.begin - part.shift - part.queries.begin) / kTile * kTile;
    for (int64_t t = part.queries.begin + above; t < part.queries.end; t += kTile) {
      const Range rows{t, std::min(t + kTile, part.queries.end)};
      if (first_key[t] >= keys.end) break;  // this and all later rows are of later documents
      if (rows.end + part.shift <= keys.begin) continue;
      const int64_t n = rows.size();
      const Range columns = columns_of_tile(first_key, rows, keys, part.shift),
                  strips{columns.begin, whole(columns.end)};
      const auto from_column = [&](const Right& x) {
        return Right{x.data + columns.begin / kTileColumns * x.strip, x.inner, x.strip};
      };
      const Left q = pack_left(q_strips, head(a.q, t, h), n, Dqk);
      const Left dout = pack_left(dout_strips, head(a.dout, t, h), n, Dv);
      multiply(p + columns.begin, kLd, n, columns.size(), Dqk, q, from_column(k), false, true);
      multiply(ds + columns.begin, kLd, n, columns.size(), Dv, dout, from_column(v), false, true);
      for (int64_t i = 0; i < n; ++i) {
        mask_row(p + i * kLd, first_key, t + i, part.shift, keys, columns);
        differentiate(p + i * kLd, ds + i * kLd, strips, a.scale,
                      a.lse.as<float>()[stat(a.lse, t + i, h)],
                      a.delta.as<float>()[stat(a.delta, t + i, h)]);
      }
      if (part.dkv) {
        const Right q_natural = pack_right(q_columns, head(a.q, t, h), n, Dqk);
        const Right dout_natural = pack_right(dout_columns, head(a.dout, t, h), n, Dv);
        multiply(dk + columns.begin * q_ld, q_ld, columns.size(), Dqk, n,
                 columns_of(ds + columns.begin, kLd), q_natural, true, true);
        multiply(dv + columns.begin * v_ld, v_ld, columns.size(), Dv, n,
                 columns_of(p + columns.begin, kLd), dout_natural, true, true);
      }
      if (part.dq) {
        multiply(
            dq + (t - part.queries.begin) * q_ld, q_ld, n, Dqk, columns.size(),
            rows_of(ds + columns.begin, kLd),
            {k_natural.data + columns.begin * k_natural.inner, k_natural.inner, k_natural.strip},
            true, true);
      }
    }
    if (!part.dkv) continue;
    store_rows(a.dk, key, h, keys.size(), dk, q_ld, a.accumulate);
    store_rows(a.dv, key, h, keys.size(), dv, v_ld, a.accumulate);
  }
  if (part.dq) store_rows(a.dq, part.queries.begin, h, part.queries.size(), dq, q_ld);
}

}  // namespace

void attention_backward(Stream& stream, const AttentionBackward& a) {
  const Rows layout(a);
  check_first_key("attention_backward", a.first_key, layout);
  row_dots(stream, a);
  constexpr int64_t kEnoughTasks = 4;
  const int64_t H = a.q.dim(1), S = a.sequence, Sk = layout.keys, sequences = a.q.dim(0) / S;
  const bool fits = backward_bytes(S, a.q.dim(2), a.v.dim(2)) <= int64_t{ThreadPool::kScratchBytes};
  if (fits && sequences * H >= kEnoughTasks) {
    stream.parallel_for(sequences * H, [&](int64_t task, Scratch scratch) {
      const int64_t row = task / H;
      backward(a,
               {task % H,
                layout.shift(row),
                {row * S, (row + 1) * S},
                {row * Sk, (row + 1) * Sk},
                true,
                true},
               scratch);
    });
    return;
  }
  const int64_t groups = (S + kGroup - 1) / kGroup;
  stream.parallel_for(sequences * groups * H, [&](int64_t task, Scratch scratch) {
    const int64_t row = task / H / groups, group = groups - 1 - task / H % groups;
    const Range queries{row * S + group * kGroup, row * S + std::min(S, (group + 1) * kGroup)};
    const int64_t first = a.first_key.as<int32_t>()[queries.begin] - row * Sk;
    const Range keys{row * Sk + first / kBackwardKeys * kBackwardKeys,
                     queries.end + layout.shift(row)};
    backward(a, {task % H, layout.shift(row), queries, keys, true, false}, scratch);
  });
  const int64_t blocks = (Sk + kBackwardKeys - 1) / kBackwardKeys;
  stream.parallel_for(sequences * blocks * H, [&](int64_t task, Scratch scratch) {
    const int64_t row = task / H / blocks, block = task / H % blocks;
    const Range keys{row * Sk + block * kBackwardKeys,
                     row * Sk + std::min(Sk, (block + 1) * kBackwardKeys)};
    backward(a, {task % H, layout.shift(row), {row * S, (row + 1) * S}, keys, false, true},
             scratch);
  });
}

}  // namespace nereus::ops::cpu
