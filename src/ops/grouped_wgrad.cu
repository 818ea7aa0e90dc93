#include "ops/grouped_cutlass.cuh"

namespace nereus::ops::cuda {
namespace {

using Wgrad = GroupedKernel<cutlass::layout::ColumnMajor, cutlass::layout::RowMajor, float,
                            cute::Shape<cute::_128, cute::_256, cute::_64>,
                            cute::Shape<cute::_2, cute::_1, cute::_1>>;

// An expert without rows has no tiles: a product with nothing to sum over would write what its
// registers held.
__global__ void groups_kernel(Wgrad::Groups g, GroupedProblem p) {
  const int64_t e = threadIdx.x + int64_t{blockIdx.x} * blockDim.x;
  if (e >= p.groups) return;
  const int64_t first = p.offsets[e], rows = p.offsets[e + 1] - first;
  g.shape[e] = {rows > 0 ? static_cast<int>(p.N) : 0, static_cast<int>(p.K),
                static_cast<int>(rows)};
  g.a[e] = static_cast<const Wgrad::Element*>(p.a) + first * p.N;
  g.b[e] = static_cast<const Wgrad::Element*>(p.b) + first * p.K;
  g.out[e] = static_cast<float*>(p.out) + e * p.N * p.K;
  g.stride_a[e] = cute::make_stride(cute::_1{}, p.N, cute::_0{});
  g.stride_b[e] = cute::make_stride(cute::_1{}, p.K, cute::_0{});
  g.stride_c[e] = cute::make_stride(p.K, cute::_1{}, cute::_0{});
}

}  // namespace

void grouped_wgrad(Stream& stream, const GroupedProblem& p) {
  auto& state = stream.state<Wgrad::State>();
  const Wgrad::Groups groups = state.groups(p.groups);
  groups_kernel<<<static_cast<unsigned>(ceil_div(p.groups, 128)), 128, 0, native(stream)>>>(groups,
                                                                                            p);
  Wgrad::run(stream, "grouped_wgrad", groups, p, state);
  check_launch("grouped_wgrad");
}

}  // namespace nereus::ops::cuda
