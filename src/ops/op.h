// The public entry of an op: checks the contract and calls the implementation of the stream's
// device. Letters used in all headers of this folder:
//
//   T tokens of a microbatch   D model width      F feed-forward width   V vocabulary
//   B sequences                S sequence length  H heads                E experts
//   K experts per token        R rows routed      N, M, K of a GEMM where the header says so
//
// Outputs come first in an op's struct. A view without shape is "not given". Outputs are written,
// not added to, unless the struct has an `accumulate` and it is set. An op enqueues on its stream,
// allocates nothing and does not synchronize. Where the stream is recorded (device/trace.h) an op
// is a range.
#pragma once

#include "device/device.h"
#include "device/trace.h"
#include "ops/tensor_bytes.h"
#include "tensor/tensor.h"

namespace nereus::ops {

// What a recording says of an op; nothing where there is none.
template <class Arguments>
TraceArgs op_trace(const Stream& stream, const Arguments& arguments) {
  TraceArgs args;
  if (stream.trace() != nullptr && stream.trace()->records_ranges())
    args.bytes = tensor_bytes(arguments);
  return args;
}

}  // namespace nereus::ops

// Declares check(), cpu:: and cuda:: of an op and defines its entry.
#define NEREUS_OP(function, Arguments)                                                             \
  void check(const Arguments&);                                                                    \
  namespace cpu {                                                                                  \
  void function(Stream&, const Arguments&);                                                        \
  }                                                                                                \
  namespace cuda {                                                                                 \
  void function(Stream&, const Arguments&);                                                        \
  }                                                                                                \
  inline void function(Stream& stream, const Arguments& arguments) {                               \
    check(arguments);                                                                              \
    const TraceRange range(stream.trace(), TraceKind::op, #function, op_trace(stream, arguments)); \
    if (stream.on_cpu()) return cpu::function(stream, arguments);                                  \
    if constexpr (kHasCuda) {                                                                      \
      if (stream.on_gpu()) return cuda::function(stream, arguments);                               \
    }                                                                                              \
  }

// An op for which a GPU's stream must have something ready: a library's plan for each shape, or
// memory in the workspace (ops/workspace.h). A step run for its sizes on a meta stream made for a
// GPU's stream makes it all, before the first step.
#define NEREUS_PLANNED_OP(function, Arguments)                                                     \
  void check(const Arguments&);                                                                    \
  namespace cpu {                                                                                  \
  void function(Stream&, const Arguments&);                                                        \
  }                                                                                                \
  namespace cuda {                                                                                 \
  void plan(Stream&, const Arguments&);                                                            \
  void function(Stream&, const Arguments&);                                                        \
  }                                                                                                \
  inline void function(Stream& stream, const Arguments& arguments) {                               \
    check(arguments);                                                                              \
    const TraceRange range(stream.trace(), TraceKind::op, #function, op_trace(stream, arguments)); \
    if (stream.on_cpu()) return cpu::function(stream, arguments);                                  \
    if constexpr (kHasCuda) {                                                                      \
      if (stream.on_gpu()) return cuda::function(stream, arguments);                               \
      if (stream.plans_for() != nullptr) return cuda::plan(*stream.plans_for(), arguments);        \
    }                                                                                              \
  }
