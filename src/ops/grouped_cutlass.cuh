// One CUTLASS grouped kernel: bf16 GEMMs on the tensor cores with f32 sums, one warp-specialized
// persistent grid over the tiles of all groups (CUTLASS 4.2, the schemes of its examples 57 and
// 75). For the .cu files of grouped_cutlass.h only.
#pragma once

#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/dispatch_policy.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "ops/cuda.cuh"
#include "ops/grouped_cutlass.h"

namespace nereus::ops::cuda {

// What a generation of GPUs calls its kernels.
struct Hopper {
  using Arch = cutlass::arch::Sm90;
  using Schedule = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative;
  using EpilogueSchedule = cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative;
};
struct Blackwell {  // two SMs share a tile of 256 rows
  using Arch = cutlass::arch::Sm100;
  using Schedule = cutlass::gemm::KernelPtrArrayTmaWarpSpecialized2SmSm100;
  using EpilogueSchedule = cutlass::epilogue::PtrArrayTmaWarpSpecialized2Sm;
};

// LayoutA and LayoutB as CUTLASS names them for C[M,N] = A[M,K] B[K,N].
template <class LayoutA, class LayoutB, class Output, class TileShape, class ClusterShape,
          class Target>
struct GroupedKernel {
  using Shape = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;
  using Element = cutlass::bfloat16_t;
  using LayoutC = cutlass::layout::RowMajor;
  static constexpr int kAlign = 8, kAlignOut = 16 / static_cast<int>(sizeof(Output));

  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      typename Target::Arch, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Output, LayoutC*, kAlignOut,
      Output, LayoutC*, kAlignOut, typename Target::EpilogueSchedule>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      typename Target::Arch, cutlass::arch::OpClassTensorOp, Element, LayoutA*, kAlign, Element,
      LayoutB*, kAlign, float, TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      typename Target::Schedule>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
  using StrideA = typename Kernel::InternalStrideA;
  using StrideB = typename Kernel::InternalStrideB;
  using StrideC = typename Kernel::InternalStrideC;
  using Problem = typename Shape::UnderlyingProblemShape;

  // What the kernel reads of each group, in arrays on the device.
  struct Groups {
    Problem* shape;
    const Element** a;
    const Element** b;
    Output** out;
    StrideA* stride_a;
    StrideB* stride_b;
    StrideC* stride_c;
  };

  // The kernel's own memory: the arrays of the groups, then CUTLASS's workspace (tensor maps).
  class State : public StreamState {
   public:
    explicit State(Stream& stream) : device_(stream.device()) {}
    int64_t bytes() const override { return buffer_.bytes(); }

    // Memory for `count` groups: before the first step, so that groups() finds it.
    void reserve(int64_t count) {
      if (count <= count_) return;
      // Tensor maps of all SMs: 4 x 128 bytes each; twice that and more.
      const int64_t need = 8 * padded(count, 32) + (int64_t{1} << 20);
      buffer_ = Buffer(device_, need, "workspace of grouped GEMMs");
      count_ = count;
    }

    Groups groups(int64_t count) {
      reserve(count);
      std::byte* p = buffer_.data();
      const auto take = [&]<class T>(T*& array) {
        array = reinterpret_cast<T*>(p);
        p += padded(count, sizeof(T));
      };
      Groups g{};
      take(g.shape);
      take(g.a);
      take(g.b);
      take(g.out);
      take(g.stride_a);
      take(g.stride_b);
      take(g.stride_c);
      workspace_ = p;
      return g;
    }
    void* workspace() const { return workspace_; }
    int64_t workspace_bytes() const { return buffer_.data() + buffer_.bytes() - workspace_; }

   private:
    static int64_t padded(int64_t count, size_t size) {
      return (count * static_cast<int64_t>(size) + 127) / 128 * 128;
    }
    Device device_;
    Buffer buffer_;
    int64_t count_ = 0;
    std::byte* workspace_ = nullptr;
  };

  static void run(Stream& stream, const char* op, const Groups& groups, const GroupedProblem& p,
                  State& state) {
    typename Kernel::TileScheduler::Arguments scheduler{};
    using Order = typename cutlass::gemm::kernel::detail::RasterOrderOptions;
    scheduler.raster_order = p.along_columns ? Order::AlongN : Order::AlongM;
    scheduler.max_swizzle_size = p.swizzle;
    typename Gemm::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGrouped,
        {static_cast<int>(p.groups), groups.shape, nullptr},
        {groups.a, groups.stride_a, groups.b, groups.stride_b},
        {{}, const_cast<const Output**>(groups.out), groups.stride_c, groups.out, groups.stride_c},
        {stream.device().index, stream.gemm_sms()},
        scheduler};
    arguments.epilogue.thread.alpha = 1.0f;
    arguments.epilogue.thread.beta = p.accumulate ? 1.0f : 0.0f;
    Gemm gemm;
    cutlass::Status status = Gemm::can_implement(arguments);
    if (status != cutlass::Status::kSuccess)
      fail_cutlass(op, "can_implement", cutlassGetStatusString(status));
    if (static_cast<int64_t>(Gemm::get_workspace_size(arguments)) > state.workspace_bytes())
      fail_cutlass(op, "get_workspace_size", "more workspace than was reserved");
    status = gemm.initialize(arguments, state.workspace(), native(stream));
    if (status != cutlass::Status::kSuccess)
      fail_cutlass(op, "initialize", cutlassGetStatusString(status));
    status = gemm.run(native(stream));
    if (status != cutlass::Status::kSuccess)
      fail_cutlass(op, "run", cutlassGetStatusString(status));
  }
};

}  // namespace nereus::ops::cuda
