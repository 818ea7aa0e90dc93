#include "ops/peer_rows.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {
namespace {

void expect_peers(const char* op, const char* name, const PeerTensor& t, DType dtype,
                  const Shape& shape) {
  expect_rank(op, "bases", t.bases, 1);
  expect(op, "bases", t.bases, DType::i64, t.bases.shape);
  NEREUS_CHECK(kContract, t.dtype == dtype && t.shape == shape && t.offset % 16 == 0,
               "{}: {} is {} {} at {} bytes, expected {} {} at a multiple of 16", op, name, t.dtype,
               t.shape, t.offset, dtype, shape);
}

void expect_places(const char* op, ConstTensorView place, int64_t T) {
  expect_rank(op, "place", place, 3);
  expect(op, "place", place, DType::i32, {T, place.dim(1), 2});
  expect_contiguous(op, "place", place);
}

}  // namespace

void check(const PeerPlan& a) {
  const char* op = "peer_plan";
  expect_rank(op, "ids", a.ids, 2);
  expect_rank(op, "offsets", a.offsets, 2);
  expect_rank(op, "local_offsets", a.local_offsets, 1);
  const int64_t T = a.ids.dim(0), K = a.ids.dim(1), P = a.offsets.dim(0);
  const int64_t E = a.local_offsets.dim(0) - 1;
  expect(op, "ids", a.ids, DType::i32, {T, K});
  expect(op, "row_of_slot", a.row_of_slot, DType::i32, {T, K});
  expect(op, "offsets", a.offsets, DType::i32, {P, P * E + 1});
  expect(op, "local_offsets", a.local_offsets, DType::i32, {E + 1});
  expect(op, "first_row", a.first_row, DType::i32, {P * E});
  if (given(a.wanted)) expect(op, "wanted", a.wanted, DType::i64, {1});
  expect_places(op, a.place, T);
  expect(op, "place", a.place, DType::i32, {T, K, 2});
  expect_contiguous(op, "ids", a.ids);
  expect_contiguous(op, "row_of_slot", a.row_of_slot);
  expect_contiguous(op, "offsets", a.offsets);
  NEREUS_CHECK(kContract, a.rank >= 0 && a.rank < P && a.rows >= 0 && P * E <= 12'288,
               "peer_plan: rank {} of {}, {} rows, {} experts; at most 12,288 are taken", a.rank, P,
               a.rows, P * E);
}

void check(const PeerPermute& a) {
  const char* op = "peer_permute";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 2);
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  expect_places(op, a.place, T);
  NEREUS_CHECK(kContract, a.rows.shape.rank() == 2, "peer_permute: rows is {}", a.rows.shape);
  expect_peers(op, "rows", a.rows, a.x.dtype, {a.rows.shape[0], D});
  if (given(a.row_weights))
    expect_peers(op, "row_weights", a.row_weights, DType::f32, {a.rows.shape[0]});
  if (given(a.row_weights) || a.weigh)
    expect(op, "weights", a.weights, DType::f32, {T, a.place.dim(1)});
}

void check(const PeerCombine& a) {
  const char* op = "peer_combine";
  expect_float(op, "out", a.out);
  expect_rank(op, "out", a.out, 2);
  const int64_t T = a.out.dim(0), D = a.out.dim(1), K = a.place.dim(1);
  expect_places(op, a.place, T);
  NEREUS_CHECK(kContract, a.rows.shape.rank() == 2, "peer_combine: rows is {}", a.rows.shape);
  expect_peers(op, "rows", a.rows, a.out.dtype, {a.rows.shape[0], D});
  if (given(a.scalars)) {
    expect(op, "scalars", a.scalars, DType::f32, {T, K});
    expect_peers(op, "row_scalars", a.row_scalars, DType::f32, {a.rows.shape[0]});
  }
  if (given(a.weights)) expect(op, "weights", a.weights, DType::f32, {T, K});
  if (given(a.addend)) expect(op, "addend", a.addend, a.out.dtype, {T, D});
}

void check(const PeerDot& a) {
  const char* op = "peer_dot";
  expect_float(op, "x", a.x);
  expect_rank(op, "x", a.x, 2);
  expect_places(op, a.place, a.x.dim(0));
  NEREUS_CHECK(kContract, a.rows.shape.rank() == 2, "peer_dot: rows is {}", a.rows.shape);
  expect_peers(op, "rows", a.rows, a.x.dtype, {a.rows.shape[0], a.x.dim(1)});
  expect(op, "out", a.out, DType::f32, {a.x.dim(0), a.place.dim(1)});
}

namespace cpu {
namespace {

constexpr int64_t kRows = 16;  // a task

struct Place {
  int32_t rank, row;
};
Place place_of(ConstTensorView place, int64_t t, int64_t k) {
  const int32_t* p = place.as<int32_t>() + (t * place.dim(1) + k) * 2;
  return {p[0], p[1]};
}

// Of a tensor of rows, or of one number a row.
template <class E>
E* row_of(const PeerTensor& peers, Place p) {
  const int64_t width = peers.shape.rank() == 1 ? 1 : peers.shape[1];
  return reinterpret_cast<E*>(peers.bases.as<int64_t>()[p.rank] + peers.offset) + p.row * width;
}

float weight_of(ConstTensorView weights, int64_t t, int64_t k) {
  return weights.as<float>()[t * weights.row_stride() + k];
}

}  // namespace

void peer_plan(Stream&, const PeerPlan& a) {
  const int64_t P = a.offsets.dim(0), E = a.local_offsets.dim(0) - 1, all = P * E;
  const int32_t* offsets = a.offsets.as<int32_t>();
  const auto count = [&](int64_t sender, int64_t e) {
    return offsets[sender * (all + 1) + e + 1] - offsets[sender * (all + 1) + e];
  };
  auto* const first = a.first_row.as<int32_t>();
  auto* const local = a.local_offsets.as<int32_t>();
  int64_t most = 0;
  for (int64_t r = 0; r < P; ++r) {
    int64_t row = 0;
    for (int64_t e = r * E; e < (r + 1) * E; ++e) {
      if (r == a.rank) local[e - r * E] = static_cast<int32_t>(std::min(row, a.rows));
      for (int64_t s = 0; s < P; ++s) {
        if (s == a.rank) first[e] = static_cast<int32_t>(row);
        row += count(s, e);
      }
    }
    if (r == a.rank) local[E] = static_cast<int32_t>(std::min(row, a.rows));
    most = std::max(most, row);
  }
  if (given(a.wanted) && most > a.rows)
    a.wanted.as<int64_t>()[0] = std::max(a.wanted.as<int64_t>()[0], most);
  const int32_t *ids = a.ids.as<int32_t>(), *sorted = a.row_of_slot.as<int32_t>();
  auto* const place = a.place.as<int32_t>();
  for (int64_t s = 0; s < a.ids.count(); ++s) {
    const int32_t e = ids[s];
    const int64_t row = first[e] + sorted[s] - offsets[a.rank * (all + 1) + e];
    place[2 * s] = row < a.rows ? static_cast<int32_t>(e / E) : -1;
    place[2 * s + 1] = static_cast<int32_t>(row);
  }
}

void peer_permute(Stream& stream, const PeerPermute& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1), K = a.place.dim(1);
  visit_float(a.x.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* x = a.x.as<E>() + t * a.x.row_stride();
        for (int64_t k = 0; k < K; ++k) {
          const Place p = place_of(a.place, t, k);
          if (p.rank < 0) continue;
          E* out = row_of<E>(a.rows, p);
          if (given(a.row_weights)) *row_of<float>(a.row_weights, p) = weight_of(a.weights, t, k);
          if (!a.weigh) {
            std::copy_n(x, D, out);
            continue;
          }
          const simd::f32x8 w = simd::splat(weight_of(a.weights, t, k));
          simd::for_each(D, [&](auto get, auto put) { put(out, get(x, 0) * w); });
        }
      }
    });
  });
}

void peer_combine(Stream& stream, const PeerCombine& a) {
  const int64_t T = a.out.dim(0), D = a.out.dim(1), K = a.place.dim(1);
  if (given(a.scalars)) {
    for (int64_t t = 0; t < T; ++t)
      for (int64_t k = 0; k < K; ++k) {
        const Place p = place_of(a.place, t, k);
        a.scalars.as<float>()[t * a.scalars.row_stride() + k] =
            p.rank < 0 ? 0.0f : *row_of<float>(a.row_scalars, p);
      }
  }
  visit_float(a.out.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* addend = given(a.addend) ? a.addend.as<E>() + t * a.addend.row_stride() : nullptr;
        E* out = a.out.as<E>() + t * a.out.row_stride();
        simd::for_each(D, [&](auto get, auto put) {
          simd::f32x8 sum = simd::splat(0);
          for (int64_t k = 0; k < K; ++k) {
            const Place p = place_of(a.place, t, k);
            if (p.rank < 0) continue;
            const simd::f32x8 x = get(row_of<E>(a.rows, p), 0);
            sum += given(a.weights) ? x * simd::splat(weight_of(a.weights, t, k)) : x;
          }
          put(out, addend == nullptr ? sum : sum + get(addend, 0));
        });
      }
    });
  });
}

void peer_dot(Stream& stream, const PeerDot& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1), K = a.place.dim(1);
  visit_float(a.x.dtype, [&]<class E>() {
    stream.parallel_for((T + kRows - 1) / kRows, [&](int64_t task, Scratch) {
      for (int64_t t = task * kRows; t < std::min(T, (task + 1) * kRows); ++t) {
        const E* x = a.x.as<E>() + t * a.x.row_stride();
        for (int64_t k = 0; k < K; ++k) {
          const Place p = place_of(a.place, t, k);
          simd::f32x8 dot = simd::splat(0);
          if (p.rank >= 0) {
            const E* row = row_of<E>(a.rows, p);
            simd::for_each(D, [&](auto get, auto) { dot += get(x, 0) * get(row, 0); });
          }
          a.out.as<float>()[t * a.out.row_stride() + k] = simd::sum(dot);
        }
      }
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
