#include "parallel/store_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "base/philox.h"
#include "comm/thread_ranks.h"
#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// A small model of random sizes, cut by tp and ep as the true one is.
class RandomModel {
 public:
  explicit RandomModel(uint64_t seed) : seed_(seed) {
    tp = pick({1, 2, 3});
    ep = pick({1, 2, 4});
    expert_shards = pick({1, 2, 3, 5});
    kinds_ = 4 + pick({0, 1, 2, 3, 4, 5});
    for (int i = 0; i < kinds_; ++i)
      sizes_.push_back({pick({0, 1, 2, 3, 4, 5}), pick({1, 3, 7, 40, 130, 600}), pick({1, 2, 9}),
                        pick({1, 2, 3})});
  }

  int tp, ep, expert_shards;
  int dense_shards() const { return ep * expert_shards; }
  ShardCounts counts() const { return {.dense = dense_shards(), .experts = expert_shards}; }
  // Of the rank whose place among dense shards is `shard`.
  ShardIndex index(int shard) const { return {.dense = shard, .experts = shard / ep}; }
  int ep_rank(int shard) const { return shard % ep; }

  std::vector<StoredTensor> tensors(int tp_rank, int ep_rank) const {
    std::vector<StoredTensor> out;
    for (int i = 0; i < kinds_; ++i) {
      const auto& [kind, rows, width, experts] = sizes_[static_cast<size_t>(i)];
      const std::string name = "t" + std::to_string(i) + ".";
      StoredTensor t{.name = name, .bucket = i / 2, .parts = {}};
      switch (kind) {
        case 0:  // a norm
          t.read_format = ReadFormat::f32_master;
          t.replicated_on_tp = true;
          t.parts = {part(name + "n", {rows}, {})};
          break;
        case 1:  // columns cut
          t.parts = {part(name + "w", {rows, width * tp}, {{1, tp, tp_rank}})};
          break;
        case 2:  // w1 and w3, rows cut
          t.parts = {part(name + "w1", {rows * tp, width}, {{0, tp, tp_rank}}),
                     part(name + "w3", {rows * tp, width}, {{0, tp, tp_rank}}, 0, rows)};
          break;
        case 3:  // two of different heights, the same on all of tp
          t.replicated_on_tp = true;
          t.parts = {part(name + "a", {rows, width}, {}),
                     part(name + "b", {5, width}, {}, 0, rows)};
          break;
        case 4:  // experts' w1 and w3
          t.experts = true;
          t.parts = {part(name + "e1", {experts * ep, rows * tp, width},
                          {{0, ep, ep_rank}, {1, tp, tp_rank}}, 1),
                     part(name + "e3", {experts * ep, rows * tp, width},
                          {{0, ep, ep_rank}, {1, tp, tp_rank}}, 1, rows)};
          break;
        default:  // experts' w2
          t.experts = true;
          t.parts = {part(name + "e2", {experts * ep, rows, width * tp},
                          {{0, ep, ep_rank}, {2, tp, tp_rank}})};
          break;
      }
      t.shape = t.parts[0].extent();
      for (size_t p = 1; p < t.parts.size(); ++p)
        t.shape[t.parts[p].dim] += t.parts[p].extent()[t.parts[p].dim];
      out.push_back(std::move(t));
    }
    return out;
  }

 private:
  struct Sizes {
    int kind, rows, width, experts;
  };
  struct Cut {
    int dim, parts, index;
  };
  static ParameterPart part(const std::string& name, const Shape& whole, std::vector<Cut> cuts,
                            int dim = 0, int64_t begin = 0) {
    ParameterPart p{.parameter = {.name = name, .shape = whole}, .dim = dim, .begin = begin};
    for (const Cut& c : cuts) {
      if (c.parts == 1) continue;
      if (p.box.rank() == 0) {
        p.box = p.origin = whole;
        for (int d = 0; d < whole.rank(); ++d) p.origin[d] = 0;
      }
      p.box[c.dim] = whole[c.dim] / c.parts;
      p.origin[c.dim] = p.box[c.dim] * c.index;
    }
    return p;
  }
  int pick(std::vector<int> from) { return from[philox(seed_, next_++).v[0] % from.size()]; }

  uint64_t seed_, next_ = 0;
  int kinds_ = 0;
  std::vector<Sizes> sizes_;
};

using Element = std::pair<std::string, int64_t>;  // of a parameter, and its row-major index

int64_t index_in(const Shape& whole, const Shape& at) {
  int64_t index = 0;
  for (int d = 0; d < whole.rank(); ++d) index = index * whole[d] + at[d];
  return index;
}

// Calls f for each index of a shape.
void each(const Shape& shape, const std::function<void(const Shape&)>& f) {
  Shape at = shape;
  for (int64_t n = 0; n < shape.count(); ++n) {
    int64_t rest = n;
    for (int d = shape.rank() - 1; d >= 0; --d) {
      at[d] = rest % shape[d];
      rest /= shape[d];
    }
    f(at);
  }
}

// What a rank's flat buffer holds, by the definition of parts: of the whole stored tensor element
// by element, and of that this shard's rows.
std::map<int64_t, Element> flat_buffer(const StoreLayout& layout, const ShardIndex& shard) {
  std::map<int64_t, Element> out;
  for (size_t i = 0; i < layout.size(); ++i) {
    const StoredTensor& t = layout.tensors()[i];
    const int64_t width = t.shape.rank() > 1 ? t.shape[t.shape.rank() - 1] : 1;
    const int64_t rows = layout.rows(i).rows_per_shard();
    for (const ParameterPart& p : t.parts) {
      each(p.extent(), [&](const Shape& at) {
        Shape stored = at, whole = at;
        stored[p.dim] += p.begin;
        for (int d = 0; d < at.rank(); ++d) whole[d] += p.first(d);
        const int64_t n = index_in(t.shape, stored) - shard.of(t) * rows * width;
        if (n < 0 || n >= rows * width) return;
        const Element e{p.parameter.name, index_in(p.parameter.shape, whole)};
        EXPECT_TRUE(out.emplace(layout.offset(i) + n, e).second) << "two at one place";
      });
    }
  }
  return out;
}

TEST(StoreLayout, TellsForEveryRankWhereEachElementOfEachParameterLies) {
  for (uint64_t seed = 0; seed < 25; ++seed) {
    const RandomModel model(seed);
    SCOPED_TRACE(testing::Message() << "model " << seed);
    std::map<Element, int> held, counted;
    std::map<std::string, int64_t> sizes;  // of the parameters
    std::set<std::string> same;            // on all ranks of tp
    for (int tp = 0; tp < model.tp; ++tp) {
      for (int shard = 0; shard < model.dense_shards(); ++shard) {
        const StoreLayout layout(model.tensors(tp, model.ep_rank(shard)), model.counts());
        const FlatRange counts = layout.counted(tp == 0), f32 = layout.f32_masters();
        std::map<int64_t, Element> found;
        for (const StoreLayout::Slice& s : layout.slices(model.index(shard))) {
          const StoredTensor& t = layout.tensors()[static_cast<size_t>(s.tensor)];
          sizes[s.name] = s.whole.count();
          if (t.replicated_on_tp) same.insert(s.name);
          const int last = s.extent.rank() - 1;
          std::vector<StoreLayout::Run> runs = StoreLayout::runs(s);
          int64_t n = 0;
          each(s.extent, [&](const Shape& at) {
            Shape whole = at;
            for (int d = 0; d <= last; ++d) whole[d] += s.origin[d];
            const int64_t flat = s.flat + at[last] +
                                 (last > 0 ? at[last - 1] * s.extent[last] : 0) +
                                 (last > 1 ? at[0] * s.panel_stride : 0);
            const Element e{s.name, index_in(s.whole, whole)};
            ASSERT_TRUE(found.emplace(flat, e).second) << s.name << ": two at one place";
            ASSERT_LT(flat, layout.elements());
            ASSERT_EQ(t.read_format == ReadFormat::f32_master, f32.begin <= flat && flat < f32.end)
                << s.name;
            ++held[e];
            counted[e] += counts.begin <= flat && flat < counts.end;
            // The runs are the same elements in the same order.
            if (n == runs.front().count) {
              runs.erase(runs.begin());
              n = 0;
            }
            ASSERT_EQ(runs.front().flat + n, flat);
            ASSERT_EQ(runs.front().index + n, e.second);
            ++n;
          });
          ASSERT_EQ(runs.size(), 1u);
          ASSERT_EQ(runs.front().count, n);
        }
        ASSERT_EQ(found, flat_buffer(layout, model.index(shard)));
      }
    }
    for (const auto& [name, size] : sizes) {
      const int copies = same.contains(name) ? model.tp : 1;
      for (int64_t i = 0; i < size; ++i) {
        ASSERT_EQ((held[{name, i}]), copies) << name << " " << i;
        ASSERT_EQ((counted[{name, i}]), 1) << name << " " << i;
      }
    }
    int64_t elements = 0;
    for (const auto& [name, size] : sizes) elements += size;
    ASSERT_EQ(held.size(), static_cast<size_t>(elements));
  }
}

TEST(StoreLayout, RunsAreAsLongAsTheyCanBe) {
  using Run = StoreLayout::Run;
  using Runs = std::vector<Run>;
  const Shape experts{4, 6, 5};
  const auto runs = [&](const Shape& origin, const Shape& extent, int64_t panel_stride) {
    return StoreLayout::runs({.name = "w",
                              .whole = experts,
                              .origin = origin,
                              .extent = extent,
                              .flat = 1000,
                              .panel_stride = panel_stride});
  };
  EXPECT_EQ(runs({1, 0, 0}, {2, 6, 5}, 30), (Runs{{1000, 30, 60}}));
  EXPECT_EQ(runs({1, 0, 0}, {2, 6, 5}, 60), (Runs{{1000, 30, 30}, {1060, 60, 30}}));
  EXPECT_EQ(runs({1, 0, 0}, {1, 6, 5}, 60), (Runs{{1000, 30, 30}}));
  EXPECT_EQ(runs({2, 3, 0}, {2, 2, 5}, 20), (Runs{{1000, 75, 10}, {1020, 105, 10}}));
  EXPECT_EQ(runs({2, 3, 1}, {1, 2, 4}, 8), (Runs{{1000, 76, 4}, {1004, 81, 4}}));
}

TEST(StoreLayout, PartsAreRowsOfTheirTensor) {
  const auto layout = [](const Shape& stored, const Shape& part, int dim, int64_t begin) {
    StoreLayout(
        {{.name = "t",
          .shape = stored,
          .parts = {{.parameter = {.name = "p", .shape = part}, .dim = dim, .begin = begin}}}});
  };
  layout({8, 4}, {3, 4}, 0, 5);
  layout({2, 8, 4}, {2, 3, 4}, 1, 5);
  layout({2, 8, 4}, {2, 8, 4}, 0, 0);
  const auto refused = testing::ThrowsMessage<Error>(testing::HasSubstr("and on of t ["));
  EXPECT_THAT([&] { layout({8, 4}, {3, 4}, 0, 6); }, refused);
  EXPECT_THAT([&] { layout({8, 4}, {8, 2}, 1, 0); }, refused);
  EXPECT_THAT([&] { layout({2, 8, 4}, {1, 8, 4}, 0, 1); }, refused);
  EXPECT_THAT([&] { layout({2, 8, 4}, {2, 3, 2}, 1, 0); }, refused);
  EXPECT_THAT([&] { layout({8, 4}, {8}, 0, 0); }, refused);
}

TEST(StoreLayout, OfARankIsWhereItsStoreKeepsIt) {
  for (uint64_t seed = 100; seed < 130; ++seed) {
    const RandomModel model(seed);
    SCOPED_TRACE(testing::Message() << "model " << seed);
    const int ranks = model.expert_shards;
    run_thread_ranks(ranks, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
      const RankWorld world(Mesh({.dp_shard = ranks}, ranks), group);
      const std::vector<StoredTensor> tensors = model.tensors(model.tp - 1, model.ep - 1);
      const ParameterStore store(Device::cpu(), tensors, world, {});
      const StoreLayout layout(tensors, {.dense = ranks, .experts = ranks});
      ASSERT_EQ(layout.elements(), store.elements());
      const std::vector<StoreLayout::Slice> slices =
          layout.slices({.dense = group.rank(), .experts = group.rank()});
      const std::vector<NamedView> views = store.master_views();
      ASSERT_EQ(slices.size(), views.size());
      for (size_t i = 0; i < slices.size(); ++i) {
        const StoreLayout::Slice& s = slices[i];
        const NamedView& v = views[i];
        ASSERT_EQ(s.name, v.name);
        ASSERT_EQ(s.whole, v.whole) << s.name;
        ASSERT_EQ(s.origin, v.origin) << s.name;
        ASSERT_EQ(s.extent, v.view.shape) << s.name;
        ASSERT_EQ(s.flat, v.view.as<float>() - store.masters().as<float>()) << s.name;
        ASSERT_EQ(s.panel_stride, s.extent.rank() == 3 ? v.view.stride[0] : 0) << s.name;
      }
    });
  }
}

}  // namespace
}  // namespace nereus
