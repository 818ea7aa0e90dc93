#include "pipeline/executor.h"

#include <algorithm>

#include "base/check.h"
#include "comm/communicator.h"
#include "ops/elementwise.h"

namespace nereus {
namespace {

#ifdef NEREUS_SANITIZED
constexpr bool kPoisonAlways = true;
#else
constexpr bool kPoisonAlways = false;
#endif

template <class Views>
void copy_edge(Stream& stream, std::span<const TensorView> to, const Views& from) {
  NEREUS_CHECK(kContract, to.size() == from.size(), "an edge of {} tensors where {} are read",
               from.size(), to.size());
  for (size_t i = 0; i < to.size(); ++i) ops::cast(stream, {.out = to[i], .x = from[i]});
}

}  // namespace

Executor::Executor(Stream& stream, std::vector<const PipelineStage*> stages, ParameterStore& store,
                   Options options)
    : stream_(stream), store_(store), options_(std::move(options)), scratch_("scratch") {
  NEREUS_CHECK(kContract, stages.size() == options_.rank_of_stage.size(),
               "{} stages, and {} have a rank", stages.size(), options_.rank_of_stage.size());
  for (const PipelineStage* stage : stages) stages_.emplace_back().stage = stage;
  for (const Action& a : options_.actions) {
    if (a.kind == Action::Kind::backward_input) local(a.stage).split = true;
    if (a.has_forward())
      microbatches_ = std::max(microbatches_, static_cast<size_t>(a.microbatch) + 1);
  }
  check_edges();
  make_memory();
  connect();
}

// Between two stages of this rank both sides are known.
void Executor::check_edges() const {
  for (size_t stage = 0; stage + 1 < stages_.size(); ++stage) {
    if (stages_[stage].stage == nullptr || stages_[stage + 1].stage == nullptr) continue;
    const std::vector<TensorSpec>& made = stages_[stage].stage->output_edge();
    const std::vector<TensorSpec>& read = stages_[stage + 1].stage->input_edge();
    const auto same = [](const TensorSpec& a, const TensorSpec& b) {
      return a.dtype == b.dtype && a.shape == b.shape;
    };
    NEREUS_CHECK(kContract, std::equal(made.begin(), made.end(), read.begin(), read.end(), same),
                 "stage {} makes an edge of {} tensors, and stage {} reads one of {}: types and "
                 "shapes must be the same",
                 stage, made.size(), stage + 1, read.size());
  }
}

void Executor::make_memory() {
  stream_.synchronize();
  for (LocalStage& l : stages_) l.memory.clear();
  buffer_ = Buffer();
  activations_ = nullptr;
  outgoing_buffer_ = Buffer();
  memory_ = {};
  shared_ = 0;
  measure();
  store_.begin_step(stream_);  // measuring took buckets
  make_slots();
  make_outgoing();
}

// Neighbours in the pipeline meet before the first step.
void Executor::connect() {
  if (options_.pp == nullptr || stream_.on_meta()) return;
  for (const LocalStage& l : stages_)
    if (l.stage != nullptr)
      for (const std::vector<TensorSpec>* edge : {&l.stage->input_edge(), &l.stage->output_edge()})
        for (const TensorSpec& t : *edge)
          NEREUS_CHECK(kContract, t.bytes() <= options_.message_bytes,
                       "{} of an edge has {} bytes, more than the {} of a message", t.name,
                       t.bytes(), options_.message_bytes);
  std::vector<std::pair<int, int>> pairs;
  const auto add = [&](int from, int to) {
    const std::pair<int, int> pair{from, to};
    if (from != to && std::find(pairs.begin(), pairs.end(), pair) == pairs.end())
      pairs.push_back(pair);
  };
  for (int stage = 0; stage + 1 < stages(); ++stage) {
    add(rank_of(stage), rank_of(stage + 1));
    if (options_.backward) add(rank_of(stage + 1), rank_of(stage));
  }
  options_.pp->connect(pairs, options_.message_bytes);
}

// What one microbatch needs on each stage, by running it on the meta device.
void Executor::measure() {
  Stream meta = Stream::meta_for(stream_);
  Stream nowhere(Device::meta());
  const std::vector<int> slots = slots_needed(options_.actions, options_.rank_of_stage);
  const auto count = std::count_if(stages_.begin(), stages_.end(),
                                   [](const LocalStage& l) { return l.stage != nullptr; });
  for (size_t i = 0; i < stages_.size(); ++i) {
    LocalStage& l = stages_[i];
    if (l.stage == nullptr) continue;
    Arena scratch("scratch"), kept("activations"), kept_for_wgrad("activations");
    kept.share(scratch);
    Arena& weight = l.split ? kept_for_wgrad : kept;
    const MicrobatchSlot slot(nowhere, *l.stage, options_.shape, options_.backward);
    const Microbatch mb = slot.describe(1, options_.backward);
    const TensorView loss(nullptr, DType::f32, {1});
    Context ctx{meta, kept, weight, scratch};
    const auto pass = [&scratch](auto run) {
      const Arena::Scope scope(scratch);
      run();
    };
    pass([&] { l.stage->forward(ctx, mb, slot.input, loss, *slot.saved); });
    if (options_.backward && l.split) {
      pass([&] { l.stage->backward_input(ctx, mb, slot.output_gradient, *slot.saved); });
      pass([&] { l.stage->backward_weight(ctx, mb, *slot.saved); });
    } else if (options_.backward) {
      pass([&] { l.stage->backward(ctx, mb, slot.output_gradient, *slot.saved); });
    }
    l.for_dgrad = kept.peak_bytes();
    l.for_wgrad = l.split ? kept_for_wgrad.peak_bytes() : 0;
    memory_.saved += l.for_dgrad + l.for_wgrad;
    memory_.scratch = std::max(memory_.scratch, scratch.peak_bytes());
    const int64_t n = options_.backward ? slots[i] : 1;
    // Where one microbatch is all, it and the scratch grow towards each other. One that is kept
    // whole while another's pass needs the scratch leaves no memory for that.
    if (count == 1 && n == 1 && !l.split) shared_ = kept.shared_peak_bytes();
    memory_.total += n * (l.for_dgrad + l.for_wgrad);
    memory_.edges += n * slot.edges.bytes();
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
  for (size_t i = 0; i < stages_.size(); ++i) {
    LocalStage& l = stages_[i];
    if (l.stage == nullptr) continue;
    for (int n = 0; n < (options_.backward ? slots[i] : 1); ++n) {
      l.memory.push_back(
          std::make_unique<MicrobatchSlot>(stream_, *l.stage, options_.shape, options_.backward));
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
    for (const LocalStage& l : stages_)
      if (l.stage != nullptr) l.memory.front()->arenas.front().share(scratch_);
}

// A send follows at once: all stages use the same memory.
void Executor::make_outgoing() {
  if (!options_.backward) return;
  int64_t bytes = 0;
  for (const LocalStage& l : stages_)
    if (l.stage != nullptr) bytes = std::max(bytes, edge_bytes(l.stage->input_edge()));
  if (bytes == 0) return;
  outgoing_buffer_ = Buffer(stream_.device(), bytes, "edges between stages");
  memory_.edges += bytes;
  memory_.total += bytes;
  for (LocalStage& l : stages_)
    if (l.stage != nullptr)
      l.outgoing = edge_tensors(outgoing_buffer_.data(), l.stage->input_edge());
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

MicrobatchSlot& Executor::take_slot(int stage, int microbatch) {
  LocalStage& l = local(stage);
  const auto n = static_cast<size_t>(l.slots.take(microbatch));
  NEREUS_CHECK(kContract, n < l.memory.size(),
               "microbatch {} of stage {} is one more than the {} that memory was made for",
               microbatch, stage, l.memory.size());
  return *l.memory[n];
}

MicrobatchSlot& Executor::slot_of(int stage, int microbatch) {
  LocalStage& l = local(stage);
  return *l.memory[static_cast<size_t>(l.slots.of(microbatch))];
}

void Executor::release_slot(int stage, int microbatch) {
  for (Arena& arena : slot_of(stage, microbatch).arenas) arena.release(0);
  local(stage).slots.release(microbatch);
}

std::span<const TensorView> Executor::destination(const Edge& e) {
  return e.kind == Edge::Kind::activation ? take_slot(e.consumer, e.microbatch).input
                                          : slot_of(e.consumer, e.microbatch).output_gradient;
}

// What a pass has made for another stage: copied to it on this rank. For another rank an activation
// stays where it is until it is sent; a gradient, in memory of the pass, is copied.
void Executor::hand_over(const Action& pass, const PipelineStage::Saved& made) {
  for (const Edge& e : edges_produced(pass, stages())) {
    const bool activation = e.kind == Edge::Kind::activation, here = is_local(e.consumer);
    if (activation && !here) continue;
    copy_edge(stream_, here ? destination(e) : local(e.producer()).outgoing,
              activation ? made.output : made.input_gradient);
  }
}

void Executor::send(const Edge& e) {
  const auto send_all = [&](const auto& tensors) {
    for (const auto& t : tensors) options_.pp->send(stream_, t, rank_of(e.consumer));
  };
  if (e.kind == Edge::Kind::activation) {
    send_all(slot_of(e.producer(), e.microbatch).saved->output);
  } else {
    send_all(local(e.producer()).outgoing);
  }
}

void Executor::receive(const Edge& e) {
  for (const TensorView& t : destination(e)) options_.pp->recv(stream_, t, rank_of(e.producer()));
}

void Executor::gather(int stage) {
  for (const int bucket : local(stage).stage->buckets()) store_.gather(stream_, bucket);
}

void Executor::reduce(int stage) {
  for (const int bucket : local(stage).stage->buckets()) store_.reduce(stream_, bucket);
}

Context Executor::context(MicrobatchSlot& slot, bool accumulate) {
  return {stream_, slot.saved_for_dgrad(), slot.saved_for_wgrad(), scratch_, accumulate, observer_};
}

// The first stage's input is the tokens; every other stage's came as an edge and took the slot.
void Executor::forward(const Action& a, const HostMicrobatch& host, const Pass& pass) {
  LocalStage& l = local(a.stage);
  MicrobatchSlot& s =
      a.stage == 0 ? take_slot(a.stage, a.microbatch) : slot_of(a.stage, a.microbatch);
  s.load(stream_, host, pass.loss_scale, pass.training);
  Context ctx = context(s, l.forward_wrote);
  ctx.observer = pass.observer;
  const Arena::Scope scope(scratch_);
  l.stage->forward(ctx, s.microbatch, s.input, pass.loss, *s.saved);
  l.forward_wrote = true;
  hand_over(a, *s.saved);
}

void Executor::backward(const Action& a) {
  LocalStage& l = local(a.stage);
  if (l.split) {
    backward_input(a);
    backward_weight(a);
    return;
  }
  MicrobatchSlot& s = slot_of(a.stage, a.microbatch);
  Context ctx = context(s, l.wgrad_wrote);
  const Arena::Scope scope(scratch_);
  l.stage->backward(ctx, s.microbatch, s.output_gradient, *s.saved);
  l.dgrad_wrote = l.wgrad_wrote = true;
  hand_over(a, *s.saved);
  release_slot(a.stage, a.microbatch);
}

void Executor::backward_input(const Action& a) {
  LocalStage& l = local(a.stage);
  MicrobatchSlot& s = slot_of(a.stage, a.microbatch);
  Context ctx = context(s, l.dgrad_wrote);
  const Arena::Scope scope(scratch_);
  l.stage->backward_input(ctx, s.microbatch, s.output_gradient, *s.saved);
  l.dgrad_wrote = true;
  hand_over(a, *s.saved);
  s.saved_for_dgrad().release(0);
}

void Executor::backward_weight(const Action& a) {
  LocalStage& l = local(a.stage);
  MicrobatchSlot& s = slot_of(a.stage, a.microbatch);
  Context ctx = context(s, l.wgrad_wrote);
  const Arena::Scope scope(scratch_);
  l.stage->backward_weight(ctx, s.microbatch, *s.saved);
  l.wgrad_wrote = true;
  release_slot(a.stage, a.microbatch);
}

void Executor::run(std::span<const HostMicrobatch> microbatches, float loss_scale, TensorView loss,
                   const std::function<void()>& update) {
  NEREUS_CHECK(kContract, microbatches.size() == microbatches_, "{} microbatches for a step of {}",
               microbatches.size(), microbatches_);
  ops::fill(stream_, {.out = loss, .value = 0});
  store_.begin_step(stream_);
  for (LocalStage& l : stages_) l.forward_wrote = l.dgrad_wrote = l.wgrad_wrote = false;
  const Pass pass{loss_scale, loss, true, observer_};
  const auto tokens = [&](const Action& a) {
    return microbatches[static_cast<size_t>(a.microbatch)];
  };
  for (const Action& a : options_.actions) {
    switch (a.kind) {
      case Action::Kind::gather:
        gather(a.stage);
        break;
      case Action::Kind::forward:
        forward(a, tokens(a), pass);
        break;
      case Action::Kind::backward:
        backward(a);
        break;
      case Action::Kind::backward_input:
        backward_input(a);
        break;
      case Action::Kind::backward_weight:
        backward_weight(a);
        break;
      case Action::Kind::forward_backward:
        forward(a.forward_half(), tokens(a), pass);
        backward(a.backward_half());
        break;
      case Action::Kind::send:
        send(edge_of(a));
        break;
      case Action::Kind::recv:
        receives_.post(a);
        break;
      case Action::Kind::wait:
        receives_.complete(a, [this](const Edge& e) { receive(e); });
        break;
      case Action::Kind::reduce:
        reduce(a.stage);
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
  store_.begin_step(stream_);
  for (int stage = 0; stage < stages(); ++stage) {
    if (!is_local(stage)) continue;
    const Action a{.kind = Action::Kind::forward, .stage = stage, .microbatch = 0};
    gather(stage);
    for (const Edge& e : edges_needed(a, stages()))
      if (!is_local(e.producer())) receive(e);
    forward(a, host, {loss_scale, loss, false, observer});
    for (const Edge& e : edges_produced(a, stages()))
      if (!is_local(e.consumer)) send(e);
    release_slot(stage, 0);
  }
}

}  // namespace nereus
