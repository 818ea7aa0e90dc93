#include "ops/grouped_cutlass.cuh"

namespace nereus::ops::cuda {
namespace {

using Forward = GroupedKernel<cutlass::layout::RowMajor, cutlass::layout::ColumnMajor,
                              cutlass::bfloat16_t, cute::Shape<cute::_128, cute::_256, cute::_64>,
                              cute::Shape<cute::_2, cute::_1, cute::_1>>;

__global__ void groups_kernel(Forward::Groups g, GroupedProblem p) {
  const int64_t e = threadIdx.x + int64_t{blockIdx.x} * blockDim.x;
  if (e >= p.groups) return;
  const int64_t first = p.offsets[e], rows = p.offsets[e + 1] - first;
  g.shape[e] = {static_cast<int>(rows), static_cast<int>(p.N), static_cast<int>(p.K)};
  g.a[e] = static_cast<const Forward::Element*>(p.a) + first * p.K;
  g.b[e] = static_cast<const Forward::Element*>(p.b) + e * p.N * p.K;
  g.out[e] = static_cast<cutlass::bfloat16_t*>(p.out) + first * p.N;
  g.stride_a[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
  g.stride_b[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
  g.stride_c[e] = cute::make_stride(p.N, cute::_1{}, cute::_0{});
}

}  // namespace

void grouped_forward(Stream& stream, const GroupedProblem& p) {
  auto& state = stream.state<Forward::State>();
  const Forward::Groups groups = state.groups(p.groups);
  groups_kernel<<<static_cast<unsigned>(ceil_div(p.groups, 128)), 128, 0, native(stream)>>>(groups,
                                                                                            p);
  Forward::run(stream, "grouped_matmul", groups, p, state);
  check_launch("grouped_matmul");
}

}  // namespace nereus::ops::cuda
