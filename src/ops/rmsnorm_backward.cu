#include "ops/async_copy.cuh"
#include "ops/rmsnorm.cuh"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

// Blocks that an SM's registers shall hold: a wide row's sums take many.
template <class Plan>
constexpr int kResident = std::max(1, (Plan::packs > 2 ? 512 : 1024) / Plan::block);

template <class E>
struct Backward {
  Rows<E> dx;
  Rows<const E> dy, x, residual;
  const float *weight, *rstd;
  float* parts;  // [blocks, D] sums of dy * n over the rows of a block
  int64_t T;
  int D;
};

// The rows that a thread block has, one after the other: the packs of dy, x and residual that each
// thread has asked for, two rows of them in shared memory from byte `base` on (the next comes while
// one is worked on; a thread reads only what it copied itself), and its part of dweight.
//
// Where a thread has a part of many rows, the weights are in shared memory too, behind the rows:
// fours of them, the first of all packs before the second, so that a warp reads without conflicts.
template <class E, class Plan>
struct BackwardRows {
  using P = Pack<E, Plan::width>;
  static constexpr bool kSharedWeights = Plan::rows > 1;
  static constexpr int kPlaces = Plan::packs * Plan::block / Plan::rows;  // packs of a row
  static constexpr int stages(bool adds) {
    return 2 * (adds ? 3 : 2) * Plan::packs * Plan::block * 16;
  }
  static constexpr int bytes(bool adds) {
    return stages(adds) + (kSharedWeights ? kPlaces * Plan::width * 4 : 0);
  }

  const Backward<E>& a;
  const bool adds;
  const int base;
  float dweight[Plan::packs][Plan::width] = {};
  float next_rstd = 0;

  __device__ int place(int stage, int tensor, int i) const {
    const int tensors = adds ? 3 : 2;
    return base + ((stage * tensors + tensor) * Plan::packs + i) * Plan::block * 16 +
           static_cast<int>(threadIdx.x) * 16;
  }
  __device__ P read(int stage, int tensor, int i) const {
    return P::load(reinterpret_cast<const E*>(dynamic_memory() + place(stage, tensor, i)));
  }
  // Four weights of pack `place` of a row.
  __device__ float* fours(int place, int first) const {
    return reinterpret_cast<float*>(dynamic_memory() + base + stages(adds)) +
           (first / 4 * kPlaces + place) * 4;
  }
  // By all threads; what follows needs a barrier.
  __device__ void take_weights() const {
    if constexpr (kSharedWeights) {
      for (int d = static_cast<int>(threadIdx.x) * 4; d < a.D; d += Plan::block * 4)
        Pack<float>::load(a.weight + d).store(fours(d / Plan::width, d % Plan::width));
    }
  }
  __device__ void weights(float (&w)[Plan::width], int i) const {
    if constexpr (kSharedWeights) {
#pragma unroll
      for (int j = 0; j < Plan::width; j += 4) {
        const auto four = Pack<float>::load(fours(Plan::element(i) / Plan::width, j));
#pragma unroll
        for (int k = 0; k < 4; ++k) w[j + k] = four[k];
      }
    } else {
      load_weights(w, a.weight + Plan::element(i));
    }
  }
  __device__ void ask(int64_t t, int stage) {
    const uint32_t memory = dynamic_shared();
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, a.D)) continue;
      const int d = Plan::element(i);
      const auto to = [&](int tensor) {
        return memory + static_cast<uint32_t>(place(stage, tensor, i));
      };
      copy_async16(to(0), a.dy.row(t) + d, true);
      copy_async16(to(1), a.x.row(t) + d, true);
      if (adds) copy_async16(to(2), a.residual.row(t) + d, true);
    }
    next_rstd = a.rstd[t];
  }
  // Adds to dweight; returns this thread's part of the sum of dy * weight * n.
  __device__ float dot(int stage, float r) {
    float dot = 0;
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, a.D)) continue;
      const P dy = read(stage, 0, i), x = read(stage, 1, i);
      float weight[Plan::width];
      weights(weight, i);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j) {
        const float n = static_cast<float>(x[j]) * r, g = static_cast<float>(dy[j]);
        dweight[i][j] += g * n;
        dot += g * weight[j] * n;
      }
    }
    return dot;
  }
  __device__ void write(int64_t t, int stage, float r, float mean) const {
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, a.D)) continue;
      const P dy = read(stage, 0, i), x = read(stage, 1, i);
      P residual{}, out;
      if (adds) residual = read(stage, 2, i);
      float weight[Plan::width];
      weights(weight, i);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j) {
        const float n = static_cast<float>(x[j]) * r, g = static_cast<float>(dy[j]);
        const float dx = r * (g * weight[j] - n * mean);
        out[j] = E(adds ? dx + static_cast<float>(residual[j]) : dx);
      }
      out.store(a.dx.row(t) + Plan::element(i));
    }
  }
  // The block's part of dweight: its rows' sums in order of row. All have read their last rows.
  __device__ void write_part(float* part) const {
    auto* const sums = reinterpret_cast<float*>(dynamic_memory() + base);
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, a.D)) continue;
      const int d = Plan::element(i);
      float* const to = Plan::rows > 1 ? sums + Plan::row() * a.D + d : part + d;
#pragma unroll
      for (int j = 0; j < Plan::width; j += 4)
        Pack<float>{{dweight[i][j], dweight[i][j + 1], dweight[i][j + 2], dweight[i][j + 3]}}.store(
            to + j);
    }
    if constexpr (Plan::rows > 1) {
      __syncthreads();
      for (int d = static_cast<int>(threadIdx.x); d < a.D; d += Plan::block) {
        float sum = sums[d];
#pragma unroll
        for (int r = 1; r < Plan::rows; ++r) sum += sums[r * a.D + d];
        part[d] = sum;
      }
    }
  }
};

// A block goes over rows blockIdx.x, + gridDim.x, ..., of which each of its warps has every
// Plan::rows-th if it has several, and keeps its part of dweight in registers. So the rows left at
// the end are spread over all SMs.
template <class E, class Plan>
__global__ void __launch_bounds__(Plan::block, kResident<Plan>) backward_kernel(Backward<E> a) {
  BackwardRows<E, Plan> rows{a, a.residual.data != nullptr, 0};
  const int64_t first = int64_t{Plan::row()} * gridDim.x + blockIdx.x;
  const int64_t step = int64_t{gridDim.x} * Plan::rows;
  if (first < a.T) rows.ask(first, 0);
  commit_copies();
  rows.take_weights();
  if constexpr (Plan::rows > 1) __syncthreads();
  int stage = 0;
  for (int64_t t = first; t < a.T; t += step, stage ^= 1) {
    const float r = rows.next_rstd;
    if (t + step < a.T) rows.ask(t + step, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    const float mean = Plan::sum(rows.dot(stage, r)) / static_cast<float>(a.D);
    rows.write(t, stage, r, mean);
  }
  if constexpr (Plan::rows > 1) __syncthreads();
  rows.write_part(a.parts + int64_t{blockIdx.x} * a.D);
}

// Two norms of as many rows, without residuals: a warp has a row of each. Their parts of dweight
// stand side by side.
template <class E, class First, class Second>
__global__ void __launch_bounds__(First::block, 1)
    backward_pair_kernel(Backward<E> a, Backward<E> b) {
  BackwardRows<E, First> one{a, false, 0};
  BackwardRows<E, Second> two{b, false, BackwardRows<E, First>::bytes(false)};
  const int64_t first = int64_t{First::row()} * gridDim.x + blockIdx.x;
  const int64_t step = int64_t{gridDim.x} * First::rows;
  if (first < a.T) {
    one.ask(first, 0);
    two.ask(first, 0);
  }
  commit_copies();
  one.take_weights();
  two.take_weights();
  __syncthreads();
  int stage = 0;
  for (int64_t t = first; t < a.T; t += step, stage ^= 1) {
    const float r1 = one.next_rstd, r2 = two.next_rstd;
    if (t + step < a.T) {
      one.ask(t + step, stage ^ 1);
      two.ask(t + step, stage ^ 1);
    }
    commit_copies();
    wait_copies<1>();
    float dot1 = one.dot(stage, r1), dot2 = two.dot(stage, r2);
    dot1 = First::sum(dot1);
    dot2 = Second::sum(dot2);
    one.write(t, stage, r1, dot1 / static_cast<float>(a.D));
    two.write(t, stage, r2, dot2 / static_cast<float>(b.D));
  }
  __syncthreads();
  float* const part = a.parts + int64_t{blockIdx.x} * (a.D + b.D);
  one.write_part(part);
  two.write_part(part + a.D);
}

// The same an element at a time, with the part of dweight in memory.
template <class E, class Plan>
__global__ void __launch_bounds__(Plan::block) plain_backward_kernel(Backward<E> a) {
  float* part = a.parts + int64_t{blockIdx.x} * a.D;
  for (int d = threadIdx.x; d < a.D; d += Plan::block) part[d] = 0;
  for (int64_t t = blockIdx.x; t < a.T; t += gridDim.x) {
    const float r = a.rstd[t];
    const E *x = a.x.row(t), *dy = a.dy.row(t);
    float dot = 0;
    for (int d = threadIdx.x; d < a.D; d += Plan::block) {
      const float n = static_cast<float>(x[d]) * r, g = static_cast<float>(dy[d]);
      part[d] += g * n;
      dot += g * a.weight[d] * n;
    }
    const float m = Plan::sum(dot) / static_cast<float>(a.D);
    for (int d = threadIdx.x; d < a.D; d += Plan::block) {
      const float n = static_cast<float>(x[d]) * r;
      float dx = r * (static_cast<float>(dy[d]) * a.weight[d] - n * m);
      if (a.residual.data != nullptr) dx += static_cast<float>(a.residual.row(t)[d]);
      a.dx.row(t)[d] = E(dx);
    }
  }
}

// Column sums of parts: 32 columns a thread block, 32 threads to a column, each of which has every
// 32nd part and several of those on their way. Columns from `split` on are those of a second norm.
constexpr int kSlices = 32;
__global__ void __launch_bounds__(32 * kSlices)
    dweight_kernel(float* dweight, float* second, const float* parts, int blocks, int D, int split,
                   bool accumulate, bool second_accumulates) {
  __shared__ float sums[kSlices][33];
  const int lane = static_cast<int>(threadIdx.x % 32), slice = static_cast<int>(threadIdx.x / 32);
  const int column = static_cast<int>(blockIdx.x) * 32 + lane;
  constexpr int kAhead = 9;  // all parts of two blocks an SM
  float sum = 0;
  for (int first = slice; first < blocks && column < D; first += kAhead * kSlices) {
    float part[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int b = first + i * kSlices;
      part[i] = b < blocks ? parts[int64_t{b} * D + column] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum += part[i];
  }
  sums[slice][lane] = sum;
  __syncthreads();
  if (slice != 0 || column >= D) return;
#pragma unroll
  for (int s = 1; s < kSlices; ++s) sum += sums[s][lane];
  const bool adds = column < split ? accumulate : second_accumulates;
  float* const to = column < split ? dweight + column : second + (column - split);
  *to = adds ? *to + sum : sum;
}

template <class E>
Backward<E> arguments_of(const RmsNormBackward& a) {
  return {.dx = rows_of<E>(a.dx),
          .dy = rows_of<E>(a.dy),
          .x = rows_of<E>(a.x),
          .residual = rows_of<E>(a.residual),
          .weight = a.weight.as<float>(),
          .rstd = a.rstd.as<float>(),
          .parts = nullptr,
          .T = a.x.dim(0),
          .D = static_cast<int>(a.x.dim(1))};
}

bool wide(const RmsNormBackward& a) {
  return aligned(a.dx) && aligned(a.dy) && aligned(a.x) && aligned(a.residual) && aligned(a.weight);
}

// How many blocks the plan's kernel has for T rows: each leaves a part in the workspace.
template <class E, class Plan>
int64_t blocks_of(const Stream& stream, int64_t T, bool adds) {
  constexpr int kSharedOfProcessor = 220 * 1024;
  int64_t resident = kResident<Plan>;
  if constexpr (Plan::packs > 0)
    resident =
        std::clamp(kSharedOfProcessor / BackwardRows<E, Plan>::bytes(adds), 1, kResident<Plan>);
  return std::clamp<int64_t>(ceil_div(T, Plan::rows), 1, int64_t{stream.sm_count()} * resident);
}

// Launches the plan's kernel; returns its blocks_of().
template <class E, class Plan>
int64_t launch_backward(Stream& stream, Backward<E> a) {
  const bool adds = a.residual.data != nullptr;
  const int64_t blocks = blocks_of<E, Plan>(stream, a.T, adds);
  a.parts = stream.state<Workspace>().take<float>(blocks * a.D);
  const auto grid = static_cast<unsigned>(blocks);
  if constexpr (Plan::packs > 0) {
    const int bytes = BackwardRows<E, Plan>::bytes(adds);
    cudaFuncSetAttribute(backward_kernel<E, Plan>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         bytes);
    backward_kernel<E, Plan><<<grid, Plan::block, static_cast<size_t>(bytes), native(stream)>>>(a);
  } else {
    plain_backward_kernel<E, Plan><<<grid, Plan::block, 0, native(stream)>>>(a);
  }
  return blocks;
}

// Of two norms in one launch.
constexpr int kPairRows = 12;  // what shared memory holds; three warps a scheduler
int64_t pair_blocks(const Stream& stream, int64_t T) {
  return std::min<int64_t>(ceil_div(T, kPairRows), stream.sm_count());
}

}  // namespace

// The plan of the kernel depends on where rows lie, which is not known yet: memory for both.
void plan(Stream& stream, const RmsNormBackward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (D == 0) return;
  for (const bool wide : {false, true})
    visit_plan(wide, a.x.dtype, D, [&]<class E, class Plan>() {
      stream.state<Workspace>().reserve<float>(
          blocks_of<E, Plan>(stream, T, static_cast<bool>(a.residual)) * D);
    });
}

void plan(Stream& stream, const RmsNormPairBackward& a) {
  plan(stream, a.first);
  plan(stream, a.second);
  if (pairs(a.first, a.second))
    stream.state<Workspace>().reserve<float>(pair_blocks(stream, a.first.x.dim(0)) *
                                             (a.first.x.dim(1) + a.second.x.dim(1)));
}

void rmsnorm_backward(Stream& stream, const RmsNormBackward& a) {
  const int64_t D = a.x.dim(1);
  if (D == 0) return;
  visit_plan(wide(a), a.x.dtype, D, [&]<class E, class Plan>() {
    const int64_t blocks = launch_backward<E, Plan>(stream, arguments_of<E>(a));
    const float* const parts = stream.state<Workspace>().take<float>(blocks * D);
    dweight_kernel<<<static_cast<unsigned>(ceil_div(D, 32)), 32 * kSlices, 0, native(stream)>>>(
        a.dweight.as<float>(), nullptr, parts, static_cast<int>(blocks), static_cast<int>(D),
        static_cast<int>(D), a.accumulate, false);
  });
  check_launch("rmsnorm_backward");
}

void rmsnorm_pair_backward(Stream& stream, const RmsNormPairBackward& a) {
  if (!pairs(a.first, a.second) || !wide(a.first) || !wide(a.second) || a.first.residual ||
      a.second.residual) {
    cuda::rmsnorm_backward(stream, a.first);
    cuda::rmsnorm_backward(stream, a.second);
    return;
  }
  using One = First<kPairRows>;
  using Two = Second<kPairRows>;
  constexpr int kBytes =
      BackwardRows<bf16, One>::bytes(false) + BackwardRows<bf16, Two>::bytes(false);
  Backward<bf16> first = arguments_of<bf16>(a.first);
  const Backward<bf16> second = arguments_of<bf16>(a.second);
  const int64_t blocks = pair_blocks(stream, first.T);
  const int D = first.D + second.D;
  first.parts = stream.state<Workspace>().take<float>(blocks * D);
  const auto kernel = backward_pair_kernel<bf16, One, Two>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  kernel<<<static_cast<unsigned>(blocks), One::block, kBytes, native(stream)>>>(first, second);
  dweight_kernel<<<static_cast<unsigned>(ceil_div(D, 32)), 32 * kSlices, 0, native(stream)>>>(
      a.first.dweight.as<float>(), a.second.dweight.as<float>(), first.parts,
      static_cast<int>(blocks), D, first.D, a.first.accumulate, a.second.accumulate);
  check_launch("rmsnorm_pair_backward");
}

}  // namespace nereus::ops::cuda
