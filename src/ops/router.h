// Which experts a token goes to, and with which weights (DeepSeek-V3, arXiv 2412.19437, eq. 12-16).
//
//   score[t,e] = sigmoid(logits[t,e])  or  softmax_e(logits[t,:])
//   choice[t,e] = score[t,e] + bias[e]                 (bias only chooses, it does not weigh)
//   ids[t,:] = the K largest of choice[t,:], ties to the smaller e, largest first
//   w[t,k] = score[t, ids[t,k]];  normalize: w /= (sum_k w + 1e-20);  then w *= scale
//
// Groups: with groups > 1 the experts form `groups` equal runs; a group's score is the sum of its
// two largest choices, and only experts of the `limited_groups` best groups (ties to the smaller)
// may be chosen. forced: forced_expert() instead of the K largest, token by token in turn over all
// experts, or skew_percent of 100 tokens to the first ones, tokens numbered by TokenPlaces; weights
// as above from their scores.
//
// router_backward gives dlogits from dweights through weights and scores; ids are constants.
// All arithmetic is f32; logits and dlogits are f32 or bf16.
#pragma once

#include <cstdint>

#include "base/hostdevice.h"
#include "ops/op.h"

namespace nereus::ops {

struct RoutingRule {
  enum class Score : uint8_t { sigmoid, softmax };
  Score score = Score::sigmoid;
  bool normalize = false;
  bool forced = false;
  int skew_percent = 0;  // with forced
  float scale = 1;
  int groups = 1, limited_groups = 1;
};

// Where the T tokens of the call are in the global batch. They are those from `first` on of: the
// tokens start[0] .. start[0] + run - 1 of each of `rows` rows, then those from start[1] (under
// context parallelism a rank has two runs of each row). By default the places are 0 .. T-1.
struct TokenPlaces {
  int64_t first = 0;
  int64_t first_row = 0;  // of the rows, in the global batch
  int64_t rows = 1;
  int64_t sequence = 0;  // tokens a row
  int64_t run = INT64_MAX;
  int64_t start[2] = {0, 0};

  NEREUS_HD int64_t place(int64_t t) const {
    const int64_t n = first + t, of_row = n / run;
    const int64_t row = of_row % rows, second = of_row / rows;
    return (first_row + row) * sequence + start[second == 0 ? 0 : 1] + n % run;
  }
};

// The k-th of K choices among E experts under forced routing, of the token in place t.
NEREUS_HD inline int forced_expert(int skew_percent, int64_t t, int64_t k, int64_t K, int64_t E) {
  const int64_t turn = t % 100 < skew_percent ? 0 : t;
  return static_cast<int>((turn * K + k) % E);
}

struct RouterForward {
  TensorView weights;         // f32 [T, K]
  TensorView ids;             // i32 [T, K]
  TensorView scores;          // f32 [T, E], kept for the backward pass
  TensorView load = {};       // i64 [E]: the number of (t,k) with that id is added; optional
  ConstTensorView logits;     // [T, E]
  ConstTensorView bias = {};  // f32 [E], optional
  RoutingRule rule;
  TokenPlaces places = {};  // with rule.forced
};

struct RouterBackward {
  TensorView dlogits;        // [T, E]
  ConstTensorView dweights;  // f32 [T, K]
  ConstTensorView ids;       // i32 [T, K]
  ConstTensorView scores;    // f32 [T, E]
  RoutingRule rule;
};

NEREUS_OP(router_forward, RouterForward)
NEREUS_OP(router_backward, RouterBackward)

// The load balancing of DeepSeek-V3 without an auxiliary loss, in TorchTitan's mean-centred form:
//
//   delta[e] = coefficient * sign(mean(load) - load[e]);   bias[e] += delta[e] - mean(delta)
//
// Nothing changes when *step_ok is 0.
struct BalanceUpdate {
  TensorView bias;          // f32 [E]
  ConstTensorView load;     // i64 [E]
  ConstTensorView step_ok;  // i32 [1]
  float coefficient = 0;
};

NEREUS_OP(balance_update, BalanceUpdate)

}  // namespace nereus::ops
