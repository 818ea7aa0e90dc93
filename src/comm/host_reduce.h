// The sum or maximum over ranks of elements in host memory, in the order that communicator.h
// states.
#pragma once

#include <cstddef>
#include <span>

#include "comm/communicator.h"

namespace nereus {

// out[i] = inputs[0][i] op inputs[1][i] op ..., of `count` elements each. out may be one of the
// inputs. Types: f32, bf16, f64, i32, i64.
void host_reduce(ReduceOp, DType, std::byte* out, std::span<const std::byte* const> inputs,
                 int64_t count);

}  // namespace nereus
