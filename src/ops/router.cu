#include "ops/cuda.cuh"
#include "ops/router.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kWarps = 4;        // a thread block; a warp has a token
constexpr float kTiny = 1e-20f;  // of the normaliser

struct Best {
  float value;
  int index;
};
// The index of the largest value, ties to the smaller index; the same in every lane.
__device__ int warp_best(Best b) {
  const unsigned bits = __float_as_uint(b.value + 0.0f);                        // no -0
  const unsigned key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;  // in order of value
  const unsigned top = __reduce_max_sync(0xffffffffu, key);
  return __reduce_min_sync(0xffffffffu, key == top ? b.index : INT32_MAX);
}

template <class Logit>
__device__ void score_row(float* score, const Logit* logits, int E, RoutingRule::Score function,
                          int lane) {
  if (function == RoutingRule::Score::sigmoid) {
    for (int e = lane; e < E; e += 32)
      score[e] = 1.0f / (1.0f + expf(-static_cast<float>(logits[e])));
    return;
  }
  float most = -INFINITY, sum = 0;
  for (int e = lane; e < E; e += 32) most = fmaxf(most, static_cast<float>(logits[e]));
  most = warp_max(most);
  for (int e = lane; e < E; e += 32) {
    score[e] = expf(static_cast<float>(logits[e]) - most);
    sum += score[e];
  }
  sum = warp_sum(sum);
  for (int e = lane; e < E; e += 32) score[e] /= sum;
}

// Excludes (-inf) the experts of groups that are not among the best. A lane has a group.
__device__ void limit_groups(float* choice, int E, int groups, int limited, float* group_score,
                             int lane) {
  const int width = E / groups;
  for (int g = lane; g < groups; g += 32) {
    float first = -INFINITY, second = -INFINITY;
    for (int e = g * width; e < (g + 1) * width; ++e) {
      if (choice[e] > first) {
        second = first;
        first = choice[e];
      } else if (choice[e] > second) {
        second = choice[e];
      }
    }
    group_score[g] = width > 1 ? first + second : first;
  }
  __syncwarp();
  for (int g = lane; g < groups; g += 32) {
    int better = 0;
    for (int o = 0; o < groups; ++o)
      better += group_score[o] > group_score[g] || (group_score[o] == group_score[g] && o < g);
    if (better >= limited)
      for (int e = g * width; e < (g + 1) * width; ++e) choice[e] = -INFINITY;
  }
  __syncwarp();
}

struct ForwardArguments {
  float* weights;
  int* ids;
  float* scores;
  const float* bias;
  int64_t weights_stride, ids_stride, scores_stride, logits_stride;
  int64_t T;
  int E, K;
  RoutingRule rule;
  TokenPlaces places;
};

template <class Logit>
__global__ void __launch_bounds__(kWarps * 32)
    forward_kernel(ForwardArguments a, const Logit* logits) {
  extern __shared__ float shared[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  float* const choice = shared + warp * (2 * a.E + a.rule.groups);
  float* const score = choice + a.E + a.rule.groups;
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp;
  if (t >= a.T) return;
  int* const ids = a.ids + t * a.ids_stride;
  float* const weights = a.weights + t * a.weights_stride;
  score_row(score, logits + t * a.logits_stride, a.E, a.rule.score, lane);
  __syncwarp();
  for (int e = lane; e < a.E; e += 32) {
    a.scores[t * a.scores_stride + e] = score[e];
    const float c = a.bias == nullptr ? score[e] : score[e] + a.bias[e];
    choice[e] = isnan(c) ? -INFINITY : c;
  }
  __syncwarp();
  if (a.rule.groups > 1 && !a.rule.forced)
    limit_groups(choice, a.E, a.rule.groups, a.rule.limited_groups, choice + a.E, lane);
  float sum = 0;
  const int64_t place = a.rule.forced ? a.places.place(t) : 0;
  for (int k = 0; k < a.K; ++k) {
    int chosen = forced_expert(a.rule.skew_percent, place, k, a.K, a.E);
    if (!a.rule.forced) {
      Best best{-INFINITY, a.E};
      for (int e = lane; e < a.E; e += 32) {
        const float c = choice[e];  // NaN: taken
        if (c > best.value || (c == best.value && e < best.index)) best = {c, e};
      }
      chosen = warp_best(best);
      __syncwarp();
      if (lane == 0) choice[chosen] = NAN;
      __syncwarp();
    }
    sum += score[chosen];  // in order of k, in every lane
    if (lane == 0) ids[k] = chosen;
  }
  __syncwarp();
  for (int k = lane; k < a.K; k += 32) {
    float w = score[ids[k]];
    if (a.rule.normalize) w /= sum + kTiny;
    weights[k] = w * a.rule.scale;
  }
}

// How often each expert was chosen; sums of integers, in any order.
__global__ void __launch_bounds__(256)
    load_kernel(unsigned long long* load, const int* ids, int64_t stride, int slots, int K, int E) {
  extern __shared__ int counts[];
  for (int e = threadIdx.x; e < E; e += 256) counts[e] = 0;
  __syncthreads();
  for (int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x; i < slots;
       i += int64_t{gridDim.x} * 256) {
    const int slot = static_cast<int>(i);
    atomicAdd(counts + ids[slot / K * stride + slot % K], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < E; e += 256)
    if (counts[e] > 0) atomicAdd(load + e, static_cast<unsigned long long>(counts[e]));
}

struct BackwardArguments {
  const float *dweights, *scores;
  const int* ids;
  int64_t dlogits_stride, dweights_stride, scores_stride, ids_stride;
  int64_t T;
  int E, K;
  RoutingRule rule;
};

template <class Logit>
__global__ void __launch_bounds__(kWarps * 32)
    backward_kernel(BackwardArguments a, Logit* dlogits_base) {
  extern __shared__ float shared[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  float* const dscore = shared + warp * a.E;
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp;
  if (t >= a.T) return;
  const float* const score = a.scores + t * a.scores_stride;
  const float* const dweights = a.dweights + t * a.dweights_stride;
  const int* const ids = a.ids + t * a.ids_stride;
  Logit* const dlogits = dlogits_base + t * a.dlogits_stride;
  for (int e = lane; e < a.E; e += 32) dscore[e] = 0;
  __syncwarp();
  float sum = 0, dot = 0;
  for (int k = 0; k < a.K; ++k) {
    sum += score[ids[k]];
    dot += dweights[k] * score[ids[k]];
  }
  sum += kTiny;
  // By one lane: forced routing may choose an expert twice when K > E.
  if (lane == 0)
    for (int k = 0; k < a.K; ++k)
      dscore[ids[k]] += a.rule.normalize ? a.rule.scale / sum * (dweights[k] - dot / sum)
                                         : a.rule.scale * dweights[k];
  __syncwarp();
  float inner = 0;
  if (a.rule.score == RoutingRule::Score::softmax) {
    for (int e = lane; e < a.E; e += 32) inner += dscore[e] * score[e];
    inner = warp_sum(inner);
  }
  for (int e = lane; e < a.E; e += 32) {
    const float slope = a.rule.score == RoutingRule::Score::sigmoid ? dscore[e] * (1.0f - score[e])
                                                                    : dscore[e] - inner;
    dlogits[e] = Logit(score[e] * slope);
  }
}

// One block. Every thread sums all loads, in the CPU's order, and updates its own experts.
__global__ void __launch_bounds__(256)
    balance_kernel(float* bias, const int64_t* load, const int* step_ok, int E, float coefficient) {
  if (*step_ok == 0) return;
  extern __shared__ float loads[];
  for (int e = threadIdx.x; e < E; e += 256) loads[e] = static_cast<float>(load[e]);
  __syncthreads();
  float mean = 0, mean_delta = 0;
  for (int e = 0; e < E; ++e) mean += loads[e];
  mean /= static_cast<float>(E);
  const auto delta = [&](int e) {
    const float difference = mean - loads[e];
    return coefficient * static_cast<float>((difference > 0) - (difference < 0));
  };
  for (int e = 0; e < E; ++e) mean_delta += delta(e);
  mean_delta /= static_cast<float>(E);
  for (int e = threadIdx.x; e < E; e += 256) bias[e] += __fsub_rn(delta(e), mean_delta);
}

// More than 48 KiB of shared memory must be requested explicitly.
template <class Kernel>
size_t shared_bytes(Kernel kernel, int64_t floats) {
  const auto bytes = static_cast<size_t>(floats) * sizeof(float);
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(bytes));
  return bytes;
}

}  // namespace

void router_forward(Stream& stream, const RouterForward& a) {
  const int64_t T = a.logits.dim(0), E = a.logits.dim(1), K = a.ids.dim(1);
  if (T == 0) return;
  const ForwardArguments arguments{.weights = a.weights.as<float>(),
                                   .ids = a.ids.as<int>(),
                                   .scores = a.scores.as<float>(),
                                   .bias = a.bias.as<float>(),
                                   .weights_stride = a.weights.row_stride(),
                                   .ids_stride = a.ids.row_stride(),
                                   .scores_stride = a.scores.row_stride(),
                                   .logits_stride = a.logits.row_stride(),
                                   .T = T,
                                   .E = static_cast<int>(E),
                                   .K = static_cast<int>(K),
                                   .rule = a.rule,
                                   .places = a.places};
  visit_float(a.logits.dtype, [&]<class Logit>() {
    const size_t bytes = shared_bytes(forward_kernel<Logit>, kWarps * (2 * E + a.rule.groups));
    forward_kernel<Logit>
        <<<static_cast<unsigned>(ceil_div(T, kWarps)), kWarps * 32, bytes, native(stream)>>>(
            arguments, a.logits.as<Logit>());
  });
  if (a.load) {
    const auto blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(T * K, 512), 256));
    load_kernel<<<blocks, 256, shared_bytes(load_kernel, E), native(stream)>>>(
        a.load.as<unsigned long long>(), a.ids.as<int>(), a.ids.row_stride(),
        static_cast<int>(T * K), static_cast<int>(K), static_cast<int>(E));
  }
  check_launch("router_forward");
}

void router_backward(Stream& stream, const RouterBackward& a) {
  const int64_t T = a.dlogits.dim(0), E = a.dlogits.dim(1), K = a.ids.dim(1);
  if (T == 0) return;
  const BackwardArguments arguments{.dweights = a.dweights.as<float>(),
                                    .scores = a.scores.as<float>(),
                                    .ids = a.ids.as<int>(),
                                    .dlogits_stride = a.dlogits.row_stride(),
                                    .dweights_stride = a.dweights.row_stride(),
                                    .scores_stride = a.scores.row_stride(),
                                    .ids_stride = a.ids.row_stride(),
                                    .T = T,
                                    .E = static_cast<int>(E),
                                    .K = static_cast<int>(K),
                                    .rule = a.rule};
  visit_float(a.dlogits.dtype, [&]<class Logit>() {
    const size_t bytes = shared_bytes(backward_kernel<Logit>, kWarps * E);
    backward_kernel<Logit>
        <<<static_cast<unsigned>(ceil_div(T, kWarps)), kWarps * 32, bytes, native(stream)>>>(
            arguments, a.dlogits.as<Logit>());
  });
  check_launch("router_backward");
}

void balance_update(Stream& stream, const BalanceUpdate& a) {
  const int64_t E = a.bias.dim(0);
  balance_kernel<<<1, 256, shared_bytes(balance_kernel, E), native(stream)>>>(
      a.bias.as<float>(), a.load.as<int64_t>(), a.step_ok.as<int>(), static_cast<int>(E),
      a.coefficient);
  check_launch("balance_update");
}

}  // namespace nereus::ops::cuda
