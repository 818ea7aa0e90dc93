#include "checkpoint/snapshot.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "ops/split_master.h"

namespace nereus {
namespace {

constexpr int64_t kPage = 4096;  // bytes

int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// On all of the stream's threads: how it is cut does not depend on them.
template <class Copy>
void copy_at_once(const std::vector<Copy>& copies, const Stream& stream) {
  constexpr int64_t kTask = int64_t{1} << 20;  // bytes
  std::vector<Copy> tasks;
  for (const Copy& c : copies)
    for (int64_t at = 0; at < c.bytes; at += kTask)
      tasks.push_back({c.to + at, c.from + at, std::min(kTask, c.bytes - at)});
  stream.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, Scratch) {
    const Copy& c = tasks[static_cast<size_t>(i)];
    std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
  });
}

}  // namespace

int64_t Snapshot::bytes_of(const RankSlices& slices, const ParameterStore& store,
                           std::span<const NamedView> extras) {
  const int64_t n = slices.written_elements();
  int64_t sum = whole_pages(4 * n);
  if (const TensorView m = store.moments().first) sum += 2 * whole_pages(n * size_of(m.dtype));
  for (const NamedView& v : extras) sum += whole_pages(v.view.bytes());
  return sum;
}

Snapshot::Snapshot(const RankSlices& slices, const ParameterStore& store,
                   std::span<const NamedView> extras, const Stream& stream, const Options& options)
    : beside_(options.beside || stream.on_gpu()),
      memory_(stream.device(), bytes_of(slices, store, extras),
              "a checkpoint's copy of the states"),
      begin_(stream.device()),
      extras_there_(stream.device()) {
  make_runs(slices, store, options.slice);
  if (stream.on_gpu()) copier_ = std::make_unique<Stream>(stream.device());
  const int64_t n = slices.written_elements();
  int64_t place = 0;
  const auto view = [&](DType dtype, const Shape& shape) {
    const TensorView v(memory_.data() + place, dtype, shape);
    place += whole_pages(v.bytes());
    return v;
  };
  states_.push_back({.state = SavedState::model, .view = view(DType::f32, {n}), .on_host = true});
  const ParameterStates::Moments m = store.moments();
  has_signs_ = m.has_signs;
  if (m.first) {
    for (const SavedState s : {SavedState::first_moment, SavedState::second_moment})
      states_.push_back({.state = s, .view = view(m.first.dtype, {n}), .on_host = true});
  }
  for (const NamedView& v : extras)
    extras_.push_back({.name = v.name, .view = view(v.view.dtype, v.view.shape)});
}

// What is written, one piece after the other; pieces that follow each other are copied together.
void Snapshot::make_runs(const RankSlices& slices, const ParameterStore& store, int64_t slice) {
  std::vector<size_t> place(slices.slices.size());
  for (size_t i = 0; i < place.size(); ++i) {
    if (!slices.slices[i].written) continue;
    place[i] = slices_.slices.size();
    slices_.slices.push_back(slices.slices[i]);
  }
  const std::vector<ParameterStates::Kept> kept = store.kept_states();
  size_t k = 0;
  int64_t to = 0;
  std::vector<Run> whole;
  for (const RankSlices::Piece& p : slices.pieces) {  // ascending
    if (!slices.slices[p.slice].written) continue;
    slices_.pieces.push_back({place[p.slice], to, p.at, p.count});
    while (kept[k].states.first + kept[k].count <= p.flat) ++k;
    const bool follows = !whole.empty() && whole.back().kept == k &&
                         whole.back().flat + whole.back().count == p.flat;
    if (follows) {
      whole.back().count += p.count;
    } else {
      whole.push_back({k, p.flat, to, p.count, !kept[k].states.master});
    }
    to += p.count;
  }
  for (const Run& r : whole)
    for (int64_t at = 0; at < r.count; at += slice)
      runs_.push_back({r.kept, r.flat + at, r.to + at, std::min(slice, r.count - at), r.split});
}

void Snapshot::take(ParameterStore& store, std::span<const NamedView> extras, Stream& stream) {
  NEREUS_CHECK(kContract, extras.size() == extras_.size(), "a snapshot of {} extras is to take {}",
               extras_.size(), extras.size());
  memory_.make();
  const std::vector<ParameterStates::Kept> kept = store.kept_states();
  progress_ = std::make_shared<CopyBeside>();
  on_host_.assign(runs_.size(), {});
  begin_.record(stream);
  if (copier_) begin_.wait(*copier_);
  std::vector<Copy> at_once;
  for (size_t i = 0; i < runs_.size(); ++i) {
    const Run& r = runs_[i];
    const ParameterStates::Kept& k = kept[r.kept];
    const int64_t first = r.flat - k.states.first;
    const auto copy = [&](const TensorView& from, bool on_host, std::byte* to) {
      const TensorView part = from.rows(first, first + r.count);
      if (on_host && beside_) {
        on_host_[i].push_back({to, part.data, part.bytes()});
      } else if (copier_) {
        memory_.copy_here(*copier_, to - memory_.data(), part);
      } else {
        at_once.push_back({to, part.data, part.bytes()});
      }
    };
    std::byte* const master = states_[0].view.data + 4 * r.to;
    if (r.split) {
      copy(k.states.copy, false, master);
      copy(k.states.remainder, k.masters_on_host, master + 2 * r.count);
    } else {
      copy(k.states.master, k.masters_on_host, master);
    }
    for (size_t s = 1; s < states_.size(); ++s)
      copy(s == 1 ? k.states.first_moment : k.states.second_moment, k.moments_on_host,
           states_[s].view.data + r.to * size_of(states_[s].view.dtype));
    if (copier_) progress_->enqueued(*copier_, StoreLayout::aligned(r.flat + r.count));
  }
  if (!copier_) copy_at_once(at_once, stream);
  for (size_t i = 0; i < extras.size(); ++i)  // small
    memory_.copy_here(stream, extras_[i].view.data - memory_.data(), extras[i].view);
  extras_there_.record(stream);
  if (beside_) store.copied_beside(progress_);
}

void Snapshot::finish(Stream& host) {
  use_on_this_thread(memory_.device());
  begin_.synchronize();  // states in host memory are those of the last step
  for (size_t i = 0; i < runs_.size(); ++i) {
    for (const Copy& c : on_host_[i]) std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
    progress_->copied_on_host(runs_[i].flat + runs_[i].count);
  }
  progress_->copied_on_host(std::numeric_limits<int64_t>::max());
  progress_->synchronize();
  extras_there_.synchronize();
  std::vector<float> masters;
  for (const Run& r : runs_) put_together(r, host, masters);
}

// A split master becomes f32 in its place, and second moments lose the signs that were its.
void Snapshot::put_together(const Run& r, Stream& host, std::vector<float>& masters) const {
  if (!has_signs_) return;
  const TensorView v = states_[2].view.rows(r.to, r.to + r.count);
  if (r.split) {
    std::byte* const place = states_[0].view.data + 4 * r.to;
    masters.resize(static_cast<size_t>(r.count));
    const TensorView x(reinterpret_cast<std::byte*>(masters.data()), DType::f32, {r.count});
    ops::join_master(host, {.x = x,
                            .copy = TensorView(place, DType::bf16, {r.count}),
                            .remainder = TensorView(place + 2 * r.count, DType::i16, {r.count}),
                            .v = v});
    std::memcpy(place, x.data, static_cast<size_t>(x.bytes()));
  }
  const int64_t size = size_of(v.dtype);
  for (int64_t i = 1; i <= r.count; ++i) v.data[i * size - 1] &= std::byte{0x7f};  // little endian
}

}  // namespace nereus
