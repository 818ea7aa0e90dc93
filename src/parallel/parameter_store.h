// The parameters of a rank: which tensors they are stored in and where everything lies
// (StoreLayout), the state that this rank keeps of them (ParameterStates), and the unsharded
// weights and gradients that kernels work with (GatheredParameters, whose header says who calls
// what in a step). With one rank whole and kept are the same memory, and nothing is gathered or
// reduced.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "parallel/gathered_parameters.h"
#include "parallel/parameter_states.h"
#include "parallel/rank_world.h"
#include "parallel/store_layout.h"

namespace nereus {

class ParameterStore {
 public:
  struct Options {
    // See ParameterStates::Options.
    DType compute = DType::f32;
    bool gradients = true;
    bool moments = true;
    DType moment_type = DType::f32;
    bool split_masters = false;
    Offload offload = Offload::none;
    int64_t offload_chunk = HostStates::kChunk;
    // Weights are unsharded only while a block uses them (reshard_after_forward), prefetched
    // one bucket ahead; else all of them for the step.
    bool reshard = false;
    // Unsharded gradients live only while their block is in its backward pass, and are reduced into
    // the shards after each microbatch; else all of them live for the step and are reduced after
    // the last.
    bool reduce_each_microbatch = false;
    Stream* exchange = nullptr;  // where gathers and sums are done; null: where kernels run
  };

  // Of a rank among others: `world` must outlive the store.
  ParameterStore(Device device, std::vector<StoredTensor> tensors, const RankWorld& world,
                 const Options& options)
      : ParameterStore(device, std::move(tensors), &world, options) {}
  // Of one rank.
  ParameterStore(Device device, std::vector<StoredTensor> tensors, const Options& options)
      : ParameterStore(device, std::move(tensors), nullptr, options) {}
  ParameterStore(const ParameterStore&) = delete;  // its parts refer to each other
  ParameterStore& operator=(const ParameterStore&) = delete;

  const StoreLayout& layout() const { return layout_; }
  const std::vector<StoredTensor>& tensors() const { return layout_.tensors(); }
  int64_t elements() const { return layout_.elements(); }
  const RankWorld& world() const { return world_; }

  // What kernels read, whole: of StoredTensor::read_format. "No tensor" for
  // handle -1. As of the last gather(), where there are shards.
  Weight weight(TensorHandle t) const {
    return t < 0 ? Weight() : gathered_.weight(static_cast<size_t>(t));
  }
  // What kernels write, whole: f32, the stored tensor's shape. "No tensor" for handle -1.
  TensorView gradient(TensorHandle t) const {
    return t < 0 ? TensorView() : gathered_.gradient(static_cast<size_t>(t));
  }

  // The state, see ParameterStates.
  using States = ParameterStates::States;
  TensorView masters() const { return states_.masters(); }
  TensorView gradients() const { return states_.gradients(); }  // reduced
  // The part of them that this rank counts in a norm: all ranks of a model together count each
  // element once.
  TensorView counted_gradients() const;
  TensorView master(TensorHandle) const;  // this rank's rows, without padding
  std::vector<NamedView> master_views() const { return states_.master_views(); }
  std::vector<NamedView> gradient_views() const { return states_.gradient_views(); }
  // Of what kernels read: copies, or masters where there are none.
  std::vector<NamedView> weight_views() const { return states_.read_views(); }
  void visit_states(Stream& stream, bool write, FunctionRef<void(const States&)> body) {
    states_.visit(stream, write, body);
  }
  void assemble_masters(Stream& stream) { states_.assemble_masters(stream); }
  ParameterStates::Moments moments() const { return states_.moments(); }
  std::vector<ParameterStates::Kept> kept_states() const { return states_.kept(); }
  void copied_beside(std::shared_ptr<CopyBeside> c) { states_.copied_beside(std::move(c)); }
  void begin_load() { states_.begin_load(); }
  void initialize(Stream& stream, uint64_t seed) { states_.initialize(stream, seed); }
  void refresh_copies(Stream& stream) { states_.refresh_copies(stream); }

  // The calls of a step, see GatheredParameters.
  void begin_step(Stream& stream) {
    states_.begin_step();
    gathered_.begin_step(stream);
  }
  void gather(Stream& stream, int bucket) { gathered_.gather(stream, bucket); }
  void unshard(Stream& stream, int bucket, int next = -1) {
    gathered_.unshard(stream, bucket, next);
  }
  void reshard(Stream& stream, int bucket) { gathered_.reshard(stream, bucket); }
  void begin_gradients(Stream& s, int bucket) { gathered_.begin_gradients(s, bucket); }
  void end_gradients(Stream& s, int bucket) { gathered_.end_gradients(s, bucket); }
  void reduce(Stream& stream, int bucket) { gathered_.reduce(stream, bucket); }
  void finish(Stream& stream) { gathered_.finish(stream); }
  void gather(Stream&);  // all buckets
  void reduce(Stream&);  // all, and finish()

  // Bytes by owner, for the memory table: of the device's memory, but for host_*.
  struct Bytes {
    int64_t masters = 0, gradients = 0, moments = 0, copies = 0;  // gradients: whole and reduced
    int64_t gathered = 0;                                         // unsharded weights, with shards
    int64_t remainders = 0;                                       // of split masters
    int64_t chunks = 0;  // of states in host memory, on the device
    int64_t host_masters = 0, host_remainders = 0, host_moments = 0;
  };
  Bytes bytes() const;

 private:
  ParameterStore(Device, std::vector<StoredTensor>, const RankWorld*, const Options&);

  std::unique_ptr<RankWorld> alone_;  // of one rank
  const RankWorld& world_;
  StoreLayout layout_;
  ParameterStates states_;
  GatheredParameters gathered_;
};

}  // namespace nereus
