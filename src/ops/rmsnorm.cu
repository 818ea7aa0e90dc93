#include "ops/rmsnorm.cuh"

namespace nereus::ops::cuda {
namespace {

// Blocks that an SM's registers shall hold.
template <class Plan>
constexpr int kResident = std::max(1, (Plan::packs > 4 ? 640 : 1024) / Plan::block);

// rstd and weight times a value, in the order of the two references.
template <class E>
__device__ E normalised(float s, float rstd, float weight, bool round) {
  return round ? E(static_cast<float>(E(s * rstd)) * weight) : E(s * rstd * weight);
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
__global__ void __launch_bounds__(Plan::block, kResident<Plan>) forward_kernel(Forward<E> a) {
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
bool wide(const RmsNormForward& a) {
  return aligned(a.y) && aligned(a.x) && aligned(a.addend) && aligned(a.sum) && aligned(a.weight);
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

void rmsnorm_pair_forward(Stream& stream, const RmsNormPairForward& a) {
  if (!pairs(a.first, a.second) || !wide(a.first) || !wide(a.second) || a.first.addend ||
      a.second.addend) {
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

}  // namespace nereus::ops::cuda
