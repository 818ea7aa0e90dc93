#include "checkpoint/rank_slices.h"

#include <algorithm>
#include <numeric>

namespace nereus {
namespace {

// Of each stored tensor: does the rank at (replicate, tp) of those that keep the same rows write
// it? The largest tensors are dealt first, each to who has least. What tp cuts is dealt on all
// ranks of a tp group alike.
std::vector<bool> written(const StoreLayout& layout, const Mesh& mesh, int rank) {
  const auto replicas = static_cast<size_t>(mesh.size(MeshGroup::dp_replicate));
  const auto tp = static_cast<size_t>(mesh.size(MeshGroup::tp));
  const auto my_replica = static_cast<size_t>(mesh.position(MeshGroup::dp_replicate, rank));
  const auto my_tp = static_cast<size_t>(mesh.position(MeshGroup::tp, rank));
  const ShardIndex shard = shard_index(mesh, rank);
  std::vector<int64_t> elements(layout.size());
  for (size_t i = 0; i < layout.size(); ++i)
    for (const StoreLayout::Slice& s : layout.slices(i, shard)) elements[i] += s.extent.count();
  std::vector<size_t> order(layout.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return elements[a] > elements[b]; });

  std::vector<int64_t> load(replicas * tp);  // of rank (replica, tp), at replica * tp + tp
  std::vector<bool> out(layout.size());
  for (const size_t i : order) {
    if (layout.tensors()[i].replicated_on_tp) {
      const auto least =
          static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
      load[least] += elements[i];
      out[i] = least == my_replica * tp + my_tp;
      continue;
    }
    size_t least = 0;
    const auto highest = [&](size_t r) {
      return *std::max_element(load.begin() + static_cast<std::ptrdiff_t>(r * tp),
                               load.begin() + static_cast<std::ptrdiff_t>((r + 1) * tp));
    };
    for (size_t r = 1; r < replicas; ++r)
      if (highest(r) < highest(least)) least = r;
    for (size_t t = 0; t < tp; ++t) load[least * tp + t] += elements[i];
    out[i] = least == my_replica;
  }
  return out;
}

}  // namespace

RankSlices rank_slices(const StoreLayout& layout, const Mesh& mesh, int rank) {
  RankSlices out;
  const std::vector<bool> writes = written(layout, mesh, rank);
  for (StoreLayout::Slice& box : layout.slices(shard_index(mesh, rank))) {
    const size_t slice = out.slices.size();
    const int64_t panels = box.extent.rank() == 3 ? box.extent[0] : 1;
    const int64_t panel = box.extent.count() / panels;
    if (panels == 1 || box.panel_stride == panel) {
      out.pieces.push_back({slice, box.flat, 0, box.extent.count()});
    } else {
      for (int64_t p = 0; p < panels; ++p)
        out.pieces.push_back({slice, box.flat + p * box.panel_stride, p * panel, panel});
    }
    const bool mine = writes[static_cast<size_t>(box.tensor)];
    out.slices.push_back({std::move(box), mine});
  }
  std::sort(out.pieces.begin(), out.pieces.end(),
            [](const auto& a, const auto& b) { return a.flat < b.flat; });
  return out;
}

int64_t RankSlices::written_elements() const {
  int64_t sum = 0;
  for (const Kept& s : slices)
    if (s.written) sum += s.box.extent.count();
  return sum;
}

}  // namespace nereus
