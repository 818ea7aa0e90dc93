#include "checkpoint/snapshot.h"

#include "base/check.h"

namespace nereus {

int64_t Snapshot::bytes(const ShardContents& c) {
  int64_t sum = 0;
  for (const FlatState& s : c.states) sum += c.slices.written_elements() * size_of(s.view.dtype);
  for (const NamedView& v : c.extras) sum += v.view.bytes();
  return sum;
}

Snapshot::Snapshot(const ShardContents& c, const Stream& stream) : model_dtype_(c.model_dtype) {
  int64_t elements = 0;
  for (size_t i = 0; i < c.slices.slices.size(); ++i) {
    const auto& [box, written] = c.slices.slices[i];
    if (!written) continue;
    RankSlices::Kept kept{box, true};
    const int64_t count = box.extent.count();
    kept.box.flat = elements;
    if (box.extent.rank() == 3) kept.box.panel_stride = box.extent[1] * box.extent[2];
    slices_.pieces.push_back({slices_.slices.size(), elements, 0, count});
    slices_.slices.push_back(std::move(kept));
    from_.push_back(i);
    elements += count;
  }
  const auto memory = [&](int64_t bytes) {
    memory_.push_back(stream.on_gpu()
                          ? Buffer(stream.device(), bytes, "a checkpoint's copy of the states",
                                   Buffer::Kind::pinned)
                          : Buffer(Device::cpu(), bytes, "a checkpoint's copy of the states"));
    return memory_.back().data();
  };
  for (const FlatState& s : c.states)
    states_.push_back(
        {.state = s.state,
         .view = TensorView(memory(elements * size_of(s.view.dtype)), s.view.dtype, {elements}),
         .on_host = true,
         .drop_signs = s.drop_signs});
  for (const NamedView& v : c.extras)
    extras_.push_back(
        {.name = v.name, .view = TensorView(memory(v.view.bytes()), v.view.dtype, v.view.shape)});
}

void Snapshot::take(const ShardContents& c, Stream& stream) {
  NEREUS_CHECK(kContract, c.states.size() == states_.size() && c.extras.size() == extras_.size(),
               "a snapshot of {} states and {} extras is to take {} and {}", states_.size(),
               extras_.size(), c.states.size(), c.extras.size());
  std::vector<size_t> to(c.slices.slices.size(), slices_.slices.size());
  for (size_t i = 0; i < from_.size(); ++i) to[from_[i]] = i;
  for (const RankSlices::Piece& p : c.slices.pieces) {  // in the order of the update
    if (to[p.slice] == slices_.slices.size()) continue;
    const int64_t place = slices_.slices[to[p.slice]].box.flat + p.at;
    for (size_t s = 0; s < states_.size(); ++s) {
      const TensorView source = c.states[s].view.rows(p.flat, p.flat + p.count);
      const TensorView target = states_[s].view.rows(place, place + p.count);
      if (c.states[s].on_host) {
        std::copy_n(source.data, source.bytes(), target.data);
      } else {
        copy_to_host(stream, target.data, source);
      }
    }
  }
  for (size_t i = 0; i < extras_.size(); ++i)
    copy_to_host(stream, extras_[i].view.data, c.extras[i].view);
}

ShardContents Snapshot::contents() const {
  return {.slices = slices_, .states = states_, .extras = extras_, .model_dtype = model_dtype_};
}

}  // namespace nereus
