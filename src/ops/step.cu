#include <algorithm>

#include "ops/cuda.cuh"
#include "ops/step.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kRecords = 64;  // read at once

__global__ void raise_kernel(int64_t* word, int64_t value) { *word = max(*word, value); }

// A warp takes every kLoadWarps-th layer.
constexpr int kLoadWarps = 8;
__global__ void __launch_bounds__(kLoadWarps * 32)
    max_over_mean_kernel(double* out, const int64_t* load, int64_t layers, int64_t experts) {
  __shared__ double parts[kLoadWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double worst = 0;
  for (int64_t l = warp; l < layers; l += kLoadWarps) {
    int64_t sum = 0, most = 0;
    for (int64_t e = lane; e < experts; e += 32) {
      const int64_t n = load[l * experts + e];
      sum += n;
      most = max(most, n);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      most = max(most, __shfl_xor_sync(0xffffffffu, most, offset));
    }
    if (sum > 0)
      worst = fmax(worst, static_cast<double>(most) * static_cast<double>(experts) /
                              static_cast<double>(sum));
  }
  if (lane == 0) parts[warp] = worst;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kLoadWarps; ++i) worst = fmax(worst, parts[i]);
  *out = worst;
}

struct Figures {
  double of[kStepFigures];
};

__global__ void record_kernel(double* record, int64_t* overflow, const double* squares,
                              const float* loss, double pairs, const double* max_over_mean,
                              double signal, Figures figures) {
  record[0] = squares != nullptr ? *squares : 0;
  record[1] = loss != nullptr ? static_cast<double>(*loss) : 0;
  record[2] = pairs;
  record[3] = static_cast<double>(*overflow);
  record[4] = *max_over_mean;
  record[5] = signal;
  record[6] = record[1];
#pragma unroll
  for (int i = 0; i < kStepFigures; ++i) record[7 + i] = figures.of[i];
  *overflow = 0;
}

// One block: all threads read, one adds.
__global__ void __launch_bounds__(kRecords* kStepRecord)
    outcome_kernel(double* total, int* step_ok, const double* records, int64_t ranks) {
  __shared__ double part[kRecords * kStepRecord];
  double sums[kStepRecord] = {};
  for (int64_t first = 0; first < ranks; first += kRecords) {
    const int64_t i = first * kStepRecord + threadIdx.x;
    if (i < ranks * kStepRecord) part[threadIdx.x] = records[i];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int64_t r = 0; r < min(ranks - first, int64_t{kRecords}); ++r) {
        const double* record = part + r * kStepRecord;
#pragma unroll
        for (int i = 0; i < 3; ++i) sums[i] += record[i];
#pragma unroll
        for (int i = 3; i < kStepRecord; ++i) sums[i] = fmax(sums[i], record[i]);
      }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int i = 0; i < kStepRecord; ++i) total[i] = sums[i];
  if (!isfinite(sums[1]) || sums[3] > 0) *step_ok = 0;
}

}  // namespace

void raise(Stream& stream, const Raise& a) {
  raise_kernel<<<1, 1, 0, native(stream)>>>(a.word.as<int64_t>(), a.value);
  check_launch("raise");
}

void max_over_mean(Stream& stream, const MaxOverMean& a) {
  max_over_mean_kernel<<<1, kLoadWarps * 32, 0, native(stream)>>>(
      a.out.as<double>(), a.load.as<int64_t>(), a.load.dim(0), a.load.dim(1));
  check_launch("max_over_mean");
}

void step_record(Stream& stream, const StepRecord& a) {
  Figures figures;
  std::copy(a.figures.begin(), a.figures.end(), figures.of);
  record_kernel<<<1, 1, 0, native(stream)>>>(
      a.record.as<double>(), a.overflow.as<int64_t>(),
      a.counts_squares ? a.sum_squares.as<double>() : nullptr,
      a.counts_loss ? a.loss.as<float>() : nullptr, a.pairs, a.max_over_mean.as<double>(), a.signal,
      figures);
  check_launch("step_record");
}

void step_outcome(Stream& stream, const StepOutcome& a) {
  outcome_kernel<<<1, kRecords * kStepRecord, 0, native(stream)>>>(
      a.total.as<double>(), a.step_ok.as<int>(), a.records.as<double>(), a.records.dim(0));
  check_launch("step_outcome");
}

}  // namespace nereus::ops::cuda
