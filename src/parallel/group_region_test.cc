#include "parallel/group_region.h"

#include <gtest/gtest.h>

#include "comm/thread_ranks.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using test::Tensor;

struct Memory {
  Buffer buffer{Device::cpu(), int64_t{1} << 20, "test"};
  Arena arena = buffer.arena("test");
};

// Element (row, column) of rank r's tensor: small integers, so that sums are exact in bf16.
double element(int r, int64_t row, int64_t column) {
  return static_cast<double>((r + 1) * 3 + row % 5 - column % 4);
}

TEST(GroupRegion, GathersRowsAndScattersSumsOfStridedViewsToo) {
  for (const int tp : {1, 2, 3, 4}) {
    for (const int64_t rows : {0, 1, 3}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        run_thread_ranks(tp, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
          Stream stream(Device::cpu(), &test::pool());
          Memory saved, scratch;
          Context ctx{stream, saved.arena, saved.arena, scratch.arena};
          GroupRegion region(group);
          ASSERT_EQ(region.size(), tp);
          const int64_t T = rows * tp, D = 6;
          const int me = group.rank();
          Tensor wide(Device::cpu(), dtype, {rows, D + 5});  // x is columns [2, 2 + D)
          wide.fill(-99);
          Tensor x(Device::cpu(), dtype, {rows, D});
          for (int64_t i = 0; i < rows; ++i) {
            for (int64_t d = 0; d < D; ++d) {
              x.set_element(i * D + d, element(me, i, d));
              wide.set_element(i * (D + 5) + 2 + d, element(me, i, d));
            }
          }
          for (const ConstTensorView& in :
               {ConstTensorView(x), ConstTensorView(wide.view().columns(2, 2 + D))}) {
            const auto all = region.enter(ctx, ctx.saved_for_dgrad, in);
            const auto again = region.leave_backward(ctx, ctx.saved_for_dgrad, in);
            ASSERT_EQ(all.shape, (Shape{T, D}));
            Tensor copy(Device::cpu(), dtype, {T, D});
            for (const ConstTensorView& view : {all, again}) {
              copy_to_host(stream, copy.view().data, view);
              for (int64_t i = 0; i < T; ++i)
                for (int64_t d = 0; d < D; ++d)
                  ASSERT_EQ(copy[i * D + d], element(static_cast<int>(i / rows), i % rows, d));
            }
          }
          const auto sum = [&](bool backward, TensorView out) {
            const Arena::Scope scope(scratch.arena);
            const TensorView partial = region.partial(ctx, out);
            ASSERT_EQ(partial.shape, (Shape{T, D}));
            Tensor mine(Device::cpu(), dtype, {T, D});
            for (int64_t i = 0; i < T; ++i)
              for (int64_t d = 0; d < D; ++d) mine.set_element(i * D + d, element(me, i, d));
            copy_to_device(stream, partial, mine.view().data);
            backward ? region.enter_backward(ctx, out, partial) : region.leave(ctx, out, partial);
          };
          for (const bool backward : {false, true}) {
            x.poison();
            wide.fill(-99);
            sum(backward, x);
            sum(backward, wide.view().columns(2, 2 + D));
            for (int64_t i = 0; i < rows; ++i) {
              for (int64_t d = 0; d < D; ++d) {
                double want = 0;
                for (int r = 0; r < tp; ++r) want += element(r, me * rows + i, d);
                ASSERT_EQ(x[i * D + d], want);
                ASSERT_EQ(wide[i * (D + 5) + 2 + d], want);
              }
              ASSERT_EQ(wide[i * (D + 5) + 1], -99) << "outside of the columns";
              ASSERT_EQ(wide[i * (D + 5) + 2 + D], -99);
            }
          }
        });
      }
    }
  }
}

TEST(GroupRegion, IsMeasuredOnTheMetaDeviceWithoutTheOthers) {
  run_thread_ranks(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
    if (group.rank() == 1) return;
    Stream meta(Device::meta());
    Arena saved("saved"), scratch("scratch");
    Context ctx{meta, saved, saved, scratch};
    GroupRegion region(group);
    const TensorView x(nullptr, DType::bf16, {8, 64});
    region.enter(ctx, ctx.saved_for_dgrad, x);
    EXPECT_EQ(saved.peak_bytes(), 16 * 64 * 2);
    const TensorView partial = region.partial(ctx, x);
    region.leave(ctx, x, partial);
    EXPECT_EQ(scratch.peak_bytes(), 16 * 64 * 2);
  });
}

}  // namespace
}  // namespace nereus
