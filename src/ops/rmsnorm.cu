#include "ops/async_copy.cuh"
#include "ops/rmsnorm.h"
#include "ops/workspace.h"

namespace nereus::ops::cuda {
namespace {

// A row of D elements in packs of N: kPacks of them for each of kThreads threads, a warp or a
// thread block, of which a block has kRows. A full row has a pack at every place: the kernel then
// has no branches, and all its loads are under way before the first is used.
template <int kThreads, int kPacks, int N, int kRows = 1, bool kFull = false>
struct RowPlan {
  static_assert(kRows == 1 || kThreads == 32);
  static constexpr int packs = kPacks, width = N, rows = kRows;
  static constexpr int block = kThreads * kRows;
  static_assert(packs >= 0 && width > 0 && rows > 0);
  // The same with other numbers of rows in a block.
  template <int kOtherRows>
  using With = RowPlan<kThreads, kPacks, N, kThreads == 32 ? kOtherRows : 1, kFull>;

  // Which of its block's rows a thread is at, its place there, the first of its pack i, and whether
  // there is such a pack.
  __device__ static int row() { return kRows == 1 ? 0 : static_cast<int>(threadIdx.x) / kThreads; }
  __device__ static int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  __device__ static int element(int i) { return (thread() + i * kThreads) * N; }
  __device__ static bool has(int i, int D) { return kFull || element(i) < D; }
  // The sum over a row's threads, given to each.
  __device__ static float sum(float x) {
    if constexpr (kThreads == 32) {
      return warp_sum(x);
    } else {
      return block_sum<kThreads>(x);
    }
  }
};

// Blocks that a multiprocessor's registers shall hold in the forward pass, and in the backward
// pass, where a wide row's sums take many.
template <class Plan>
constexpr int kForwardResident = std::max(1, (Plan::packs > 4 ? 640 : 1024) / Plan::block);
template <class Plan>
constexpr int kResident = std::max(1, (Plan::packs > 2 ? 512 : 1024) / Plan::block);

// f.operator()<E, Plan>() with the smallest plan that holds a row; one whose kPacks is 0 holds none
// and goes over rows in a loop, an element at a time.
template <class F>
void visit_plan(bool wide, DType dtype, int64_t D, F&& f) {
  visit_float(dtype, [&]<class E>() {
    constexpr int N = Pack<E>::kSize;
    const int64_t packs = D / N;
    const auto visit = [&]<int kThreads, int kPacks, int kRows>() {
      if (packs == kPacks * kThreads) {
        f.template operator()<E, RowPlan<kThreads, kPacks, N, kRows, true>>();
      } else {
        f.template operator()<E, RowPlan<kThreads, kPacks, N, kRows>>();
      }
    };
    if (!wide || packs > 4 * 512) {
      f.template operator()<E, RowPlan<256, 0, 1>>();
    } else if (packs <= 2 * 32) {
      visit.template operator()<32, 2, 8>();
    } else if (packs <= 6 * 32) {
      visit.template operator()<32, 6, 8>();
    } else if (packs <= 2 * 256) {
      visit.template operator()<256, 2, 1>();
    } else if (packs <= 2 * 448) {
      visit.template operator()<448, 2, 1>();
    } else {
      visit.template operator()<512, 4, 1>();
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

// Keeps elements in the registers they came in: the compiler would hold on to their floats, which
// take twice as many, from one use to the next.
template <class P>
__device__ void keep_packed(P& pack) {
  uint4 words;
  memcpy(&words, &pack, sizeof words);
  asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
  memcpy(&pack, &words, sizeof words);
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

// A row in its threads' registers.
template <class E, class Plan>
struct ForwardRow {
  using P = Pack<E, Plan::width>;
  P s[Plan::packs];

  __device__ void load(const Rows<const E>& from, int64_t t, int D) {
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i)
      if (Plan::has(i, D)) s[i] = P::load(from.row(t) + Plan::element(i));
  }
  __device__ void add(const ForwardRow& more, const Rows<E>& sum, int64_t t, int D) {
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, D)) continue;
      const int d = Plan::element(i);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        s[i][j] = E(static_cast<float>(s[i][j]) + static_cast<float>(more.s[i][j]));
      s[i].store(sum.row(t) + d);
    }
  }
  __device__ void normalise(const Forward<E>& a, int64_t t) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, a.D)) continue;
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        squares += static_cast<float>(s[i][j]) * static_cast<float>(s[i][j]);
    }
    const float r = rstd_of<E, Plan>(a, squares);
    if (Plan::thread() == 0) a.rstd[t] = r;
    if (a.round) {
      write(a, t, r, true);
    } else {
      write(a, t, r, false);
    }
  }
  __device__ void write(const Forward<E>& a, int64_t t, float r, bool round) {
#pragma unroll
    for (int i = 0; i < Plan::packs; ++i) {
      if (!Plan::has(i, a.D)) continue;
      const int d = Plan::element(i);
      keep_packed(s[i]);
      float weight[Plan::width];
      load_weights(weight, a.weight + d);
#pragma unroll
      for (int j = 0; j < Plan::width; ++j)
        s[i][j] = normalised<E>(static_cast<float>(s[i][j]), r, weight[j], round);
      s[i].store(a.y.row(t) + d);
    }
  }
};

template <class E, class Plan>
__global__ void __launch_bounds__(Plan::block, kForwardResident<Plan>)
    forward_kernel(Forward<E> a) {
  const int64_t t = int64_t{blockIdx.x} * Plan::rows + Plan::row();
  if (t >= a.T) return;  // a whole warp, where a block has several rows
  const bool adds = a.addend.data != nullptr;
  if constexpr (Plan::packs > 0) {
    ForwardRow<E, Plan> row, more;
    row.load(a.x, t, a.D);
    if (adds) {
      more.load(a.addend, t, a.D);
      row.add(more, a.sum, t, a.D);
    }
    row.normalise(a, t);
  } else {
    float squares = 0;
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

// Two norms of as many rows, without addends: a warp has a row of each, and asks for both at once.
template <class E, class First, class Second>
__global__ void __launch_bounds__(First::block, 768 / First::block)
    forward_pair_kernel(Forward<E> a, Forward<E> b) {
  const int64_t t = int64_t{blockIdx.x} * First::rows + First::row();
  if (t >= a.T) return;
  ForwardRow<E, First> first;
  ForwardRow<E, Second> second;
  first.load(a.x, t, a.D);
  second.load(b.x, t, b.D);
  first.normalise(a, t);
  second.normalise(b, t);
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
// the end are spread over all multiprocessors.
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
  constexpr int kAhead = 9;  // all parts of two blocks a multiprocessor
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
Forward<E> arguments_of(const RmsNormForward& a) {
  return {.y = rows_of<E>(a.y),
          .sum = rows_of<E>(a.sum),
          .x = rows_of<E>(a.x),
          .addend = rows_of<E>(a.addend),
          .rstd = a.rstd.as<float>(),
          .weight = a.weight.as<float>(),
          .T = a.x.dim(0),
          .D = static_cast<int>(a.x.dim(1)),
          .eps = a.eps,
          .round = a.round_normalized};
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

bool wide(const RmsNormForward& a) {
  return aligned(a.y) && aligned(a.x) && aligned(a.addend) && aligned(a.sum) && aligned(a.weight);
}
bool wide(const RmsNormBackward& a) {
  return aligned(a.dx) && aligned(a.dy) && aligned(a.x) && aligned(a.residual) && aligned(a.weight);
}

// Launches the plan's kernel; returns how many blocks left a part in the workspace.
template <class E, class Plan>
int64_t launch_backward(Stream& stream, Backward<E> a) {
  constexpr int kSharedOfProcessor = 220 * 1024;
  int64_t resident = kResident<Plan>;
  int bytes = 0;
  if constexpr (Plan::packs > 0) {
    bytes = BackwardRows<E, Plan>::bytes(a.residual.data != nullptr);
    resident = std::clamp(kSharedOfProcessor / bytes, 1, kResident<Plan>);
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

// What two norms in one launch may be: bf16 rows of 1536 and 512, the latents of queries and keys.
template <int kRows>
using First = RowPlan<32, 6, Pack<bf16>::kSize, kRows, true>;
template <int kRows>
using Second = RowPlan<32, 2, Pack<bf16>::kSize, kRows, true>;

template <class Arguments>
bool pairs(const Arguments& a, const Arguments& b) {
  return a.x.dtype == DType::bf16 && a.x.dim(0) > 0 && a.x.dim(1) == 1536 && b.x.dim(1) == 512 &&
         wide(a) && wide(b);
}

}  // namespace

void rmsnorm_forward(Stream& stream, const RmsNormForward& a) {
  const int64_t T = a.x.dim(0), D = a.x.dim(1);
  if (T == 0) return;
  visit_plan(wide(a), a.x.dtype, D, [&]<class E, class Plan>() {
    using Few = typename Plan::template With<4>;  // a block's warps leave together
    forward_kernel<E, Few>
        <<<static_cast<unsigned>(ceil_div(T, Few::rows)), Few::block, 0, native(stream)>>>(
            arguments_of<E>(a));
  });
  check_launch("rmsnorm_forward");
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

void rmsnorm_pair_forward(Stream& stream, const RmsNormPairForward& a) {
  if (!pairs(a.first, a.second) || a.first.addend || a.second.addend) {
    cuda::rmsnorm_forward(stream, a.first);
    cuda::rmsnorm_forward(stream, a.second);
    return;
  }
  constexpr int kRows = 4;
  const auto blocks = static_cast<unsigned>(ceil_div(a.first.x.dim(0), kRows));
  forward_pair_kernel<bf16, First<kRows>, Second<kRows>>
      <<<blocks, First<kRows>::block, 0, native(stream)>>>(arguments_of<bf16>(a.first),
                                                           arguments_of<bf16>(a.second));
  check_launch("rmsnorm_pair_forward");
}

void rmsnorm_pair_backward(Stream& stream, const RmsNormPairBackward& a) {
  if (!pairs(a.first, a.second) || a.first.residual || a.second.residual) {
    cuda::rmsnorm_backward(stream, a.first);
    cuda::rmsnorm_backward(stream, a.second);
    return;
  }
  constexpr int kRows = 12;  // what shared memory holds; three warps a scheduler
  using One = First<kRows>;
  using Two = Second<kRows>;
  constexpr int kBytes =
      BackwardRows<bf16, One>::bytes(false) + BackwardRows<bf16, Two>::bytes(false);
  Backward<bf16> first = arguments_of<bf16>(a.first);
  const Backward<bf16> second = arguments_of<bf16>(a.second);
  const int64_t blocks = std::min<int64_t>(ceil_div(first.T, kRows), stream.processors());
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
