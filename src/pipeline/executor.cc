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

int64_t aligned(int64_t bytes) {
  return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
}

const char* name_of(Action::Kind kind) {
  switch (kind) {
    case Action::Kind::gather:
      return "gather";
    case Action::Kind::forward:
      return "forward";
    case Action::Kind::backward:
      return "backward";
    case Action::Kind::backward_input:
      return "dgrad";
    case Action::Kind::backward_weight:
      return "wgrad";
    case Action::Kind::forward_backward:
      return "forward and backward";
    case Action::Kind::send:
      return "send";
    case Action::Kind::recv:
      return "recv";
    case Action::Kind::wait:
      return "wait";
    case Action::Kind::reduce:
      return "reduce";
    case Action::Kind::update:
      return "update";
  }
  return "?";
}

TraceArgs place_of(const Action& a) {
  using Kind = Action::Kind;
  if (a.kind == Kind::update) return {};
  const bool whole = a.kind == Kind::gather || a.kind == Kind::reduce;
  return {.stage = a.stage, .microbatch = whole ? -1 : a.microbatch};
}

template <class Views>
void copy_edge(Stream& stream, std::span<const TensorView> to, const Views& from) {
  NEREUS_CHECK(kContract, to.size() == from.size(), "an edge of {} tensors where {} are read",
               from.size(), to.size());
  for (size_t i = 0; i < to.size(); ++i) ops::cast(stream, {.out = to[i], .x = from[i]});
}

}  // namespace

Executor::Executor(Stream& stream, std::vector<const PipelineStage*> stages, ParameterStore& store,
                   Options options)
    : stream_(stream),
      store_(store),
      options_(std::move(options)),
      scratch_("scratch"),
      again_("again") {
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
  reached_ = 0;
  measure();
  store_.begin_step(stream_);  // measuring took buckets
  make_slots();
  make_outgoing();
  memory_.total = memory_.in_flight + memory_.pass + memory_.sent + memory_.tokens;
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
  const int64_t free = stream_.free_now();
  options_.pp->connect(pairs, options_.message_bytes, options_.messages_waiting);
  memory_.links = free - stream_.free_now();
}

// What one microbatch needs on each stage, by running it on the meta device, and what that makes of
// the schedule's.
void Executor::measure() {
  const std::vector<int> slots = slots_needed(options_.actions, options_.rank_of_stage);
  int count = 0, most = 1;
  for (size_t i = 0; i < stages_.size(); ++i) {
    if (stages_[i].stage == nullptr) continue;
    ++count;
    if (options_.backward) most = std::max(most, slots[i]);
  }
  // One that is kept whole while another's pass needs the scratch leaves no memory for that.
  alone_ = count == 1 && most == 1;
  std::vector<StageMemory> needs;
  for (LocalStage& l : stages_) {
    alone_ = alone_ && !l.split;
    l.needs = {};
  }
  for (LocalStage& l : stages_) {
    if (l.stage != nullptr) measure(l, alone_);
    needs.push_back(l.needs);
  }
  plan_ = MemoryPlan(options_.actions, options_.rank_of_stage, needs, options_.backward);
  memory_.in_flight = plan_.bytes();
}

void Executor::measure(LocalStage& l, bool alone) {
  Stream meta = Stream::meta_for(stream_);
  Stream nowhere(Device::meta());
  Arena scratch("scratch"), kept("activations"), kept_for_wgrad("activations"),
      pending("activations"), again("activations");
  (alone ? kept : again).share(scratch);
  Arena& weight = l.split ? kept_for_wgrad : kept;
  Arena& remade = alone ? kept : again;
  const MicrobatchSlot slot(nowhere, *l.stage, options_.shape);
  const Microbatch mb = slot.describe(1, options_.backward);
  const TensorView loss(nullptr, DType::f32, {1});
  const std::vector<TensorView> output = edge_tensors(nullptr, l.stage->output_edge());
  const auto pass = [&](Arena& for_dgrad, Arena& for_wgrad, auto run) {
    Context ctx{meta, for_dgrad, for_wgrad, scratch};
    const Arena::Scope scope(scratch);
    run(ctx);
  };
  pass(kept, weight,
       [&](Context& ctx) { l.stage->forward(ctx, mb, slot.input, output, loss, *slot.saved); });
  const std::vector<Arena::Entry> kept_entries = kept.peak_entries();
  const int64_t forward = kept.used_bytes() + (l.split ? kept_for_wgrad.used_bytes() : 0);
  if (options_.backward && l.split) {
    pass(again, pending, [&](Context& ctx) {
      l.stage->backward_input(ctx, mb, slot.output_gradient, *slot.saved);
    });
    pass(again, pending, [&](Context& ctx) { l.stage->backward_weight(ctx, mb, *slot.saved); });
  } else if (options_.backward) {
    pass(remade, remade,
         [&](Context& ctx) { l.stage->backward(ctx, mb, slot.output_gradient, *slot.saved); });
  }
  l.needs.bytes = {
      edge_bytes(l.stage->input_edge()), options_.backward ? edge_bytes(l.stage->output_edge()) : 0,
      alone ? 0 : kept.peak_bytes(), kept_for_wgrad.peak_bytes(), pending.peak_bytes()};
  memory_.saved += forward;
  memory_.pending += pending.peak_bytes();
  if (scratch.shared_peak_bytes() > memory_.pass) {
    memory_.pass = scratch.shared_peak_bytes();
    memory_.largest = scratch.peak_entries();
  }
  int64_t most = 0;
  for (const Arena::Entry& e : memory_.kept) most += e.bytes;
  if (forward > most) memory_.kept = kept_entries;
}

void Executor::make_slots() {
  const int64_t bytes = memory_.pass + memory_.in_flight;
  if (options_.memory && !stream_.on_meta()) activations_ = options_.memory(bytes);
  if (activations_ == nullptr) {
    buffer_ = Buffer(stream_.device(), bytes, "activations");
    activations_ = buffer_.data();
  }
  scratch_ = part(0, memory_.pass, "scratch");
  again_ = part(0, memory_.pass, "activations");
  const std::vector<int> slots = slots_needed(options_.actions, options_.rank_of_stage);
  for (size_t i = 0; i < stages_.size(); ++i) {
    LocalStage& l = stages_[i];
    if (l.stage == nullptr) continue;
    for (int n = 0; n < (options_.backward ? slots[i] : 1); ++n) {
      l.memory.push_back(std::make_unique<MicrobatchSlot>(stream_, *l.stage, options_.shape));
      MicrobatchSlot& slot = *l.memory.back();
      memory_.tokens += slot.token_bytes();
      if (alone_) {
        slot.arenas.push_back(part(0, memory_.pass, "activations"));
        continue;
      }
      const auto& needs = l.needs.bytes;
      slot.arenas.push_back(part(0, needs[StageMemory::for_dgrad], "activations"));
      if (!l.split) continue;
      slot.arenas.push_back(part(0, needs[StageMemory::for_wgrad], "activations for wgrad"));
      slot.arenas.push_back(part(0, needs[StageMemory::pending], "what wgrad is to read"));
    }
    if (alone_) l.memory.front()->arenas.front().share(scratch_);
  }
  if (!alone_) again_.share(scratch_);
}

// A send follows at once: all stages use the same memory, one for each kind of edge.
void Executor::make_outgoing() {
  int64_t outputs = 0, gradients = 0;
  for (int s = 0; s < stages(); ++s) {
    if (!is_local(s)) continue;
    if (s + 1 < stages() && !is_local(s + 1))
      outputs = std::max(outputs, edge_bytes(local(s).stage->output_edge()));
    if (s > 0 && !is_local(s - 1) && options_.backward)
      gradients = std::max(gradients, edge_bytes(local(s).stage->input_edge()));
  }
  outputs = aligned(outputs);
  memory_.sent = outputs + gradients;
  if (memory_.sent == 0) return;
  outgoing_buffer_ = Buffer(stream_.device(), memory_.sent, "edges for other ranks");
  std::byte* const base = outgoing_buffer_.data();
  for (LocalStage& l : stages_) {
    if (l.stage == nullptr) continue;
    l.output = edge_tensors(base, l.stage->output_edge());
    l.input_gradient =
        edge_tensors(base == nullptr ? nullptr : base + outputs, l.stage->input_edge());
  }
}

Arena Executor::part(int64_t offset, int64_t bytes, const char* name) const {
  if (activations_ == nullptr) return Arena(name);
  Arena arena(name, activations_ + offset, bytes);
  if (options_.poison_released || kPoisonAlways)
    arena.on_release([this](std::byte* memory, int64_t n) { overwrite(memory, n); });
  return arena;
}

void Executor::overwrite(std::byte* memory, int64_t bytes) const {
  if (options_.poison_released || kPoisonAlways) poison(stream_, memory, bytes);
}

int64_t Executor::peak_bytes() const { return scratch_.shared_peak_bytes() + reached_; }

MicrobatchSlot& Executor::take_slot(int stage, int microbatch) {
  LocalStage& l = local(stage);
  const auto n = static_cast<size_t>(l.slots.take(microbatch));
  NEREUS_CHECK(kContract, n < l.memory.size(),
               "microbatch {} of stage {} is one more than the {} that memory was made for",
               microbatch, stage, l.memory.size());
  MicrobatchSlot& slot = *l.memory[n];
  edges_ += l.needs.bytes[StageMemory::input];
  if (activations_ == nullptr) return slot;
  const auto at = [&](StageMemory::Item item) {
    const bool there = l.needs.bytes[item] > 0;
    return there ? activations_ + memory_.pass + plan_.place(stage, microbatch, item) : nullptr;
  };
  slot.input = edge_tensors(at(StageMemory::input), l.stage->input_edge());
  slot.output_gradient = edge_tensors(at(StageMemory::gradient), l.stage->output_edge());
  if (alone_) return slot;
  constexpr StageMemory::Item kArenas[] = {StageMemory::for_dgrad, StageMemory::for_wgrad,
                                           StageMemory::pending};
  for (size_t i = 0; i < slot.arenas.size(); ++i)
    if (std::byte* memory = at(kArenas[i])) slot.arenas[i].move_to(memory);
  return slot;
}

MicrobatchSlot& Executor::slot_of(int stage, int microbatch) {
  LocalStage& l = local(stage);
  return *l.memory[static_cast<size_t>(l.slots.of(microbatch))];
}

void Executor::give_back(int stage, int microbatch, Arena& arena, StageMemory::Item item) {
  if (!alone_ && arena.peak_bytes() > 0)
    reached_ = std::max(reached_, plan_.place(stage, microbatch, item) + arena.peak_bytes());
  arena.release(0);
}

void Executor::give_back_edge(int stage, int microbatch, StageMemory::Item item) {
  const int64_t bytes = local(stage).needs.bytes[item];
  edges_ -= bytes;
  if (bytes == 0 || activations_ == nullptr) return;
  const int64_t place = plan_.place(stage, microbatch, item);
  reached_ = std::max(reached_, place + aligned(bytes));
  overwrite(activations_ + memory_.pass + place, bytes);
}

void Executor::release_slot(int stage, int microbatch) {
  MicrobatchSlot& slot = slot_of(stage, microbatch);
  constexpr StageMemory::Item kArenas[] = {StageMemory::for_dgrad, StageMemory::for_wgrad,
                                           StageMemory::pending};
  for (size_t i = 0; i < slot.arenas.size(); ++i)
    give_back(stage, microbatch, slot.arenas[i], kArenas[i]);
  local(stage).slots.release(microbatch);
}

std::span<const TensorView> Executor::destination(const Edge& e) {
  if (e.kind == Edge::Kind::activation) return take_slot(e.consumer, e.microbatch).input;
  edges_ += local(e.consumer).needs.bytes[StageMemory::gradient];
  return slot_of(e.consumer, e.microbatch).output_gradient;
}

std::span<const TensorView> Executor::outgoing(const Edge& e) {
  const LocalStage& l = local(e.producer());
  return e.kind == Edge::Kind::activation ? l.output : l.input_gradient;
}

// The gradient that a pass has made, in memory of its own; an activation is made where it belongs.
void Executor::hand_over(const Action& pass, const PipelineStage::Saved& made) {
  for (const Edge& e : edges_produced(pass, stages()))
    if (e.kind == Edge::Kind::gradient)
      copy_edge(stream_, is_local(e.consumer) ? destination(e) : outgoing(e), made.input_gradient);
}

void Executor::send(const Edge& e) {
  for (const TensorView& t : outgoing(e)) options_.pp->send(stream_, t, rank_of(e.consumer));
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

// The first stage's input is the tokens; every other stage's came as an edge and took the slot.
void Executor::forward(const Action& a, const HostMicrobatch& host, const Pass& pass) {
  LocalStage& l = local(a.stage);
  MicrobatchSlot& s =
      a.stage == 0 ? take_slot(a.stage, a.microbatch) : slot_of(a.stage, a.microbatch);
  s.load(stream_, host, pass.loss_scale, pass.training);
  std::span<const TensorView> output;
  for (const Edge& e : edges_produced(a, stages()))
    output = is_local(e.consumer) ? destination(e) : outgoing(e);
  Context ctx{stream_, s.for_dgrad(), s.for_wgrad(), scratch_, l.forward_wrote, pass.observer};
  const Arena::Scope scope(scratch_);
  l.stage->forward(ctx, s.microbatch, s.input, output, pass.loss, *s.saved);
  l.forward_wrote = true;
}

void Executor::backward(const Action& a) {
  LocalStage& l = local(a.stage);
  if (l.split) {
    backward_input(a);
    backward_weight(a);
    return;
  }
  MicrobatchSlot& s = slot_of(a.stage, a.microbatch);
  Arena& again = alone_ ? s.for_dgrad() : again_;
  Context ctx{stream_, again, again, scratch_, l.wgrad_wrote, observer_};
  const Arena::Scope scope(scratch_), replays(again);
  l.stage->backward(ctx, s.microbatch, s.output_gradient, *s.saved);
  l.dgrad_wrote = l.wgrad_wrote = true;
  hand_over(a, *s.saved);
  give_back_edge(a.stage, a.microbatch, StageMemory::input);
  give_back_edge(a.stage, a.microbatch, StageMemory::gradient);
  release_slot(a.stage, a.microbatch);
}

void Executor::backward_input(const Action& a) {
  LocalStage& l = local(a.stage);
  MicrobatchSlot& s = slot_of(a.stage, a.microbatch);
  Context ctx{stream_, again_, s.pending(), scratch_, l.dgrad_wrote, observer_};
  const Arena::Scope scope(scratch_), replays(again_);
  l.stage->backward_input(ctx, s.microbatch, s.output_gradient, *s.saved);
  l.dgrad_wrote = true;
  hand_over(a, *s.saved);
  give_back(a.stage, a.microbatch, s.for_dgrad(), StageMemory::for_dgrad);
  give_back_edge(a.stage, a.microbatch, StageMemory::input);
}

void Executor::backward_weight(const Action& a) {
  LocalStage& l = local(a.stage);
  MicrobatchSlot& s = slot_of(a.stage, a.microbatch);
  Context ctx{stream_, again_, s.pending(), scratch_, l.wgrad_wrote, observer_};
  const Arena::Scope scope(scratch_);
  l.stage->backward_weight(ctx, s.microbatch, *s.saved);
  l.wgrad_wrote = true;
  give_back_edge(a.stage, a.microbatch, StageMemory::gradient);
  release_slot(a.stage, a.microbatch);
}

void Executor::begin_step() {
  store_.begin_step(stream_);
  edges_ = 0;
  for (LocalStage& l : stages_) l.forward_wrote = l.dgrad_wrote = l.wgrad_wrote = false;
}

// With one microbatch on its way no rank waits for another that waits for it. The second adds to
// gradients, by kernels of their own.
void Executor::rehearse(std::span<const HostMicrobatch> microbatches, float loss_scale,
                        TensorView loss) {
  ops::fill(stream_, {.out = loss, .value = 0});
  begin_step();
  for (int stage = 0; stage < stages(); ++stage)
    if (is_local(stage)) gather(stage);
  const Pass pass{loss_scale, loss, true, nullptr};
  for (int m = 0; m < std::min(2, static_cast<int>(microbatches_)); ++m) {
    const auto exchange = [&](const Action& a, auto work) {
      if (!is_local(a.stage)) return;
      for (const Edge& e : edges_needed(a, stages()))
        if (!is_local(e.producer())) receive(e);
      work(a);
      for (const Edge& e : edges_produced(a, stages()))
        if (!is_local(e.consumer)) send(e);
    };
    for (int stage = 0; stage < stages(); ++stage)
      exchange({.kind = Action::Kind::forward, .stage = stage, .microbatch = m},
               [&](const Action& a) { forward(a, microbatches[static_cast<size_t>(m)], pass); });
    for (int stage = stages(); stage-- > 0;)
      exchange({.kind = Action::Kind::backward, .stage = stage, .microbatch = m},
               [&](const Action& a) { backward(a); });
  }
  store_.finish(stream_);
}

void Executor::run(std::span<const HostMicrobatch> microbatches, float loss_scale, TensorView loss,
                   const std::function<void()>& update) {
  NEREUS_CHECK(kContract, microbatches.size() == microbatches_, "{} microbatches for a step of {}",
               microbatches.size(), microbatches_);
  ops::fill(stream_, {.out = loss, .value = 0});
  begin_step();
  const Pass pass{loss_scale, loss, true, observer_};
  for (const Action& a : options_.actions) {
    const TraceMemory before = remembers() ? held() : TraceMemory();
    {
      const TraceRange range(stream_.trace(), TraceKind::action, name_of(a.kind), place_of(a));
      run(a, microbatches, pass, update);
    }
    if (remembers()) tell_memory(a, before);
  }
}

void Executor::run(const Action& a, std::span<const HostMicrobatch> microbatches, const Pass& pass,
                   const std::function<void()>& update) {
  const auto count_forward = [&](const Action& f) {
    forward(f, microbatches[static_cast<size_t>(f.microbatch)], pass);
    TraceRecorder* const trace = stream_.trace();
    if (trace != nullptr && trace->records_ranges() && is_first(f.stage))
      trace->count("tokens", slot_of(f.stage, f.microbatch).microbatch.tokens());
  };
  switch (a.kind) {
    case Action::Kind::gather:
      gather(a.stage);
      break;
    case Action::Kind::forward:
      count_forward(a);
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
      count_forward(a.forward_half());
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

TraceMemory Executor::held() const {
  TraceMemory out{};
  out.edges = edges_;
  if (alone_) return out;  // what is kept shares the memory of passes
  for (const LocalStage& l : stages_) {
    if (l.stage == nullptr) continue;
    for (int slot = 0; slot < l.slots.most(); ++slot) {
      if (!l.slots.taken(slot)) continue;
      for (const Arena& a : l.memory[static_cast<size_t>(slot)]->arenas) out.kept += a.used_bytes();
    }
  }
  return out;
}

void Executor::tell_memory(const Action& a, const TraceMemory& before) {
  const TraceArgs place = place_of(a);
  TraceMemory now = held();
  now.action = name_of(a.kind);
  now.stage = place.stage;
  now.microbatch = place.microbatch;
  now.kept = std::max(now.kept, before.kept);
  now.edges = std::max(now.edges, before.edges);
  now.pass = scratch_.take_recent_peak();
  stream_.trace()->memory(now);
}

// Stage by stage in the model's order, which no rank waits in for ever: a send does not wait.
void Executor::evaluate(std::span<const HostMicrobatch> microbatches, float loss_scale,
                        TensorView losses, Observer* observer) {
  store_.begin_step(stream_);
  for (int stage = 0; stage < stages(); ++stage)
    if (is_local(stage)) gather(stage);
  for (size_t i = 0; i < microbatches.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    const Pass pass{loss_scale, losses.rows(row, row + 1), false, observer};
    for (int stage = 0; stage < stages(); ++stage) {
      if (!is_local(stage)) continue;
      const Action a{.kind = Action::Kind::forward, .stage = stage, .microbatch = 0};
      for (const Edge& e : edges_needed(a, stages()))
        if (!is_local(e.producer())) receive(e);
      forward(a, microbatches[i], pass);
      for (const Edge& e : edges_produced(a, stages()))
        if (!is_local(e.consumer)) send(e);
      release_slot(stage, 0);
    }
  }
}

}  // namespace nereus
