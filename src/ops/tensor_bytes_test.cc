#include "ops/tensor_bytes.h"

#include <gtest/gtest.h>

#include "device/trace.h"
#include "ops/elementwise.h"
#include "ops/rmsnorm.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(TensorBytes, AreThoseOfTheTensorsThatAnOpIsGiven) {
  ops::RmsNormForward norm{.y = TensorView(nullptr, DType::bf16, {3, 8}),
                           .rstd = TensorView(nullptr, DType::f32, {3}),
                           .x = ConstTensorView(nullptr, DType::bf16, {3, 8}),
                           .weight = ConstTensorView(nullptr, DType::f32, {8})};
  EXPECT_EQ(ops::tensor_bytes(norm), 2 * 3 * 8 * 2 + 3 * 4 + 8 * 4);
  EXPECT_EQ(ops::tensor_bytes(ops::RmsNormPairForward{norm, norm}), 2 * (96 + 12 + 32));
}

TEST(TensorBytes, StandInTheRangeOfTheOp) {
  TraceRecorder recorder;
  Stream stream = test::stream(Device::cpu());
  stream.set_trace(&recorder);
  float x[6] = {};
  const TensorView out(reinterpret_cast<std::byte*>(x), DType::f32, {6});
  ops::fill(stream, {.out = out, .value = 1});
  recorder.start({.ranges = true});
  ops::fill(stream, {.out = out, .value = 2});
  const TraceRecording r = recorder.take();
  ASSERT_EQ(r.events.size(), 1u);
  EXPECT_STREQ(r.events[0].name, "fill");
  EXPECT_EQ(r.events[0].kind, TraceKind::op);
  EXPECT_EQ(r.events[0].args.bytes, 24);
}

}  // namespace
}  // namespace nereus
