// Chooses between the grouped GEMMs of CUTLASS (bf16, rows of whole 16 bytes) and plain ones.
#include "ops/grouped_cutlass.h"
#include "ops/grouped_matmul.h"
#include "ops/product.cuh"

namespace nereus::ops::cuda {
namespace {

constexpr int kBlock = kTile * kTile;

// The tile of the block with this index, among the row tiles of all experts.
struct RowTile {
  int64_t expert, first, end;  // rows of `a`
};

// Experts' row tiles follow one another; blocks beyond the last tile find none (expert = E).
__device__ RowTile row_tile(const int* offsets, int64_t E, int64_t tile) {
  for (int64_t e = 0; e < E; ++e) {
    const int64_t tiles = (offsets[e + 1] - offsets[e] + kTile - 1) / kTile;
    if (tile < tiles) return {e, offsets[e] + tile * kTile, offsets[e + 1]};
    tile -= tiles;
  }
  return {E, 0, 0};
}

template <class E>
__global__ void __launch_bounds__(kBlock)
    rows_kernel(E* out, int64_t stride, Elements a, Elements b, int64_t b_expert,
                const int* offsets, int64_t experts, int64_t N, int64_t K) {
  const RowTile tile = row_tile(offsets, experts, blockIdx.y);
  if (tile.expert == experts) return;
  const int64_t column = int64_t{blockIdx.x} * kTile;
  b.data += tile.expert * b_expert * (b.is_bf16 ? 2 : 4);
  const float sum = tile_dot(a, b, tile.end, N, K, tile.first, column);
  const int64_t i = tile.first + threadIdx.y, j = column + threadIdx.x;
  if (i < tile.end && j < N) out[i * stride + j] = E(sum);
}

// One expert a grid layer: out[e][n, k] = sum_r dy[r, n] x[r, k].
__global__ void __launch_bounds__(kBlock)
    wgrad_kernel(float* out, Elements dy, Elements x, const int* offsets, int64_t N, int64_t K,
                 bool accumulate) {
  const int64_t e = blockIdx.z, first = offsets[e], rows = offsets[e + 1] - first;
  const int64_t row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  const Elements left = {dy.from(first, 0).data, dy.is_bf16, dy.column, dy.row};
  const float sum = tile_dot(left, x.from(first, 0), N, K, rows, row, column);
  const int64_t i = row + threadIdx.y, j = column + threadIdx.x;
  if (i >= N || j >= K) return;
  float* p = out + (e * N + i) * K + j;
  *p = accumulate ? *p + sum : sum;
}

// Zeros for the experts without rows.
__global__ void __launch_bounds__(kBlock)
    zero_empty_kernel(float* out, const int* offsets, int64_t size) {
  const int64_t e = blockIdx.y;
  if (offsets[e + 1] > offsets[e]) return;
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kBlock)
    out[e * size + i] = 0;
}

// Measured on an H100 at its working temperature with 8,192 rows an expert, 4096 x 7168 and 7168 x
// 2048: the tiles of a wave should share what is wide.
void choose_order(GroupedProblem& p, bool columns) {
  p.along_columns = columns;
  p.swizzle = 4;
}

// The tile of a GEMM of rows: the first entry that fits a shape, of those with the most rows an
// expert; else standard.
struct TunedTile {
  int64_t least_rows, N, K;
  bool trans_b;
  GroupedTile tile;
};
constexpr TunedTile kTunedTiles[] = {
#include "ops/grouped_tuned.inc"
};

class ForcedTile : public StreamState {
 public:
  explicit ForcedTile(Stream&) {}
  std::optional<GroupedTile> tile;
};

GroupedTile choose_tile(Stream& stream, int64_t rows_of_expert, const GroupedMatmul& a) {
  if (const auto forced = stream.state<ForcedTile>().tile) return *forced;
  for (const TunedTile& t : kTunedTiles)
    if (rows_of_expert >= t.least_rows && a.out.dim(1) == t.N && a.a.dim(1) == t.K &&
        a.trans_b == t.trans_b)
      return t.tile;
  return GroupedTile::standard;
}

#ifdef NEREUS_SM100
// GPUs of compute capability 10 have kernels of their own.
class Generation : public StreamState {
 public:
  explicit Generation(Stream& stream)
      : is_blackwell(nereus::cuda::properties(stream.device().index).major == 10) {}
  const bool is_blackwell;
};
#endif

void run_rows(Stream& stream, GroupedTile tile, bool trans_b, const GroupedProblem& p) {
#ifdef NEREUS_SM100
  if (stream.state<Generation>().is_blackwell)
    return trans_b ? grouped_forward_sm100(stream, p) : grouped_dgrad_sm100(stream, p);
#endif
  switch (tile) {
    case GroupedTile::standard:
      return trans_b ? grouped_forward(stream, p) : grouped_dgrad(stream, p);
    case GroupedTile::tall:
      return trans_b ? grouped_forward_tall(stream, p) : grouped_dgrad_tall(stream, p);
    case GroupedTile::wide:
      return trans_b ? grouped_forward_wide(stream, p) : grouped_dgrad_wide(stream, p);
  }
}

void run_wgrad(Stream& stream, const GroupedProblem& p) {
#ifdef NEREUS_SM100
  if (stream.state<Generation>().is_blackwell) return grouped_wgrad_sm100(stream, p);
#endif
  grouped_wgrad(stream, p);
}

template <class View>
bool fast(const View& v) {
  return v.dtype == DType::bf16 && v.contiguous() && aligned(v);
}

}  // namespace

void force_grouped_tile(Stream& stream, std::optional<GroupedTile> tile) {
  stream.state<ForcedTile>().tile = tile;
}

// A measuring step's views have no memory: by their types and shapes they are fast or not.
void plan(Stream& stream, const GroupedMatmul& a) {
  const int64_t R = a.a.dim(0), K = a.a.dim(1), N = a.out.dim(1), E = a.b.dim(0);
  if (R == 0 || N == 0 || E == 0 || K == 0) return;
  if (fast(a.out) && fast(a.a) && fast(a.b))
    run_rows(stream, choose_tile(stream, R / E, a), a.trans_b, {.groups = E, .N = N, .K = K});
}

void plan(Stream& stream, const GroupedWgrad& a) {
  if (a.out.count() == 0 || a.dy.dim(0) == 0) return;
  if (fast(a.dy) && fast(a.x) && a.out.contiguous() && a.out.dim(2) % 4 == 0)
    run_wgrad(stream, {.groups = a.out.dim(0), .N = a.out.dim(1), .K = a.out.dim(2)});
}

void grouped_matmul(Stream& stream, const GroupedMatmul& a) {
  const int64_t R = a.a.dim(0), K = a.a.dim(1), N = a.out.dim(1), E = a.b.dim(0);
  if (R == 0 || N == 0 || E == 0) return;
  if (fast(a.out) && fast(a.a) && fast(a.b) && K > 0) {
    GroupedProblem problem{.a = a.a.data,
                           .b = a.b.data,
                           .out = a.out.data,
                           .offsets = a.offsets.as<int32_t>(),
                           .groups = E,
                           .N = N,
                           .K = K};
    choose_order(problem, a.trans_b ? N > K : N < K);
    return run_rows(stream, choose_tile(stream, R / E, a), a.trans_b, problem);
  }
  const dim3 grid(static_cast<unsigned>(ceil_div(N, kTile)),
                  static_cast<unsigned>(ceil_div(R, kTile) + E));
  ConstTensorView b = a.b;  // one expert's
  b.shape = {a.b.dim(1), a.b.dim(2)};
  b.stride = {a.b.stride[1], 1, 0, 0};
  visit_float(a.out.dtype, [&]<class T>() {
    rows_kernel<T><<<grid, dim3(kTile, kTile), 0, native(stream)>>>(
        a.out.as<T>(), a.out.row_stride(), elements(a.a, false), elements(b, a.trans_b),
        a.b.stride[0], a.offsets.as<int>(), E, N, K);
  });
  check_launch("grouped_matmul");
}

void grouped_wgrad(Stream& stream, const GroupedWgrad& a) {
  const int64_t E = a.out.dim(0), N = a.out.dim(1), K = a.out.dim(2);
  if (a.out.count() == 0) return;
  if (fast(a.dy) && fast(a.x) && a.out.contiguous() && K % 4 == 0 && a.dy.dim(0) > 0) {
    if (!a.accumulate) {
      const dim3 grid(static_cast<unsigned>(std::min<int64_t>(ceil_div(N * K, kBlock), 1024)),
                      static_cast<unsigned>(E));
      zero_empty_kernel<<<grid, kBlock, 0, native(stream)>>>(a.out.as<float>(), a.offsets.as<int>(),
                                                             N * K);
    }
    GroupedProblem problem{.a = a.dy.data,
                           .b = a.x.data,
                           .out = a.out.data,
                           .offsets = a.offsets.as<int32_t>(),
                           .groups = E,
                           .N = N,
                           .K = K,
                           .accumulate = a.accumulate};
    choose_order(problem, N > K);
    return run_wgrad(stream, problem);
  }
  const dim3 grid(static_cast<unsigned>(ceil_div(K, kTile)),
                  static_cast<unsigned>(ceil_div(N, kTile)), static_cast<unsigned>(E));
  wgrad_kernel<<<grid, dim3(kTile, kTile), 0, native(stream)>>>(
      a.out.as<float>(), elements(a.dy, false), elements(a.x, false), a.offsets.as<int>(), N, K,
      a.accumulate);
  check_launch("grouped_wgrad");
}

}  // namespace nereus::ops::cuda
