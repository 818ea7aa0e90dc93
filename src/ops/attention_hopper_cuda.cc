#include <cuda_runtime.h>

#include "base/check.h"
#include "device/cuda_runtime.h"
#include "ops/attention_hopper.h"
#include "ops/attention_hopper_kernels.h"
#include "ops/attention_hopper_workspace.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

struct Generation : StreamState {
  explicit Generation(Stream& stream)
      : hopper(nereus::cuda::properties(stream.device().index).major == 9) {}
  bool hopper;
};

// As the TMA wants it: 16 bytes between all that it steps over.
bool fits(const ConstTensorView& v, int64_t width) {
  return v.dtype == DType::bf16 && v.dim(2) <= width && v.dim(2) % 8 == 0 && v.stride[0] % 8 == 0 &&
         v.stride[1] % 8 == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
}
template <class A>
bool takes(Stream& stream, const A& a) {
  return stream.state<Generation>().hopper &&
         !(a.kernels.cudnn && a.mask == AttentionMask::causal && a.key_sequence == 0) &&
         a.scale > 0 && fits(a.q, 192) && fits(a.k, 192) && fits(a.v, 128) && fits(a.o, 128);
}

hopper::Heads heads_of(const ConstTensorView& v) {
  return {const_cast<std::byte*>(v.data), v.stride[0], v.stride[1], static_cast<int>(v.dim(2))};
}

template <class A>
hopper::Problem problem_of(Stream& stream, const A& a) {
  return {.B = static_cast<int>(a.q.dim(0) / a.sequence),
          .H = static_cast<int>(a.q.dim(1)),
          .S = static_cast<int>(a.sequence),
          .Sk = static_cast<int>(keys_of_row(a)),
          .chunk_start = static_cast<int>(a.chunk_start),
          .documents = a.mask == AttentionMask::document,
          .scale = a.scale,
          .first_key = a.first_key.template as<int>(),
          .multiprocessors = stream.gemm_sms(),
          .stream = static_cast<cudaStream_t>(stream.native())};
}

}  // namespace

namespace hopper {

CUtensorMap map_of(const Heads& x, int B, int H, int S, int rows, int columns) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                     &found);
    NEREUS_CHECK(kDevice, function != nullptr,
                 "the NVIDIA driver has no cuTensorMapEncodeTiled, which attention needs. Update "
                 "the driver, or train with --device.attention=cudnn.");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  const auto bytes = [](int64_t elements) { return static_cast<cuuint64_t>(elements * 2); };
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(x.width), static_cast<cuuint64_t>(S),
                              static_cast<cuuint64_t>(H), static_cast<cuuint64_t>(B)};
  const cuuint64_t steps[] = {bytes(x.token), bytes(x.head), bytes(x.token * S)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(columns), static_cast<cuuint32_t>(rows), 1, 1};
  const cuuint32_t ones[] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x.data, sizes, steps, box, ones,
             CU_TENSOR_MAP_INTERLEAVE_NONE,
             columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  NEREUS_CHECK(kDevice, result == CUDA_SUCCESS,
               "cuTensorMapEncodeTiled of [{}, {}, {}] x {}, {} and {} elements apart, failed with "
               "code {}",
               B * int64_t{S}, H, x.width, 1, x.token, x.head, static_cast<int>(result));
  return map;
}

}  // namespace hopper

bool hopper_takes(Stream& stream, const AttentionForward& a) { return takes(stream, a); }
bool hopper_takes(Stream& stream, const AttentionBackward& a) {
  return takes(stream, a) && fits(a.dout, 128) && fits(a.dq, 192) && fits(a.dk, 192) &&
         fits(a.dv, 128);
}

int64_t hopper_workspace(const AttentionBackward& a) {
  return ops::hopper::BackwardWorkspace(a.q.dim(0) / a.sequence * a.q.dim(1), a.sequence,
                                        ops::hopper::kernel_width(a.q.dim(2), a.v.dim(2)))
      .bytes;
}

void hopper_forward(Stream& stream, const AttentionForward& a) {
  hopper::launch(hopper::ForwardArguments{.problem = problem_of(stream, a),
                                          .o = heads_of(a.o),
                                          .q = heads_of(a.q),
                                          .k = heads_of(a.k),
                                          .v = heads_of(a.v),
                                          .lse = a.lse.as<float>(),
                                          .ticket = stream.state<Workspace>().take<int>(1)});
  nereus::cuda::check_launch("attention_forward");
}

void hopper_backward(Stream& stream, const AttentionBackward& a) {
  std::byte* memory = a.workspace.data;
  if (memory == nullptr) memory = stream.state<Workspace>().take<std::byte>(hopper_workspace(a));
  hopper::launch(hopper::BackwardArguments{.problem = problem_of(stream, a),
                                           .dq = heads_of(a.dq),
                                           .dk = heads_of(a.dk),
                                           .dv = heads_of(a.dv),
                                           .dout = heads_of(a.dout),
                                           .o = heads_of(a.o),
                                           .q = heads_of(a.q),
                                           .k = heads_of(a.k),
                                           .v = heads_of(a.v),
                                           .lse = a.lse.as<float>(),
                                           .workspace = memory,
                                           .accumulate = a.accumulate});
  nereus::cuda::check_launch("attention_backward");
}

}  // namespace nereus::ops::cuda
