// Expert parallelism in two words: dispatch takes tokens to their experts' rows, combine brings the
// experts' rows back and sums them by token. A layer of experts sees only rows sorted by the
// experts that live on this rank.
//
// The plan of a microbatch is made once, in the forward pass, from the router's ids, and kept: a
// replay of the forward pass exchanges the same rows again.
//
// Between ranks a plan has a capacity, a bound on its rows. Where the routing wants more, every
// rank of the group leaves out the same rows: nothing is written out of bounds, nobody waits for
// what does not come, values stay finite, and `overflow` says that the step must be skipped.
#pragma once

#include <algorithm>
#include <cmath>
#include <variant>
#include <vector>

#include "parallel/layer_context.h"

namespace nereus {

class TokenDispatcher {
 public:
  // One microbatch's exchange; views are taken from the arena given to plan().
  struct Plan {
    TensorView offsets;  // i32 [E + 1], rows of the local experts
    int64_t rows = 0;    // R: capacity of the row buffers; offsets[E] of them are used

    // How rows find their experts, for the dispatcher that made the plan. One of:
    // this rank's slots, sorted by expert;
    struct Sorted {
      TensorView row_of_slot;  // i32 [T, K]
      TensorView slot_of_row;  // i32 [T * K]
    };
    // those, sent to other ranks and sorted there again: the arrivals' permutation, and rows to and
    // from each rank of the group;
    struct Exchanged {
      Sorted sorted;
      TensorView row_of_arrival;  // i32 [R, 1]
      TensorView arrival_of_row;  // i32 [R]
      std::vector<int64_t> sent, received;
    };
    // each slot's rank and row there, where ranks see each other's memory.
    struct Placed {
      TensorView place;  // i32 [T, K, 2]
    };
    std::variant<Sorted, Exchanged, Placed> route;
  };

  // Rows as the experts get them.
  struct Rows {
    TensorView x;        // [R, D]
    TensorView weights;  // f32 [R], the routing weight of each row
  };

  virtual ~TokenDispatcher() = default;

  virtual int64_t local_experts() const = 0;  // E
  virtual const char* name() const = 0;       // for the start-up summary
  // Do rows go by Communicator::all_to_all? (Else by windows, or nowhere.)
  virtual bool exchanges_by_all_to_all() const { return false; }

  // Do dispatch and combine (and their backward passes) take scratch memory? Where not, they may
  // run on a stream of their own, concurrently with other work (device/side_stream.h).
  virtual bool takes_scratch() const { return true; }

  // Memory that other ranks see, in which the arenas of all passes must lie; null: any will do. A
  // collective; what was given before is gone.
  virtual std::byte* shared_memory(Stream&, int64_t /*bytes*/) { return nullptr; }

  // i64 [1] on the streams' device: a plan that wants more rows than its capacity raises it to
  // the rows that it wanted (ops::raise, or an atomic maximum); nobody here lowers it. Not given:
  // such a plan is an Error{kConfig} with the numbers, where the host knows them.
  void set_overflow(TensorView word) { overflow_ = word; }
  // The capacity of a plan for T tokens of K choices, in rows; 0: as many as there can be.
  virtual int64_t capacity(int64_t /*T*/, int64_t /*K*/) const { return 0; }
  // Plans have a capacity of `rows` from here on, or for all that can be sent here, if that is
  // less. Memory of plans that are in use is not touched: between steps, before arenas are
  // measured.
  void set_capacity(int64_t rows) { rows_ = rows; }

  virtual Plan plan(Context&, Arena& arena, ConstTensorView ids) = 0;  // ids i32 [T, K]

  // rows.x[r] = x of its token, times its weight with `weigh` (score_before_experts);
  // rows.weights[r] = its weight. `rows` is given by the caller, of plan.rows rows.
  virtual void dispatch(Context&, const Plan&, ConstTensorView x, ConstTensorView weights,
                        bool weigh, const Rows& rows) = 0;
  // out[t] = addend[t] + the sum of t's rows in order of choice; addend optional.
  virtual void combine(Context&, const Plan&, ConstTensorView rows, ConstTensorView addend,
                       TensorView out) = 0;

  // drows[r] = dout of its token.
  virtual void combine_backward(Context&, const Plan&, ConstTensorView dout, TensorView drows) = 0;
  // dx[t] = addend[t] + the sum of t's drows (times their weights with `weigh`);
  // dweights[t,k] = drow_weights of its row, or with `weigh` the row's dot product drows . x[t].
  struct DispatchBackward {
    TensorView dx;                 // [T, D]
    TensorView dweights;           // f32 [T, K]
    ConstTensorView drows;         // [R, D]
    ConstTensorView drow_weights;  // f32 [R]; not read with `weigh`
    ConstTensorView x, weights;    // [T, D], f32 [T, K]; read with `weigh` only
    ConstTensorView addend;        // [T, D]
    bool weigh = false;
  };
  virtual void dispatch_backward(Context&, const Plan&, const DispatchBackward&) = 0;

 protected:
  // Rows that a plan of a rank of `ranks` with E experts has capacity for, when each has T tokens
  // of K choices: what set_capacity() said, else `capacity_factor` times its own slots, or (0) what
  // all can send at most.
  int64_t plan_capacity(int64_t T, int64_t K, int64_t ranks, int64_t E,
                        double capacity_factor) const {
    const int64_t most = ranks * T * std::min(K, E);
    if (rows_ > 0) return std::min(most, rows_);
    if (capacity_factor <= 0) return most;
    const double rows = std::ceil(capacity_factor * static_cast<double>(T * K));
    return rows < static_cast<double>(most) ? static_cast<int64_t>(rows) : most;
  }

  TensorView overflow_;
  int64_t rows_ = 0;  // as set_capacity() says; 0: it was not called
};

// All experts live on this rank: a permutation, no communication.
class LocalDispatcher final : public TokenDispatcher {
 public:
  explicit LocalDispatcher(int64_t experts) : experts_(experts) {}
  int64_t local_experts() const override { return experts_; }
  const char* name() const override { return "local"; }
  Plan plan(Context&, Arena& arena, ConstTensorView ids) override;
  void dispatch(Context&, const Plan&, ConstTensorView x, ConstTensorView weights, bool weigh,
                const Rows& rows) override;
  void combine(Context&, const Plan&, ConstTensorView rows, ConstTensorView addend,
               TensorView out) override;
  void combine_backward(Context&, const Plan&, ConstTensorView dout, TensorView drows) override;
  void dispatch_backward(Context&, const Plan&, const DispatchBackward&) override;

 private:
  int64_t experts_;
};

}  // namespace nereus
