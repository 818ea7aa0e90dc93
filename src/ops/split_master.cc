#include "ops/split_master.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/split_math.h"

namespace nereus::ops {
namespace {

void check(const char* op, const ConstTensorView& x, const ConstTensorView& copy,
           const ConstTensorView& remainder, const ConstTensorView& v) {
  const Shape n{x.count()};
  expect(op, "x", x, DType::f32, n);
  expect(op, "copy", copy, DType::bf16, n);
  expect(op, "remainder", remainder, DType::i16, n);
  expect_float(op, "v", v);
  expect(op, "v", v, v.dtype, n);
}

}  // namespace

void check(const SplitMaster& a) { check("split_master", a.x, a.copy, a.remainder, a.v); }
void check(const JoinMaster& a) { check("join_master", a.x, a.copy, a.remainder, a.v); }

namespace cpu {
namespace {

constexpr int64_t kChunk = 1 << 15;  // elements a task

template <class Body>  // of element i
void for_each_element(Stream& stream, int64_t n, Body&& body) {
  stream.parallel_for((n + kChunk - 1) / kChunk, [&](int64_t task, Scratch) {
    for (int64_t i = task * kChunk; i < std::min(n, (task + 1) * kChunk); ++i) body(i);
  });
}

}  // namespace

void split_master(Stream& stream, const SplitMaster& a) {
  visit_float(a.v.dtype, [&]<class M>() {
    for_each_element(stream, a.x.count(), [&](int64_t i) {
      const MasterParts p = split(a.x.as<float>()[i]);
      a.copy.as<bf16>()[i] = p.copy;
      a.remainder.as<int16_t>()[i] = p.remainder;
      M& v = a.v.as<M>()[i];
      v = M(with_sign(magnitude(static_cast<float>(v)), p.tie_down));
    });
  });
}

void join_master(Stream& stream, const JoinMaster& a) {
  visit_float(a.v.dtype, [&]<class M>() {
    for_each_element(stream, a.x.count(), [&](int64_t i) {
      a.x.as<float>()[i] = join({a.copy.as<bf16>()[i], a.remainder.as<int16_t>()[i],
                                 negative(static_cast<float>(a.v.as<M>()[i]))});
    });
  });
}

}  // namespace cpu
}  // namespace nereus::ops
