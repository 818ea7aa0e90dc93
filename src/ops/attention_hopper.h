// Attention for Hopper (compute capability 9.0): bf16, heads up to 192/128 wide in multiples of 8,
// every mask and chunk, any length. Always deterministic.
//
// Both passes are persistent: a thread block a multiprocessor (of those that GEMMs take: others are
// left to communication) takes tiles by ticket; one warpgroup copies (TMA), two multiply (wgmma).
// Tiles of keys that no query of a tile sees are skipped; the bounds are read on the device.
//
// Forward: 128 queries of a head against 128 keys at a time; scores stay in registers (online
// softmax), and the next scores are computed while values are summed.
// Backward: 128 keys of a head stay, with dk and dv in registers, and 64 queries at a time pass.
// One warpgroup makes dq while the other makes the next weights, so that the tensor cores are busy
// during exponentials. dq is summed over a head's blocks of keys in f32, in a fixed order: from a
// query's own block down to the first, a counter a tile of queries saying whose turn it is. The
// first stores, the others add (by the TMA, from shared memory), the last adds the sum to its part
// and writes dq; so nothing is cleared or converted. Tickets are taken in that order too, so a
// block waits only for blocks that run. The last heads go the other way, so that their long blocks
// come first.
#pragma once

#include "ops/attention.h"

namespace nereus::ops::cuda {

// Is the stream's device a Hopper GPU, do these arguments fit, and is cuDNN not asked for instead?
bool hopper_takes(Stream&, const AttentionForward&);
bool hopper_takes(Stream&, const AttentionBackward&);

void hopper_forward(Stream&, const AttentionForward&);
void hopper_backward(Stream&, const AttentionBackward&);

// Bytes that the backward pass needs beside its arguments: dq in f32, and 12 a query and head.
int64_t hopper_workspace(const AttentionBackward&);

}  // namespace nereus::ops::cuda
