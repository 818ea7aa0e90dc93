#include "ops/elementwise.h"

#include <algorithm>
#include <array>

#include "ops/contract.h"
#include "ops/simd.h"

namespace nereus::ops {

void check(const Fill& a) {
  expect_contiguous("fill", "out", a.out);
  NEREUS_CHECK(kContract,
               a.out.dtype == DType::f32 || a.out.dtype == DType::bf16 ||
                   a.out.dtype == DType::i32 || a.out.dtype == DType::i64,
               "fill: out is {}, expected f32, bf16, i32 or i64", a.out);
}

void check(const Cast& a) {
  expect_float("cast", "out", a.out);
  expect_float("cast", "x", a.x);
  expect_contiguous("cast", "out", a.out);
  expect_contiguous("cast", "x", a.x);
  NEREUS_CHECK(kContract, a.out.count() == a.x.count(), "cast: out is {}, but x is {}", a.out, a.x);
}

void check(const Add& a) {
  expect_float("add", "out", a.out);
  expect("add", "a", a.a, a.out.dtype, a.out.shape);
  expect("add", "b", a.b, a.out.dtype, a.out.shape);
  expect_contiguous("add", "out", a.out);
  expect_contiguous("add", "a", a.a);
  expect_contiguous("add", "b", a.b);
}

void check(const Sum& a) {
  expect("sum", "out", a.out, DType::f32, {1});
  NEREUS_CHECK(kContract, a.x.dtype == DType::f32, "sum: x is {}, expected f32", a.x);
  expect_contiguous("sum", "x", a.x);
}

namespace cpu {
namespace {

constexpr int64_t kChunk = 1 << 16;  // elements a task

// task(begin, end) for the chunks of [0, n).
template <class Task>
void for_chunks(Stream& stream, int64_t n, Task&& task) {
  stream.parallel_for((n + kChunk - 1) / kChunk,
                      [&](int64_t i, Scratch) { task(i * kChunk, std::min(n, (i + 1) * kChunk)); });
}

}  // namespace

void fill(Stream& stream, const Fill& a) {
  const auto run = [&]<class E>(E value) {
    E* out = a.out.as<E>();
    for_chunks(stream, a.out.count(),
               [&](int64_t begin, int64_t end) { std::fill(out + begin, out + end, value); });
  };
  switch (a.out.dtype) {
    case DType::f32:
      return run(static_cast<float>(a.value));
    case DType::bf16:
      return run(bf16(static_cast<float>(a.value)));
    case DType::i32:
      return run(static_cast<int32_t>(a.value));
    default:
      return run(static_cast<int64_t>(a.value));
  }
}

void cast(Stream& stream, const Cast& a) {
  visit_float(a.out.dtype, [&]<class To>() {
    visit_float(a.x.dtype, [&]<class From>() {
      To* out = a.out.as<To>();
      const From* x = a.x.as<From>();
      for_chunks(stream, a.x.count(), [&](int64_t begin, int64_t end) {
        simd::for_each(end - begin,
                       [&](auto get, auto put) { put(out + begin, get(x + begin, 0)); });
      });
    });
  });
}

void add(Stream& stream, const Add& a) {
  visit_float(a.out.dtype, [&]<class E>() {
    E* out = a.out.as<E>();
    const E *x = a.a.as<E>(), *y = a.b.as<E>();
    for_chunks(stream, a.out.count(), [&](int64_t begin, int64_t end) {
      simd::for_each(end - begin, [&](auto get, auto put) {
        put(out + begin, get(x + begin, 0) + get(y + begin, 0));
      });
    });
  });
}

void sum(Stream&, const Sum& a) {
  const float* x = a.x.as<float>();
  simd::f32x8 lanes = simd::splat(0);
  simd::for_each(a.x.count(), [&](auto get, auto) { lanes += get(x, 0); });
  const float total = a.scale * simd::sum(lanes);
  float* out = a.out.as<float>();
  out[0] = a.accumulate ? out[0] + total : total;
}

}  // namespace cpu
}  // namespace nereus::ops
