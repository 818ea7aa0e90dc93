#include "pipeline/executor.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "ops/elementwise.h"

namespace nereus {
namespace {

TensorView token_row(const Buffer& buffer, int64_t tokens, int64_t row) {
  std::byte* data = buffer.data() == nullptr ? nullptr : buffer.data() + row * tokens * 4;
  return TensorView(data, DType::i32, {tokens});
}

}  // namespace

Executor::Memory Executor::measure(Stream& target, const Stage& stage, const Options& options) {
  Stream stream = Stream::meta_for(target);
  Arena kept("activations"), scratch("scratch");
  kept.share(scratch);
  Stage::Saved saved(stage);
  const TensorView tokens(nullptr, DType::i32, {options.rows * options.sequence});
  const TensorView loss(nullptr, DType::f32, {1});
  const Microbatch mb{.ids = tokens,
                      .labels = tokens,
                      .positions = tokens,
                      .first_key = tokens,
                      .sequence = options.sequence,
                      .mask = options.mask,
                      .loss_scale = 1,
                      .training = options.backward};
  Context ctx{stream, kept, kept, scratch};
  stage.forward(ctx, mb, {}, loss, saved);
  if (options.backward) stage.backward(ctx, mb, {}, saved);

  return {.saved = kept.peak_bytes(),
          .scratch = scratch.peak_bytes(),
          .total = kept.shared_peak_bytes() + (options.in_flight - 1) * kept.peak_bytes(),
          .largest = kept.peak_entries()};
}

Executor::Slot::Slot(Device device, const Stage& stage, const Options& options, Arena memory)
    : token_buffer(device, 4 * 4 * options.rows * options.sequence, "token ids"),
      staging(device,
              device.kind == Device::Kind::cuda ? 2 * 4 * options.rows * options.sequence : 0,
              "token ids on their way to the GPU", Buffer::Kind::pinned),
      staged(device),
      arena(std::move(memory)),
      saved(stage) {
  const int64_t T = options.rows * options.sequence;
  ids = token_row(token_buffer, T, 0);
  labels = token_row(token_buffer, T, 1);
  positions = token_row(token_buffer, T, 2);
  first_key = token_row(token_buffer, T, 3);
}

Executor::Executor(Stream& stream, const Stage& stage, ParameterStore& store,
                   const Options& options)
    : stream_(stream),
      stage_(stage),
      store_(store),
      options_(options),
      memory_(measure(stream, stage, options)),
      buffer_(stream.device(), memory_.total, "activations"),
      scratch_(part(0, memory_.total - (options.in_flight - 1) * memory_.saved, "scratch")) {
  const int64_t first = scratch_.capacity_bytes();
  for (int i = 0; i < options.in_flight; ++i) {
    Arena arena = i == 0 ? part(0, first, "activations")
                         : part(first + (i - 1) * memory_.saved, memory_.saved, "activations");
    slots_.push_back(std::make_unique<Slot>(stream.device(), stage, options, std::move(arena)));
  }
  slots_.front()->arena.share(scratch_);
  in_flight_.resize(slots_.size());
}

Arena Executor::part(int64_t offset, int64_t bytes, const char* name) const {
  return buffer_.data() == nullptr ? Arena(name) : Arena(name, buffer_.data() + offset, bytes);
}

Microbatch Executor::load(Slot& slot, const HostMicrobatch& host, float loss_scale, bool training) {
  NEREUS_CHECK(kContract,
               static_cast<int64_t>(host.ids.size()) == slot.ids.count() &&
                   host.labels.size() == host.ids.size(),
               "a microbatch of {} ids and {} labels where {} are expected", host.ids.size(),
               host.labels.size(), slot.ids.count());
  const void *ids = host.ids.data(), *labels = host.labels.data();
  if (slot.staging.bytes() > 0) {
    slot.staged.synchronize();  // with the copy of the slot's former microbatch
    std::byte* const staging = slot.staging.data();
    std::memcpy(staging, ids, host.ids.size_bytes());
    std::memcpy(staging + host.ids.size_bytes(), labels, host.labels.size_bytes());
    ids = staging;
    labels = staging + host.ids.size_bytes();
  }
  copy_to_device(stream_, slot.ids, ids);
  copy_to_device(stream_, slot.labels, labels);
  slot.staged.record(stream_);
  ops::document_bounds(stream_, {.first_key = slot.first_key,
                                 .positions = slot.positions,
                                 .ids = slot.ids,
                                 .sequence = options_.sequence,
                                 .eos_id = options_.eos_id,
                                 .mask = options_.mask});
  return {.ids = slot.ids,
          .labels = slot.labels,
          .positions = slot.positions,
          .first_key = slot.first_key,
          .sequence = options_.sequence,
          .mask = options_.mask,
          .loss_scale = loss_scale,
          .training = training};
}

void Executor::run(std::span<const Action> actions, std::span<const HostMicrobatch> microbatches,
                   float loss_scale, TensorView loss, const std::function<void()>& update) {
  ops::fill(stream_, {.out = loss, .value = 0});
  bool accumulate = false;
  for (const Action& action : actions) {
    const auto m = static_cast<size_t>(action.microbatch);
    Slot& s = slot(action.microbatch);
    Microbatch& mb = in_flight_[m % slots_.size()];
    Context ctx{stream_, s.arena, s.arena, scratch_, accumulate, observer_};
    switch (action.kind) {
      case Action::Kind::gather:
        store_.gather(stream_);  // the one stage has all buckets
        break;
      case Action::Kind::forward: {
        mb = load(s, microbatches[m], loss_scale, true);
        stage_.forward(ctx, mb, {}, loss, s.saved);
        break;
      }
      case Action::Kind::backward: {
        const Arena::Scope scope(scratch_);
        stage_.backward(ctx, mb, {}, s.saved);
        s.arena.release(0);
        accumulate = true;
        break;
      }
      case Action::Kind::reduce:
        store_.reduce(stream_);
        break;
      case Action::Kind::update:
        update();
        break;
      default:
        NEREUS_FAIL(kContract, "the executor of one stage cannot run {}", action.to_string());
    }
  }
}

void Executor::evaluate(const HostMicrobatch& host, float loss_scale, TensorView loss,
                        Observer* observer) {
  Slot& s = *slots_.front();
  store_.gather(stream_);
  const Microbatch mb = load(s, host, loss_scale, false);
  Context ctx{stream_, s.arena, s.arena, scratch_, false, observer};
  stage_.forward(ctx, mb, {}, loss, s.saved);
  s.arena.release(0);
}

}  // namespace nereus
