#include "ops/async_copy.cuh"
#include "ops/rmsnorm.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

// A row of D elements in packs of N: kPacks of them for each of kThreads threads, a warp or a
// thread block, of which a block has kRows.
template <int kThreads, int kPacks, int N, int kRows = 1>
struct RowPlan {
  static_assert(kRows == 1 || kThreads == 32);
  static constexpr int packs = kPacks, width = N, rows = kRows;
  static constexpr int block = kThreads * kRows;
  // Blocks that a multiprocessor's registers shall hold: a wide row's sums take many.
  static constexpr int resident = std::max(1, (kPacks > 2 ? 512 : 1024) / block);

  // Which of its block's rows a thread is at, its place there, and the first of its pack i.
  __device__ static int row() { return kRows == 1 ? 0 : static_cast<int>(threadIdx.x) / kThreads; }
  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  __device__ static int element(int i) { return (thread() + i * kThreads) * N; }
  // The sum over a row's threads, given to each.
  __device__ static float sum(float x) {
    if constexpr (kThreads == 32) {
      return warp_sum(x);
    } else {
      return block_sum<kThreads>(x);
    }
  }
};

// f.operator()<E, Plan>() with the smallest plan that holds a row; one whose kPacks is 0 holds none
// and goes over rows in a loop, an element at a time.
template <class F>
void visit_plan(bool wide, DType dtype, int64_t D, F&& f) {
  visit_float(dtype, [&]<class E>() {
    constexpr int N = Pack<E>::kSize;
    const int64_t packs = D / N;
    if (!wide || packs > 4 * 512) {
      f.template operator()<E, RowPlan<256, 0, 1>>();
    } else if (packs <= 2 * 32) {
      f.template operator()<E, RowPlan<32, 2, N, 8>>();
    } else if (packs <= 6 * 32) {
      f.template operator()<E, RowPlan<32, 6, N, 8>>();
    } else if (packs <= 2 * 256) {
      f.template operator()<E, RowPlan<256, 2, N>>();
    } else if (packs <= 2 * 448) {
      f.template operator()<E, RowPlan<448, 2, N>>();
    } else {
      f.template operator()<E, RowPlan<512, 4, N>>();
    }
  });
}

template <class E>
struct Rows {
  E* data;
  int64_t stride;
  __device__ E* row(int64_t t) const { return data + t * stride; }
};
template <class E, class View>
auto rows_of(const View& v) {
  using Element = std::remove_pointer_t<decltype(v.template as<E>())>;
  return Rows<Element>{v.template as<E>(), v.rank() > 0 ? v.row_stride() : 0};
}

// rstd and weight times a value, in the order of the two references.
template <class E>
__device__ E normalised(float s, float rstd, float weight, bool round) {
  return round ? E(static_cast<float>(E(s * rstd)) * weight) : E(s * rstd * weight);
}

// N weights, 16 bytes a load.
template <int N>
__device__ void load_weights(float (&w)[N], const float* from) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const auto four = Pack<float>::load(from + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[i + j] = four[j];
  }
}

template <class E>
struct Forward {
  Rows<E> y, sum;
  Rows<const E> x, addend;
  float* rstd;
  const float* weight;
  int64_t T;
  int D;
  float eps;
  bool round;
};

template <class E, class Plan>
__device__ float rstd_of(const Forward<E>& a, float squares) {
  return 1.0f / sqrtf(Plan::sum(squares) / static_cast<float>(a.D) + a.eps);
}

template <class E, class Plan>
__global__ void __launch_bounds__(Plan::block) forward_kernel(Forward<E> a) {
  using P = Pack<E, Plan::width>;
  const int64_t t = int64_t{blockIdx.x} * Plan::rows + Plan::row();
  if (t >= a.T) return;  // a whole warp, where a block has several rows
  const bool adds = a.addend.data != nullptr;
  float squares = 0;
  if constexpr (Plan::packs > 0) {
    P s[Plan::packs], more[Plan::packs];
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = Plan::element(i);
      if (d >= a.D) continue;
      s[i] = P::load(a.x.row(t) + d);
      if (adds) more[i] = P::load(a.addend.row(t) + d);
    }
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = Plan::element(i);
      if (d >= a.D) continue;
      if (adds) {
#pragma unroll
        for (int j = 0; j < Plan::width; ++j)
          s[i][j] = E(static_cast<float>(s[i][j]) + static_cast<float>(more[i][j]));
        s[i].store(a.sum.row(t) + d);
      }
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        squares += static_cast<float>(s[i][j]) * static_cast<float>(s[i][j]);
    }
    const float r = rstd_of<E, Plan>(a, squares);
    if (Plan::thread() == 0) a.rstd[t] = r;
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = Plan::element(i);
      if (d >= a.D) continue;
      float weight[Plan::width];
      load_weights(weight, a.weight + d);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        s[i][j] = normalised<E>(static_cast<float>(s[i][j]), r, weight[j], a.round);
      s[i].store(a.y.row(t) + d);
    }
  } else {
    const E* in = a.x.row(t);
    for (int d = Plan::thread(); d < a.D; d += Plan::block) {
      float s = static_cast<float>(in[d]);
      if (adds) {
        const E rounded = E(s + static_cast<float>(a.addend.row(t)[d]));
        a.sum.row(t)[d] = rounded;
        s = static_cast<float>(rounded);
      }
      squares += s * s;
    }
    const float r = rstd_of<E, Plan>(a, squares);
    if (Plan::thread() == 0) a.rstd[t] = r;
    const E* s = adds ? a.sum.row(t) : in;  // each thread reads what it wrote itself
    for (int d = Plan::thread(); d < a.D; d += Plan::block)
      a.y.row(t)[d] = normalised<E>(static_cast<float>(s[d]), r, a.weight[d], a.round);
  }
}

template <class E>
struct Backward {
  Rows<E> dx;
  Rows<const E> dy, x, residual;
  const float *weight, *rstd;
  float* parts;  // [blocks, D] sums of dy * n over the rows of a block
  int64_t T;
  int D;
};

// The packs of a row's dy, x and residual that each thread has asked for, two rows of them: the
// next comes while one is worked on. A thread reads only what it copied itself.
template <class E, class Plan>
struct Staged {
  using P = Pack<E, Plan::width>;
  static constexpr int kTensorBytes = Plan::block * Plan::packs * 16;
  static constexpr int bytes(bool residual) { return 2 * (residual ? 3 : 2) * kTensorBytes; }

  static __device__ int place(int stage, int tensor, int i, bool residual) {
    const int tensors = residual ? 3 : 2;
    return ((stage * tensors + tensor) * Plan::packs + i) * Plan::block * 16 +
           static_cast<int>(threadIdx.x) * 16;
  }
  static __device__ void copy(const Backward<E>& a, int64_t t, int stage) {
    const bool residual = a.residual.data != nullptr;
    const uint32_t memory = dynamic_shared();
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = Plan::element(i);
      if (d >= a.D) continue;
      const auto to = [&](int tensor) {
        return memory + static_cast<uint32_t>(place(stage, tensor, i, residual));
      };
      copy_async16(to(0), a.dy.row(t) + d, true);
      copy_async16(to(1), a.x.row(t) + d, true);
      if (residual) copy_async16(to(2), a.residual.row(t) + d, true);
    }
  }
  static __device__ P read(int stage, int tensor, int i, bool residual) {
    return P::load(
        reinterpret_cast<const E*>(dynamic_memory() + place(stage, tensor, i, residual)));
  }
};

// The rows of a block's part of dweight, summed in order of row.
template <class Plan>
__device__ void write_part(float* part, const float (&dweight)[Plan::packs][Plan::width], int D) {
  auto* const sums = reinterpret_cast<float*>(dynamic_memory());
  if constexpr (Plan::rows > 1) __syncthreads();  // all have read their last rows
#pragma unroll
  for (int i = 0; i < Plan::packs; ++i) {
    const int d = Plan::element(i);
    if (d >= D) continue;
    float* const to = Plan::rows > 1 ? sums + Plan::row() * D + d : part + d;
#pragma unroll
    for (int j = 0; j < Plan::width; j += 4)
      Pack<float>{{dweight[i][j], dweight[i][j + 1], dweight[i][j + 2], dweight[i][j + 3]}}.store(
          to + j);
  }
  if constexpr (Plan::rows > 1) {
    __syncthreads();
    for (int d = static_cast<int>(threadIdx.x); d < D; d += Plan::block) {
      float sum = sums[d];
#pragma unroll
      for (int r = 1; r < Plan::rows; ++r) sum += sums[r * D + d];
      part[d] = sum;
    }
  }
}

// A block goes over rows blockIdx.x, + gridDim.x, ..., or Plan::rows of them at a time, and keeps
// its part of dweight in registers.
template <class E, class Plan>
__global__ void __launch_bounds__(Plan::block, Plan::resident) backward_kernel(Backward<E> a) {
  using P = Pack<E, Plan::width>;
  using Stage = Staged<E, Plan>;
  const bool adds = a.residual.data != nullptr;
  const int64_t first = int64_t{blockIdx.x} * Plan::rows + Plan::row();
  const int64_t step = int64_t{gridDim.x} * Plan::rows;
  float dweight[Plan::packs][Plan::width] = {};
  float next_rstd = 0;
  if (first < a.T) {
    Stage::copy(a, first, 0);
    next_rstd = a.rstd[first];
  }
  commit_copies();
  int stage = 0;
  for (int64_t t = first; t < a.T; t += step, stage ^= 1) {
    const float r = next_rstd;
    if (t + step < a.T) {
      Stage::copy(a, t + step, stage ^ 1);
      next_rstd = a.rstd[t + step];
    }
    commit_copies();
    wait_copies<1>();
    float dot = 0;
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = Plan::element(i);
      if (d >= a.D) continue;
      const P dy = Stage::read(stage, 0, i, adds), x = Stage::read(stage, 1, i, adds);
      float weight[Plan::width];
      load_weights(weight, a.weight + d);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j) {
        const float n = static_cast<float>(x[j]) * r, g = static_cast<float>(dy[j]);
        dweight[i][j] += g * n;
        dot += g * weight[j] * n;
      }
    }
    const float m = Plan::sum(dot) / static_cast<float>(a.D);
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      const int d = Plan::element(i);
      if (d >= a.D) continue;
      const P dy = Stage::read(stage, 0, i, adds), x = Stage::read(stage, 1, i, adds);
      P residual{}, out;
      if (adds) residual = Stage::read(stage, 2, i, adds);
      float weight[Plan::width];
      load_weights(weight, a.weight + d);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j) {
        const float n = static_cast<float>(x[j]) * r, g = static_cast<float>(dy[j]);
        const float dx = r * (g * weight[j] - n * m);
        out[j] = E(adds ? dx + static_cast<float>(residual[j]) : dx);
      }
      out.store(a.dx.row(t) + d);
    }
  }
  write_part<Plan>(a.parts + int64_t{blockIdx.x} * a.D, dweight, a.D);
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
// 32nd part.
constexpr int kSlices = 32;
__global__ void __launch_bounds__(32 * kSlices)
    dweight_kernel(float* dweight, const float* parts, int blocks, int D, bool accumulate) {
  __shared__ float sums[kSlices][33];
  const int lane = static_cast<int>(threadIdx.x % 32), slice = static_cast<int>(threadIdx.x / 32);
  const int column = static_cast<int>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (column < D) {
#pragma unroll 4
    for (int b = slice; b < blocks; b += kSlices) sum += parts[int64_t{b} * D + column];
  }
  sums[slice][lane] = sum;
  __syncthreads();
  if (slice != 0 || column >= D) return;
#pragma unroll
  for (int s = 1; s < kSlices; ++s) sum += sums[s][lane];
  dweight[column] = accumulate ? dweight[column] + sum : sum;
}

// Launches the plan's kernel; returns how many blocks left a part in the workspace.
template <class E, class Plan>
int64_t launch_backward(Stream& stream, Backward<E> a) {
  constexpr int kSharedOfProcessor = 220 * 1024;
  int64_t resident = Plan::resident;
  int bytes = 0;
  if constexpr (Plan::packs > 0) {
    bytes = Staged<E, Plan>::bytes(a.residual.data != nullptr);
    resident = std::clamp(kSharedOfProcessor / bytes, 1, Plan::resident);
  }
  const int64_t blocks =
      std::clamp<int64_t>(ceil_div(a.T, Plan::rows), 1, int64_t{stream.processors()} * resident);
  a.parts = stream.state<Workspace>().take<float>(blocks * a.D);
  const auto grid = static_cast<unsigned>(blocks);
  if constexpr (Plan::packs > 0) {
    cudaFuncSetAttribute(backward_kernel<E, Plan>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         bytes);
    backward_kernel<E, Plan><<<grid, Plan::block, static_cast<size_t>(bytes), native(stream)>>>(a);
  } else {
    plain_backward_kernel<E, Plan><<<grid, Plan::block, 0, native(stream)>>>(a);
  }
  return blocks;
}

}  // namespace

void rmsnorm_forward(Stream& stream, const RmsNormForward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (T == 0) return;
  const bool wide =
      aligned(a.y) && aligned(a.x) && aligned(a.addend) && aligned(a.sum) && aligned(a.weight);
  visit_plan(wide, a.x.dtype, D, [&]<class E, class Plan>() {
    const auto blocks = static_cast<unsigned>(ceil_div(T, Plan::rows));
    forward_kernel<E, Plan>
        <<<blocks, Plan::block, 0, native(stream)>>>({.y = rows_of<E>(a.y),
                                                      .sum = rows_of<E>(a.sum),
                                                      .x = rows_of<E>(a.x),
                                                      .addend = rows_of<E>(a.addend),
                                                      .rstd = a.rstd.as<float>(),
                                                      .weight = a.weight.as<float>(),
                                                      .T = T,
                                                      .D = static_cast<int>(D),
                                                      .eps = a.eps,
                                                      .round = a.round_normalized});
  });
  check_launch("rmsnorm_forward");
}

void rmsnorm_backward(Stream& stream, const RmsNormBackward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (D == 0) return;
  const bool wide =
      aligned(a.dx) && aligned(a.dy) && aligned(a.x) && aligned(a.residual) && aligned(a.weight);
  visit_plan(wide, a.x.dtype, D, [&]<class E, class Plan>() {
    const Backward<E> arguments{.dx = rows_of<E>(a.dx),
                                .dy = rows_of<E>(a.dy),
                                .x = rows_of<E>(a.x),
                                .residual = rows_of<E>(a.residual),
                                .weight = a.weight.as<float>(),
                                .rstd = a.rstd.as<float>(),
                                .parts = nullptr,
                                .T = T,
                                .D = static_cast<int>(D)};
    const int64_t blocks = launch_backward<E, Plan>(stream, arguments);
    const float* const parts = stream.state<Workspace>().take<float>(blocks * D);
    dweight_kernel<<<static_cast<unsigned>(ceil_div(D, 32)), 32 * kSlices, 0, native(stream)>>>(
        a.dweight.as<float>(), parts, static_cast<int>(blocks), static_cast<int>(D), a.accumulate);
  });
  check_launch("rmsnorm_backward");
}

}  // namespace nereus::ops::cuda
