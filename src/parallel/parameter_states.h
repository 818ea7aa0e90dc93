// The state of the parameters that this rank keeps: f32 masters, f32 gradients that have been
// reduced, the optimizer's two moments and, when kernels compute in bf16, bf16 copies. Each is one
// flat buffer of this rank's shards in the order of StoreLayout, so that the norm, clipping and the
// optimizer are one op over all of it.
//
// Masters of tensors that have copies can be kept as what the copies lack (split_masters: see
// ops/split_master.h), and moments and masters in host memory (Offload). Masters are then not
// "whole": outside of steps they can be put together as f32 in the memory of the gradients.
#pragma once

#include <memory>
#include <vector>

#include "config/choices.h"
#include "device/device.h"
#include "parallel/copy_beside.h"
#include "parallel/host_states.h"
#include "parallel/in_place.h"
#include "parallel/named_view.h"
#include "parallel/store_layout.h"

namespace nereus {

class ParameterStates {
 public:
  struct Options {
    DType compute = DType::f32;  // f32, or bf16: copies are kept in addition to the masters
    bool gradients = true;
    bool moments = true;
    DType moment_type = DType::f32;              // or bf16
    bool split_masters = false;                  // with bf16 copies, gradients and moments only
    Offload offload = Offload::none;             // `states` likewise
    int64_t offload_chunk = HostStates::kChunk;  // elements
    InPlace in_place = {};                       // `copies`: without offload only
  };

  // All zero. The layout must outlive the states; `mine` is this rank's shard of it. Masters that
  // are not whole without copies, gradients and moments are an Error{kContract}.
  ParameterStates(Device, const StoreLayout&, const ShardIndex& mine, const Options&);

  // Flat views, padding (always zero) included: f32 [layout.elements()]. Masters that are not
  // whole: Error{kContract} unless they have been put together since the step began. "No tensor"
  // without gradients.
  TensorView masters() const { return flat(all_masters(), DType::f32); }
  TensorView gradients() const { return flat(gradients_, DType::f32); }

  // This rank's rows of stored tensor i with padding (StoreLayout::shard_shape): master, gradient,
  // and what kernels read of it (the copy, or the master where there is none).
  TensorView master(size_t i) const { return shard(all_masters(), DType::f32, i); }
  TensorView gradient(size_t i) const { return shard(gradients_, DType::f32, i); }
  TensorView read(size_t i) const;

  // What copies and gradients lie in (StoreLayout::padded_shape), where they are in place, and this
  // rank's block of the gradient: gradient(i) once move_gradients_together() has been called. The
  // flat gradients are gone as soon as unsharded ones are written.
  const InPlace& in_place() const { return options_.in_place; }
  TensorView unsharded_copy(size_t i) const;
  TensorView unsharded_gradient(size_t i) const;
  TensorView block_of_gradient(size_t i) const;
  void move_gradients_together(Stream&) const;

  // The same by logical parameter, as strided views. A parameter of which this rank has no rows is
  // left out; one of routed experts may have several.
  std::vector<NamedView> master_views() const;
  std::vector<NamedView> gradient_views() const;
  std::vector<NamedView> read_views() const;

  // The states of consecutive elements, on the device.
  struct States {
    int64_t first = 0;          // the first element's place in a flat buffer: of which parameters
                                // they are says StoreLayout
    TensorView master = {};     // f32; or "no tensor", and
    TensorView remainder = {};  // i16: what the copy lacks
    TensorView copy = {};       // bf16; "no tensor" when kernels compute in f32
    TensorView gradient = {};   // f32
    // The sign of a second moment is the master's when that is split: its magnitude counts.
    TensorView first_moment = {}, second_moment = {};
  };
  // Where the states of consecutive elements are kept, for a copy of them: nothing passes through
  // the device's memory or is put together. A whole master, or the copy and the remainder.
  struct Kept {
    States states;  // no gradient
    int64_t count = 0;
    bool moments_on_host = false, masters_on_host = false;  // masters, or remainders
  };
  // Of elements that together are all but padding, ascending.
  std::vector<Kept> kept() const;
  // The next visit() that writes waits for the copy, part by part.
  void copied_beside(std::shared_ptr<CopyBeside> copy) { beside_ = std::move(copy); }

  // Calls `body` for states that together are all, in ascending order; what it enqueues on the
  // stream may change them, and with `write` that is kept. With everything on the device and whole
  // it is one call.
  void visit(Stream&, bool write, FunctionRef<void(const States&)> body);

  // Masters that are not whole are put together in the memory of the gradients, whose contents are
  // lost: until the next step begins, masters(), master() and master_views() are f32 views there.
  void assemble_masters(Stream&);
  // From here on gradients are written: masters that were put together are gone.
  void begin_step() { assembled_ = false; }

  // The optimizer's moments where they are kept, flat: f32 or bf16 [layout.elements()], or "no
  // tensor". Changes of host memory are as of a stream that is idle. See States for the sign of a
  // second moment.
  struct Moments {
    TensorView first = {}, second = {};
    bool on_host = false;    // offloaded: not on the device
    bool has_signs = false;  // of the second moment, which are the masters'
  };
  Moments moments() const;

  // Masters are about to be filled from elsewhere, all of them: masters() and master_views() are
  // where; refresh_copies() then makes of them what is kept. Moments go first.
  void begin_load() { assembled_ = true; }

  // Draws every parameter's initial value; a function of the seed and its name alone.
  void initialize(Stream&, uint64_t seed);
  // Makes the copies from the masters, and keeps the masters that are not whole: after loading or
  // initializing masters or moments. The optimizer keeps them.
  void refresh_copies(Stream&);

  // By owner: of the device's memory, but for host_*.
  struct Bytes {
    int64_t masters = 0, gradients = 0, moments = 0, copies = 0;
    int64_t remainders = 0;  // of split masters
    int64_t chunks = 0;      // of states in host memory, on the device
    int64_t host_masters = 0, host_remainders = 0, host_moments = 0;
  };
  Bytes bytes() const;

 private:
  bool moments_on_host() const { return options_.moments && options_.offload != Offload::none; }
  bool masters_on_host() const { return options_.offload == Offload::states; }
  bool whole_masters() const { return !options_.split_masters && !masters_on_host(); }
  int64_t first_master() const {  // the element that masters_ begins with
    return whole_masters() ? 0 : layout_.f32_masters().begin;
  }
  const Buffer& all_masters() const;
  TensorView flat(const Buffer& buffer, DType dtype) const;
  TensorView shard(const Buffer& buffer, DType dtype, size_t i, int64_t first = 0) const;
  States states_of(int64_t begin, int64_t end, const std::vector<TensorView>& on_host) const;
  States states_in_place(size_t i, int64_t begin, int64_t end) const;
  std::vector<FlatRange> together() const;
  int64_t copy_place(size_t i) const;  // of this rank's copy, in elements of copies_
  int64_t block(size_t i) const {      // this rank's place in the unsharded tensor, in elements
    return mine_.of(layout_.tensors()[i]) * layout_.shard_shape(i).count();
  }

  const StoreLayout& layout_;
  ShardIndex mine_;
  Options options_;
  Buffer masters_;  // not whole: of the tensors whose masters kernels read
  Buffer gradients_, m_, v_, copies_, remainders_;
  std::unique_ptr<HostStates> host_;    // of all elements: moments; then remainders or masters
  std::shared_ptr<CopyBeside> beside_;  // null: nobody reads the states beside steps
  bool assembled_ = false;
};

}  // namespace nereus
