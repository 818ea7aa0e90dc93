#include "pipeline/executor.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "comm/communicator.h"
#include "ops/elementwise.h"
#include "parallel/context_region.h"

namespace nereus {
namespace {

#ifdef NEREUS_SANITIZED
constexpr bool kPoisonAlways = true;
#else
constexpr bool kPoisonAlways = false;
#endif

TensorView token_row(const Buffer& buffer, int64_t tokens, int64_t row) {
  std::byte* data = buffer.data() == nullptr ? nullptr : buffer.data() + row * tokens * 4;
  return TensorView(data, DType::i32, {tokens});
}

}  // namespace

Executor::Slot::Slot(Stream& stream, const Stage& stage, const Options& options)
    : token_buffer(stream.device(), 4 * 4 * options.rows * options.sequence / options.cp,
                   "token ids"),
      row_buffer(stream.device(), options.cp > 1 ? 4 * 4 * options.rows * options.sequence : 0,
                 "token ids of whole sequences"),
      staging(stream.device(), stream.on_gpu() ? 2 * 4 * options.rows * options.sequence : 0,
              "token ids on their way to the GPU", Buffer::Kind::pinned),
      staged(stream.device()),
      saved(stage) {
  const int64_t T = options.rows * options.sequence;
  ids = token_row(token_buffer, T / options.cp, 0);
  labels = token_row(token_buffer, T / options.cp, 1);
  positions = token_row(token_buffer, T / options.cp, 2);
  first_key = token_row(token_buffer, T / options.cp, 3);
  rows = {ids, labels, positions, first_key};
  if (options.cp > 1)
    for (int64_t i = 0; i < 4; ++i) rows[static_cast<size_t>(i)] = token_row(row_buffer, T, i);
  const Shape edge{options.edge_rows, options.width};
  const int64_t bytes = edge.count() * size_of(options.compute);
  const int64_t xs = stage.part().embedding ? 0 : 1;
  const int64_t dys = stage.part().head || !options.backward ? 0 : 1;
  edges = Buffer(stream.device(), (xs + dys) * bytes, "edges between stages");
  if (xs > 0) x = TensorView(edges.data(), options.compute, edge);
  if (dys > 0)
    dy = TensorView(edges.data() == nullptr ? nullptr : edges.data() + xs * bytes, options.compute,
                    edge);
}

Executor::Executor(Stream& stream, std::vector<const Stage*> stages, ParameterStore& store,
                   Options options)
    : stream_(stream), store_(store), options_(std::move(options)), scratch_("scratch") {
  NEREUS_CHECK(kContract, stages.size() == options_.rank_of_stage.size(),
               "{} stages, and {} have a rank", stages.size(), options_.rank_of_stage.size());
  for (const Stage* stage : stages) stages_.emplace_back().stage = stage;
  for (const Action& a : options_.actions)
    if (a.kind == Action::Kind::backward_input) local(a.stage).split = true;
  make_memory();
  connect();
}

void Executor::make_memory() {
  stream_.synchronize();
  for (Local& l : stages_) l.memory.clear();
  buffer_ = Buffer();
  activations_ = nullptr;
  outgoing_buffer_ = Buffer();
  memory_ = {};
  shared_ = 0;
  measure();
  store_.begin_step(stream_);  // measuring took buckets
  make_slots();
}

// Neighbours in the pipeline meet before the first step.
void Executor::connect() {
  if (options_.pp == nullptr || stream_.on_meta()) return;
  std::vector<std::pair<int, int>> pairs;
  const auto add = [&](int from, int to) {
    const std::pair<int, int> pair{from, to};
    if (from != to && std::find(pairs.begin(), pairs.end(), pair) == pairs.end())
      pairs.push_back(pair);
  };
  for (size_t s = 0; s + 1 < options_.rank_of_stage.size(); ++s) {
    add(options_.rank_of_stage[s], options_.rank_of_stage[s + 1]);
    if (options_.backward) add(options_.rank_of_stage[s + 1], options_.rank_of_stage[s]);
  }
  options_.pp->connect(pairs, options_.edge_rows * options_.width * size_of(options_.compute));
}

// What one microbatch needs on each stage, by running it on the meta device.
void Executor::measure() {
  Stream meta = Stream::meta_for(stream_);
  const Shape edge{options_.edge_rows, options_.width};
  const std::vector<int> slots = slots_needed(options_.actions, options_.rank_of_stage);
  const int stages = static_cast<int>(std::count_if(
      stages_.begin(), stages_.end(), [](const Local& l) { return l.stage != nullptr; }));
  for (size_t i = 0; i < stages_.size(); ++i) {
    Local& l = stages_[i];
    if (l.stage == nullptr) continue;
    Arena scratch("scratch"), kept("activations"), kept_for_wgrad("activations");
    kept.share(scratch);
    Arena& weight = l.split ? kept_for_wgrad : kept;
    Stage::Saved saved(*l.stage);
    const TensorView loss(nullptr, DType::f32, {1});
    Stream nowhere(Device::meta());
    const Microbatch mb = microbatch_of(Slot(nowhere, *l.stage, options_), 1, options_.backward);
    const bool first = l.stage->part().embedding, last = l.stage->part().head;
    const ConstTensorView x =
        first ? ConstTensorView() : ConstTensorView(nullptr, options_.compute, edge);
    const ConstTensorView dy =
        last ? ConstTensorView() : ConstTensorView(nullptr, options_.compute, edge);
    Context ctx{meta, kept, weight, scratch};
    l.stage->forward(ctx, mb, x, loss, saved);
    if (options_.backward && l.split) {
      l.stage->backward_input(ctx, mb, dy, saved);
      l.stage->backward_weight(ctx, mb, saved);
    } else if (options_.backward) {
      l.stage->backward(ctx, mb, dy, saved);
    }
    l.for_dgrad = kept.peak_bytes();
    l.for_wgrad = l.split ? kept_for_wgrad.peak_bytes() : 0;
    memory_.saved += l.for_dgrad + l.for_wgrad;
    memory_.scratch = std::max(memory_.scratch, scratch.peak_bytes());
    const int64_t n = options_.backward ? slots[i] : 1;
    // Where one microbatch is all, it and the scratch grow towards each other. One that is kept
    // whole while another's pass needs the scratch leaves no room for that.
    if (stages == 1 && n == 1 && !l.split) shared_ = kept.shared_peak_bytes();
    memory_.total += n * (l.for_dgrad + l.for_wgrad);
    memory_.edges +=
        n * edge.count() * size_of(options_.compute) * ((first ? 0 : 1) + (last ? 0 : 1));
    if (memory_.largest.empty() || kept.shared_peak_bytes() > memory_.largest.front().bytes)
      memory_.largest = kept.peak_entries();
  }
  memory_.total += shared_ > 0 ? shared_ - memory_.saved : memory_.scratch;
}

void Executor::make_slots() {
  if (options_.memory && !stream_.on_meta()) activations_ = options_.memory(memory_.total);
  if (activations_ == nullptr) {
    buffer_ = Buffer(stream_.device(), memory_.total, "activations");
    activations_ = buffer_.data();
  }
  memory_.total += memory_.edges;
  int64_t offset = shared_ > 0 ? shared_ : memory_.scratch;
  scratch_ = part(0, offset, "scratch");
  const std::vector<int> slots = slots_needed(options_.actions, options_.rank_of_stage);
  bool edges = false;
  for (size_t i = 0; i < stages_.size(); ++i) {
    Local& l = stages_[i];
    if (l.stage == nullptr) continue;
    edges = edges || !l.stage->part().embedding;
    for (int n = 0; n < (options_.backward ? slots[i] : 1); ++n) {
      l.memory.push_back(std::make_unique<Slot>(stream_, *l.stage, options_));
      std::vector<Arena>& arenas = l.memory.back()->arenas;
      if (shared_ > 0 && n == 0) {
        arenas.push_back(part(0, shared_, "activations"));
        continue;
      }
      arenas.push_back(part(offset, l.for_dgrad, "activations"));
      offset += l.for_dgrad;
      if (!l.split) continue;
      arenas.push_back(part(offset, l.for_wgrad, "activations for wgrad"));
      offset += l.for_wgrad;
    }
  }
  if (shared_ > 0)
    for (const Local& l : stages_)
      if (l.stage != nullptr) l.memory.front()->arenas.front().share(scratch_);
  if (!edges || !options_.backward) return;
  const Shape edge{options_.edge_rows, options_.width};
  outgoing_buffer_ =
      Buffer(stream_.device(), edge.count() * size_of(options_.compute), "edges between stages");
  outgoing_ = TensorView(outgoing_buffer_.data(), options_.compute, edge);
}

Arena Executor::part(int64_t offset, int64_t bytes, const char* name) const {
  if (activations_ == nullptr) return Arena(name);
  Arena arena(name, activations_ + offset, bytes);
  if (options_.poison_released || kPoisonAlways)
    arena.on_release(
        [&stream = stream_](std::byte* memory, int64_t n) { poison(stream, memory, n); });
  return arena;
}

int64_t Executor::peak_bytes() const {
  if (shared_ > 0) return scratch_.shared_peak_bytes();
  int64_t sum = scratch_.peak_bytes();
  for (const auto& l : stages_)
    for (const auto& slot : l.memory)
      for (const Arena& arena : slot->arenas) sum += arena.peak_bytes();
  return sum;
}

Executor::Slot& Executor::take_slot(int stage, int microbatch) {
  Local& l = local(stage);
  const auto n = static_cast<size_t>(l.slots.take(microbatch));
  NEREUS_CHECK(kContract, n < l.memory.size(),
               "microbatch {} of stage {} is one more than the {} that memory was made for",
               microbatch, stage, l.memory.size());
  return *l.memory[n];
}

Executor::Slot& Executor::slot_of(int stage, int microbatch) {
  Local& l = local(stage);
  return *l.memory[static_cast<size_t>(l.slots.of(microbatch))];
}

Context Executor::context(Slot& slot, bool accumulate) {
  return {stream_, slot.kept_for_dgrad(), slot.kept_for_wgrad(), scratch_, accumulate, observer_};
}

void Executor::load(Slot& slot, const HostMicrobatch& host, float loss_scale, bool training) {
  NEREUS_CHECK(kContract,
               static_cast<int64_t>(host.ids.size()) == slot.rows[0].count() &&
                   host.labels.size() == host.ids.size(),
               "a microbatch of {} ids and {} labels where {} are expected", host.ids.size(),
               host.labels.size(), slot.rows[0].count());
  const void *ids = host.ids.data(), *labels = host.labels.data();
  if (slot.staging.bytes() > 0) {
    slot.staged.synchronize();  // with the copy of the slot's former microbatch
    std::byte* const staging = slot.staging.data();
    std::memcpy(staging, ids, host.ids.size_bytes());
    std::memcpy(staging + host.ids.size_bytes(), labels, host.labels.size_bytes());
    ids = staging;
    labels = staging + host.ids.size_bytes();
  }
  const auto& [row_ids, row_labels, row_positions, row_first_key] = slot.rows;
  copy_to_device(stream_, row_ids, ids);
  copy_to_device(stream_, row_labels, labels);
  slot.staged.record(stream_);
  ops::document_bounds(stream_, {.first_key = row_first_key,
                                 .positions = row_positions,
                                 .ids = row_ids,
                                 .sequence = options_.sequence,
                                 .eos_id = options_.eos_id,
                                 .mask = options_.mask});
  if (options_.cp > 1) take_chunks(slot);
  slot.microbatch = microbatch_of(slot, loss_scale, training);
}

// This rank's two chunks of every sequence: the first of all, then the second of all.
void Executor::take_chunks(Slot& slot) {
  const int64_t B = options_.rows, S = options_.sequence, chunk = S / (2 * options_.cp);
  const std::array<int64_t, 2> mine = chunks_of(options_.cp_rank, options_.cp);
  const std::array<TensorView, 4> out{slot.ids, slot.labels, slot.positions, slot.first_key};
  for (size_t i = 0; i < out.size(); ++i)
    for (int64_t run = 0; run < 2; ++run) {
      const int64_t begin = mine[static_cast<size_t>(run)] * chunk;
      copy_rows(stream_, out[i].reshape({2 * B, chunk}).rows(run * B, (run + 1) * B),
                slot.rows[i].reshape({B, S}).columns(begin, begin + chunk));
    }
}

Microbatch Executor::microbatch_of(const Slot& slot, float loss_scale, bool training) const {
  Microbatch mb{.ids = slot.ids,
                .labels = slot.labels,
                .positions = slot.positions,
                .first_key = slot.first_key,
                .sequence = options_.sequence,
                .mask = options_.mask,
                .loss_scale = loss_scale,
                .training = training};
  if (options_.cp == 1) return mb;
  const int64_t chunk = options_.sequence / (2 * options_.cp);
  const std::array<int64_t, 2> mine = chunks_of(options_.cp_rank, options_.cp);
  mb.sequence = chunk;
  mb.key_sequence = options_.sequence;
  mb.key_positions = slot.rows[2];
  mb.runs = 2;
  mb.first_query = {mine[0] * chunk, mine[1] * chunk};
  return mb;
}

void Executor::forward(int stage, int microbatch, const HostMicrobatch& host, float loss_scale,
                       TensorView loss, bool training, Observer* observer) {
  Local& l = local(stage);
  Slot& s = take_slot(stage, microbatch);
  load(s, host, loss_scale, training);
  Context ctx = context(s, l.head_written);
  ctx.observer = observer;
  const Arena::Scope scope(scratch_);
  const ConstTensorView y = l.stage->forward(ctx, s.microbatch, s.x, loss, s.saved);
  l.head_written = true;
  if (is_local(stage + 1)) ops::cast(stream_, {.out = take_slot(stage + 1, microbatch).x, .x = y});
}

// The gradient of a stage's input to the stage before, here or on another rank.
void Executor::hand_back(int stage, int microbatch, ConstTensorView dx) {
  if (local(stage).stage->part().embedding) return;
  const TensorView to = is_local(stage - 1) ? slot_of(stage - 1, microbatch).dy : outgoing_;
  ops::cast(stream_, {.out = to, .x = dx});
}

void Executor::release(int stage, int microbatch) {
  Slot& s = slot_of(stage, microbatch);
  for (Arena& arena : s.arenas) arena.release(0);
  local(stage).slots.release(microbatch);
}

void Executor::backward(int stage, int microbatch) {
  Local& l = local(stage);
  if (l.split) {
    backward_input(stage, microbatch);
    backward_weight(stage, microbatch);
    return;
  }
  Slot& s = slot_of(stage, microbatch);
  Context ctx = context(s, l.wgrad_written);
  const Arena::Scope scope(scratch_);
  hand_back(stage, microbatch, l.stage->backward(ctx, s.microbatch, s.dy, s.saved));
  l.dgrad_written = l.wgrad_written = true;
  release(stage, microbatch);
}

void Executor::backward_input(int stage, int microbatch) {
  Local& l = local(stage);
  Slot& s = slot_of(stage, microbatch);
  Context ctx = context(s, l.dgrad_written);
  const Arena::Scope scope(scratch_);
  hand_back(stage, microbatch, l.stage->backward_input(ctx, s.microbatch, s.dy, s.saved));
  s.kept_for_dgrad().release(0);
  l.dgrad_written = true;
}

void Executor::backward_weight(int stage, int microbatch) {
  Local& l = local(stage);
  Slot& s = slot_of(stage, microbatch);
  Context ctx = context(s, l.wgrad_written);
  const Arena::Scope scope(scratch_);
  l.stage->backward_weight(ctx, s.microbatch, s.saved);
  l.wgrad_written = true;
  release(stage, microbatch);
}

// A rank receives what a peer sent in the order in which it was sent, whatever is used first.
void Executor::receive(const Action& wait) {
  for (const Action& edge : posted_.arriving(wait)) {
    Slot& s = edge.edge == Edge::Kind::activation ? take_slot(edge.stage, edge.microbatch)
                                                  : slot_of(edge.stage, edge.microbatch);
    options_.pp->recv(stream_, edge.edge == Edge::Kind::activation ? s.x : s.dy, edge.peer);
  }
}

void Executor::send(const Action& a) {
  options_.pp->send(stream_,
                    a.edge == Edge::Kind::activation ? slot_of(a.stage, a.microbatch).saved.y
                                                     : ConstTensorView(outgoing_),
                    a.peer);
}

void Executor::run(std::span<const Action> actions, std::span<const HostMicrobatch> microbatches,
                   float loss_scale, TensorView loss, const std::function<void()>& update) {
  ops::fill(stream_, {.out = loss, .value = 0});
  store_.begin_step(stream_);
  for (Local& l : stages_) l.head_written = l.dgrad_written = l.wgrad_written = false;
  for (const Action& a : actions) {
    switch (a.kind) {
      case Action::Kind::gather:
        for (const int bucket : local(a.stage).stage->buckets()) store_.gather(stream_, bucket);
        break;
      case Action::Kind::forward:
      case Action::Kind::forward_backward:
        forward(a.stage, a.microbatch, microbatches[static_cast<size_t>(a.microbatch)], loss_scale,
                loss, true, observer_);
        if (a.has_dgrad()) backward(a.dgrad_stage(), a.dgrad_microbatch());
        break;
      case Action::Kind::backward:
        backward(a.stage, a.microbatch);
        break;
      case Action::Kind::backward_input:
        backward_input(a.stage, a.microbatch);
        break;
      case Action::Kind::backward_weight:
        backward_weight(a.stage, a.microbatch);
        break;
      case Action::Kind::send:
        send(a);
        break;
      case Action::Kind::recv:
        posted_.posted(a);
        break;
      case Action::Kind::wait:
        receive(a);
        break;
      case Action::Kind::reduce:
        for (const int bucket : local(a.stage).stage->buckets()) store_.reduce(stream_, bucket);
        break;
      case Action::Kind::update:
        store_.finish(stream_);
        update();
        break;
    }
  }
}

// Stage by stage in the model's order, which no rank waits in for ever: a send does not wait.
void Executor::evaluate(const HostMicrobatch& host, float loss_scale, TensorView loss,
                        Observer* observer) {
  const std::vector<int>& rank_of = options_.rank_of_stage;
  store_.begin_step(stream_);
  for (int stage = 0; stage < static_cast<int>(stages_.size()); ++stage) {
    if (!is_local(stage)) continue;
    for (const int bucket : local(stage).stage->buckets()) store_.gather(stream_, bucket);
    Slot& s = take_slot(stage, 0);
    if (stage > 0 && !is_local(stage - 1))
      options_.pp->recv(stream_, s.x, rank_of[static_cast<size_t>(stage - 1)]);
    forward(stage, 0, host, loss_scale, loss, false, observer);
    if (stage + 1 < static_cast<int>(stages_.size()) && !is_local(stage + 1))
      options_.pp->send(stream_, s.saved.y, rank_of[static_cast<size_t>(stage + 1)]);
    release(stage, 0);
  }
}

}  // namespace nereus
