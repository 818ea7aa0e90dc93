// The kernels of attention_hopper.h as their callers see them: plain pointers, strides and sizes.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nereus::ops::cuda::hopper {

// A [T, H, D] tensor of bf16; strides in elements.
struct Heads {
  void* data;
  int64_t token, head;
  int width;
};

// What both passes have; see ops/attention.h. Rows of S queries and Sk keys: the key of a row's
// first query is its key chunk_start.
struct Problem {
  int B, H, S, Sk, chunk_start;
  bool documents;
  float scale;
  const int* first_key;
  int multiprocessors;
  CUstream_st* stream;
};

struct ForwardArguments {
  Problem problem;
  Heads o, q, k, v;
  float* lse;
  int* ticket;
};
void launch(const ForwardArguments&);

struct BackwardArguments {
  Problem problem;
  Heads dq, dk, dv, dout, o, q, k, v;
  const float* lse;
  void* workspace;
  bool accumulate;
};
void launch(const BackwardArguments&);

// Boxes of `rows` tokens and `columns` elements of a head; what lies outside of the tensor reads as
// zeros. Coordinates: element, token of its row, head, row.
CUtensorMap map_of(const Heads&, int B, int H, int S, int rows, int columns);

}  // namespace nereus::ops::cuda::hopper
