// The memory of ops in addition to their arguments: measured once, then fixed. Judged by the
// header's rule.
#include "ops/workspace.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "ops/embedding.h"
#include "ops/permute.h"
#include "ops/rmsnorm.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

constexpr int64_t kMore = Workspace::kLeastBytes + 1;

class WorkspaceTest : public testing::Test {
 protected:
  ThreadPool pool_{1};
  Stream stream_{Device::cpu(), &pool_};
  Workspace workspace_{stream_};
};

TEST_F(WorkspaceTest, GrowsAsOpsAskWhereNothingWasMeasured) {
  EXPECT_EQ(workspace_.bytes(), 0);
  EXPECT_NE(workspace_.take<float>(10), nullptr);
  EXPECT_EQ(workspace_.bytes(), Workspace::kLeastBytes);
  workspace_.take<char>(kMore);
  EXPECT_EQ(workspace_.bytes(), kMore);
}

TEST_F(WorkspaceTest, IsFixedOnceItWasMeasured) {
  workspace_.reserve<double>(8);
  workspace_.reserve<char>(kMore);
  workspace_.reserve<float>(1);
  EXPECT_EQ(workspace_.bytes(), kMore);
  const std::byte* const block = workspace_.take<std::byte>(kMore);
  EXPECT_EQ(workspace_.take<std::byte>(1), block);
  try {
    workspace_.take<char>(kMore + 1);
    ADD_FAILURE() << "more was given than was measured";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kContract);
    EXPECT_THAT(e.what(), testing::HasSubstr("a workspace of 33554434 bytes, and the step that was "
                                             "measured needs 33554433"));
  }
  EXPECT_EQ(workspace_.bytes(), kMore);
  workspace_.reserve<char>(kMore + 1);  // measured again, for more
  EXPECT_NE(workspace_.take<char>(kMore + 1), nullptr);
}

TEST_F(WorkspaceTest, HasItsLeastBlockAlsoWhereNothingMoreWasMeasured) {
  workspace_.reserve<char>(0);
  EXPECT_EQ(workspace_.bytes(), Workspace::kLeastBytes);
  EXPECT_NE(workspace_.take<char>(Workspace::kLeastBytes), nullptr) << "needs no measuring";
}

// On a GPU: an op, run on the meta device for the GPU's stream and then on the stream itself. The
// sizes need more than the least block, so that what was not measured shows.
class MeasuredOps : public testing::Test {
 protected:
  void SetUp() override {
    for (const Device device : test::devices())
      if (device.kind == Device::Kind::cuda) device_ = device;
    if (device_.kind != Device::Kind::cuda) GTEST_SKIP() << "needs a GPU";
  }
  test::Tensor tensor(DType dtype, const Shape& shape) const {
    return test::Tensor(device_, dtype, shape).fill(0);
  }
  template <class Run>
  void expect_measured(Run run) {
    Stream stream = test::stream(device_), meta = Stream::meta_for(stream);
    run(meta);
    const int64_t bytes = stream.state_bytes();
    EXPECT_GT(bytes, Workspace::kLeastBytes);
    EXPECT_NO_THROW(run(stream));
    EXPECT_EQ(stream.state_bytes(), bytes);
    stream.synchronize();
  }
  Device device_ = Device::cpu();
};

TEST_F(MeasuredOps, BackwardOfNorms) {
  const int64_t T = 1200, D = 17000;
  const auto x = tensor(DType::bf16, {T, D}), w = tensor(DType::f32, {D}),
             rstd = tensor(DType::f32, {T}), dx = tensor(DType::bf16, {T, D}),
             dw = tensor(DType::f32, {D});
  const RmsNormBackward norm{.dx = dx, .dweight = dw, .dy = x, .x = x, .weight = w, .rstd = rstd};
  expect_measured([&](Stream& s) { rmsnorm_backward(s, norm); });
  expect_measured([&](Stream& s) { rmsnorm_pair_backward(s, {.first = norm, .second = norm}); });
}

TEST_F(MeasuredOps, BackwardOfTheEmbedding) {
  const int64_t T = 4, V = 9'000'000;
  const auto table = tensor(DType::f32, {V, 1}), dy = tensor(DType::f32, {T, 1}),
             ids = tensor(DType::i32, {T});
  expect_measured(
      [&](Stream& s) { embedding_backward(s, {.dtable = table, .dy = dy, .ids = ids}); });
}

TEST_F(MeasuredOps, ThePlanOfAPermutation) {
  const int64_t T = int64_t{1} << 20, E = 2200;
  const auto row = tensor(DType::i32, {T, 1}), slot = tensor(DType::i32, {T}),
             offsets = tensor(DType::i32, {E + 1}), ids = tensor(DType::i32, {T, 1});
  expect_measured([&](Stream& s) {
    permute_plan(s, {.row_of_slot = row, .slot_of_row = slot, .offsets = offsets, .ids = ids});
  });
}

}  // namespace
}  // namespace nereus::ops
