// Attention by cuDNN's graph API: bf16, causal, heads up to 256 wide in multiples of 8.
//
// The graph of each shape is built once (tenths of a second) and kept with the stream. The backward
// pass is deterministic and goes sequence by sequence, since cuDNN's deterministic kernel wants
// gigabytes of workspace for each; or, unordered, over all sequences at once.
#pragma once

#include "ops/attention.h"

namespace nereus::ops::cuda {

// False: cuDNN does not take this shape, type or mask.
bool cudnn_takes(const AttentionForward&);
bool cudnn_takes(const AttentionBackward&);

// Builds the graph, at start-up.
void plan_cudnn(Stream&, const AttentionForward&);
void plan_cudnn(Stream&, const AttentionBackward&);
int64_t cudnn_workspace(Stream&, const AttentionBackward&);  // bytes

// Run the graph, building it if need be. False: cuDNN has no kernel for it after all (said once in
// the log), and nothing was done.
bool run_cudnn(Stream&, const AttentionForward&);
bool run_cudnn(Stream&, const AttentionBackward&);

}  // namespace nereus::ops::cuda
