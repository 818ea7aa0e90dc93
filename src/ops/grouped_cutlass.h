// The fast paths of the GPU's grouped GEMMs: bf16 through CUTLASS's grouped kernels for Hopper,
// one configuration a source file, since each takes a minute and a half to compile.
//
// A small kernel makes the sizes and pointers of the groups on the device, from the offsets. The
// host never knows how many rows an expert has.
#pragma once

#include <cstdint>
#include <optional>

#include "device/device.h"

namespace nereus::ops::cuda {

// All row-major, without gaps. Group e's rows are [offsets[e], offsets[e + 1]).
struct GroupedProblem {
  const void* a = nullptr;
  const void* b = nullptr;
  void* out = nullptr;
  // On the device. Null: nothing is computed; the kernel makes its memory for so many groups, which
  // it then finds in a step.
  const int32_t* offsets = nullptr;
  int64_t groups = 0, N = 0, K = 0;
  bool accumulate = false;
  // The order in which the persistent grid goes over an expert's tiles: along its rows or columns
  // first, in blocks of so many tiles, for the sake of the L2 cache.
  bool along_columns = false;
  int swizzle = 1;
};

// The tile of `out` that a thread block computes at a time, and which operand a cluster of two
// shares: the weights (128 x 256 or 256 x 128), or the rows (128 x 256 side by side).
enum class GroupedTile { standard, tall, wide };

// out[r, N] bf16 = a[r, K] b[e]^T, b[e] stored [N, K].
void grouped_forward(Stream&, const GroupedProblem&);
void grouped_forward_tall(Stream&, const GroupedProblem&);
void grouped_forward_wide(Stream&, const GroupedProblem&);
// out[r, N] bf16 = a[r, K] b[e], b[e] stored [K, N].
void grouped_dgrad(Stream&, const GroupedProblem&);
void grouped_dgrad_tall(Stream&, const GroupedProblem&);
void grouped_dgrad_wide(Stream&, const GroupedProblem&);
// out[e] f32 [N, K] (+)= sum over e's rows of a[r, N]^T b[r, K]. An expert without rows is left
// alone.
void grouped_wgrad(Stream&, const GroupedProblem&);

// The same for GPUs of compute capability 10.0, in builds for them (NEREUS_SM100).
void grouped_forward_sm100(Stream&, const GroupedProblem&);
void grouped_dgrad_sm100(Stream&, const GroupedProblem&);
void grouped_wgrad_sm100(Stream&, const GroupedProblem&);

// For measuring: GEMMs of rows of this stream take this tile instead of the table's, or the
// table's again ("no value").
void force_grouped_tile(Stream&, std::optional<GroupedTile>);

// Throws Error{kDevice} that names the op and the step that CUTLASS refused.
[[noreturn]] void fail_cutlass(const char* op, const char* step, const char* reason);

}  // namespace nereus::ops::cuda
