#include "ops/cuda.cuh"
#include "ops/step.h"

namespace nereus::ops::cuda {
namespace {

constexpr int kRecords = 128;  // read at once

__global__ void raise_kernel(int64_t* word, int64_t value) { *word = max(*word, value); }

__global__ void record_kernel(double* record, int64_t* overflow, const double* squares,
                              const float* loss, double signal) {
  record[0] = squares != nullptr ? *squares : 0;
  record[1] = loss != nullptr ? static_cast<double>(*loss) : 0;
  record[2] = static_cast<double>(*overflow);
  record[3] = signal;
  *overflow = 0;
}

// One block: all threads read, one adds.
__global__ void __launch_bounds__(kRecords* kStepRecord)
    outcome_kernel(double* total, int* step_ok, const double* records, int64_t ranks) {
  __shared__ double part[kRecords * kStepRecord];
  double squares = 0, loss = 0, overflow = 0, signal = 0;
  for (int64_t first = 0; first < ranks; first += kRecords) {
    const int64_t i = first * kStepRecord + threadIdx.x;
    if (i < ranks * kStepRecord) part[threadIdx.x] = records[i];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int64_t r = 0; r < min(ranks - first, int64_t{kRecords}); ++r) {
        const double* record = part + r * kStepRecord;
        squares += record[0];
        loss += record[1];
        overflow = fmax(overflow, record[2]);
        signal = fmax(signal, record[3]);
      }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  total[0] = squares;
  total[1] = loss;
  total[2] = overflow;
  total[3] = signal;
  if (!isfinite(loss) || overflow > 0) *step_ok = 0;
}

}  // namespace

void raise(Stream& stream, const Raise& a) {
  raise_kernel<<<1, 1, 0, native(stream)>>>(a.word.as<int64_t>(), a.value);
  check_launch("raise");
}

void step_record(Stream& stream, const StepRecord& a) {
  record_kernel<<<1, 1, 0, native(stream)>>>(
      a.record.as<double>(), a.overflow.as<int64_t>(),
      a.counts_squares ? a.sum_squares.as<double>() : nullptr,
      a.counts_loss ? a.loss.as<float>() : nullptr, a.signal);
  check_launch("step_record");
}

void step_outcome(Stream& stream, const StepOutcome& a) {
  outcome_kernel<<<1, kRecords * kStepRecord, 0, native(stream)>>>(
      a.total.as<double>(), a.step_ok.as<int>(), a.records.as<double>(), a.records.dim(0));
  check_launch("step_outcome");
}

}  // namespace nereus::ops::cuda
