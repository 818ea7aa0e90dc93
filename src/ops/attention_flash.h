// Attention on the tensor cores of GPUs other than Hopper for what cuDNN does not take: document
// masks, and queries that are a part of a row (context parallelism). bf16 heads up to 192/128 wide
// in multiples of 8.
//
// Tiles of keys that no query of a tile sees are skipped, so the work is proportional to the
// documents' lengths. The bounds are read on the device. The backward pass goes over the tiles
// twice, once for dq and once for dk and dv; each sum has one owner and a fixed order.
#pragma once

#include "ops/attention.h"

namespace nereus::ops::cuda {

bool flash_takes(const AttentionForward&);
bool flash_takes(const AttentionBackward&);

void flash_forward(Stream&, const AttentionForward&);
void flash_backward(Stream&, const AttentionBackward&);

}  // namespace nereus::ops::cuda
