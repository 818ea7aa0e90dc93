// States that the ranks of one layout wrote, read by those of another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "base/philox.h"
#include "checkpoint/checksum.h"
#include "checkpoint/rank_slices.h"
#include "checkpoint/shard_save.h"
#include "checkpoint/state_load.h"
#include "checkpoint/verify.h"
#include "model/parameters.h"
#include "tensor/format.h"
#include "tensor/safetensors.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr SavedState kStates[] = {SavedState::model, SavedState::first_moment,
                                  SavedState::second_moment};

// What element `index` of a parameter is in a state.
float value_of(const std::string& name, SavedState state, int64_t index) {
  const uint32_t bits =
      philox_u32(static_cast<uint64_t>(state), hash_name(name), static_cast<uint64_t>(index));
  const auto x = static_cast<float>(static_cast<int32_t>(bits)) / 1e6f;
  return state == SavedState::second_moment ? std::abs(x) : x;
}

struct Layout {
  const char* name;
  MeshDegrees degrees;
  int world;
};
// Every axis, and mixtures: shards that begin inside of experts, replicas, cut columns.
const Layout kLayouts[] = {
    {"one", {}, 1},
    {"fsdp3", {}, 3},
    {"fsdp8", {}, 8},
    {"hsdp", {.dp_replicate = 2}, 4},
    {"tp4", {.tp = 4}, 4},
    {"tp2", {.dp_replicate = 2, .tp = 2}, 8},
    {"tp2_ep4", {.tp = 2, .ep = 4}, 4},
    {"tp2_ep2_etp2", {.tp = 2, .ep = 2, .etp = 2}, 4},
    {"pp2_ep2", {.pp = 2, .ep = 2}, 4},
    {"cp2_ep4", {.cp = 2, .ep = 4}, 4},
};

ModelArgs model() {
  ModelArgs a = test::eight_blocks();
  a.n_layers = 3;
  a.n_dense_layers = 1;
  a.vocab_size = 400;  // more rows than a shard's unit
  return a;
}

// The flat buffers of a rank.
struct Rank {
  Rank(const Layout& l, int rank, DType moments = DType::f32) : mesh(l.degrees, l.world) {
    const int pp = mesh.size(MeshGroup::pp), stage = mesh.position(MeshGroup::pp, rank);
    const int64_t n = model().n_layers;
    const StagePart part{.first_block = n * stage / pp,
                         .end_block = n * (stage + 1) / pp,
                         .embedding = stage == 0,
                         .head = stage == pp - 1};
    layout = std::make_unique<StoreLayout>(
        model_layout(model(), shard_spec(mesh, rank), std::span(&part, 1)).tensors,
        shard_counts(mesh));
    slices = rank_slices(*layout, mesh, rank);
    for (const SavedState s : kStates) {
      const DType dtype = s == SavedState::model ? DType::f32 : moments;
      memory.emplace_back(static_cast<size_t>(layout->elements() * size_of(dtype)),
                          std::byte{0xff});
      states.push_back(
          {.state = s, .view = TensorView(memory.back().data(), dtype, {layout->elements()})});
    }
  }

  template <class F>  // f(box, flat place, index in the parameter)
  void for_each(F f) const {
    for (const auto& kept : slices.slices)
      for (const StoreLayout::Run& run : StoreLayout::runs(kept.box))
        for (int64_t i = 0; i < run.count; ++i) f(kept.box, run.flat + i, run.index + i);
  }
  void fill() {
    for (const FlatState& s : states)
      for_each([&](const auto& box, int64_t flat, int64_t index) {
        const float x = value_of(box.name, s.state, index);
        if (s.view.dtype == DType::f32)
          s.view.as<float>()[flat] = x;
        else
          s.view.as<bf16>()[flat] = bf16(x);
      });
  }
  int64_t wrong(const std::function<float(float)>& stored = [](float x) { return x; }) const {
    int64_t n = 0;
    for (const FlatState& s : states)
      for_each([&](const auto& box, int64_t flat, int64_t index) {
        const float want = stored(value_of(box.name, s.state, index));
        const float got = s.view.dtype == DType::f32 ? s.view.as<float>()[flat]
                                                     : static_cast<float>(s.view.as<bf16>()[flat]);
        n += got == want ? 0 : 1;
      });
    return n;
  }

  Mesh mesh;
  std::unique_ptr<StoreLayout> layout;
  RankSlices slices;
  std::vector<std::vector<std::byte>> memory;
  std::vector<FlatState> states;
};

class Native : public testing::Test {
 protected:
  Manifest save(const Layout& l, DType moments = DType::f32, DType weights = DType::f32) {
    std::vector<Manifest> parts;
    for (int r = 0; r < l.world; ++r) {
      Rank rank(l, r, moments);
      rank.fill();
      parts.push_back(save_shard(folder_.path(), fmt::format("{}-{}", l.name, r),
                                 {.slices = rank.slices,
                                  .states = rank.states,
                                  .model_dtype = weights,
                                  .threads = 1 + r % 3},
                                 stream_));
    }
    Manifest m = merge(std::move(parts));
    check_slices(m, l.name);
    check_files(m, folder_.path());
    return parse_manifest(to_text(m), l.name);
  }

  test::TemporaryFolder folder_;
  ThreadPool pool_{2};
  Stream stream_{Device::cpu(), &pool_};
};

TEST_F(Native, EveryLayoutReadsWhatEveryOtherWrote) {
  for (const Layout& from : kLayouts) {
    const Manifest m = save(from);
    check_tensors(m, from.name, parameters(model()), {}, kStates);
    for (const Layout& to : kLayouts) {
      SCOPED_TRACE(fmt::format("{} to {}", from.name, to.name));
      std::vector<uint64_t> sums(m.tensors.size());
      for (int r = 0; r < to.world; ++r) {
        Rank rank(to, r);
        const std::vector<uint64_t> mine = load_states(
            folder_.path(), m, {.slices = rank.slices, .states = rank.states, .threads = 1 + r % 3},
            stream_);
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += mine[i];
        ASSERT_EQ(rank.wrong(), 0) << "rank " << r;
      }
      for (size_t i = 0; i < sums.size(); ++i)
        ASSERT_EQ(sums[i], m.tensors[i].checksum()) << m.tensors[i].name;
    }
  }
}

TEST_F(Native, TypesAreConverted) {
  const Manifest m = save(kLayouts[1], DType::bf16, DType::f16);
  EXPECT_EQ(m.tensors[0].dtype, DType::f16);
  Rank one(kLayouts[0], 0);
  one.states.erase(one.states.begin());  // f16 rounds otherwise
  load_states(folder_.path(), m, {.slices = one.slices, .states = one.states}, stream_);
  EXPECT_EQ(one.wrong([](float x) { return static_cast<float>(bf16(x)); }), 0);
  const Manifest f32 = save(kLayouts[2]);
  Rank two(kLayouts[0], 0, DType::bf16);
  const FlatState weights = two.states[0];
  load_states(folder_.path(), f32, {.slices = two.slices, .states = two.states}, stream_);
  two.states.erase(two.states.begin());
  EXPECT_EQ(two.wrong([](float x) { return static_cast<float>(bf16(x)); }), 0);
  two.states = {weights};
  EXPECT_EQ(two.wrong(), 0);
}

TEST_F(Native, ReplicasShareTheWork) {
  for (const Layout& l : kLayouts) {
    const Mesh mesh(l.degrees, l.world);
    int64_t sum = 0, most = 0, whole = 0;
    for (int r = 0; r < l.world; ++r) {
      const Rank rank(l, r);
      sum += rank.slices.written_elements();
      most = std::max(most, rank.slices.written_elements());
    }
    for (const Parameter& p : parameters(model())) whole += p.shape.count();
    EXPECT_EQ(sum, whole) << l.name << ": each element is written once";
    if (l.degrees.dp_replicate > 1) {
      EXPECT_LT(most, 2 * whole / l.world) << l.name;
    }
  }
}

TEST_F(Native, AnySafetensorsReaderOpensAShard) {
  save(kLayouts[0]);
  const SafetensorsFile file = SafetensorsFile::open(folder_.file("one-0"));
  const SafetensorsEntry& w = file.require("layers.1.moe.experts.w3", FileDType::f32);
  EXPECT_EQ(w.shape, (std::vector<int64_t>{8, 16, 24}));
  EXPECT_EQ(w.values<float>()[100], value_of(w.name, SavedState::model, 100));
  EXPECT_NE(file.find("exp_avg_sq.layers.1.moe.experts.w3"), nullptr);
  save(kLayouts[2]);
  const SafetensorsFile part = SafetensorsFile::open(folder_.file("fsdp8-3"));
  EXPECT_THAT(part.metadata(), testing::Contains(testing::Pair("tok_embeddings.weight",
                                                               "from [150, 0] of [400, 24]")));
}

TEST_F(Native, AFlippedBitAndATornFileAreFound) {
  const Layout& l = kLayouts[3];
  const Manifest m = save(l);
  const size_t t = m.tensors.size() / 2;
  const Manifest::Slice& s = m.tensors[t].slices[0];
  const std::string path = folder_.file(m.files[static_cast<size_t>(s.file)].name);
  std::string bytes = test::read_file(path);
  bytes[static_cast<size_t>(s.offset) + 5] =
      static_cast<char>(bytes[static_cast<size_t>(s.offset) + 5] ^ 16);
  folder_.write(m.files[static_cast<size_t>(s.file)].name, bytes);
  std::vector<uint64_t> sums(m.tensors.size());
  for (int r = 0; r < l.world; ++r) {
    Rank rank(l, r);
    const auto mine =
        load_states(folder_.path(), m, {.slices = rank.slices, .states = rank.states}, stream_);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += mine[i];
  }
  for (size_t i = 0; i < sums.size(); ++i)
    EXPECT_EQ(sums[i] == m.tensors[i].checksum(), i != t) << m.tensors[i].name;
  EXPECT_THAT(find_damage(folder_.path(), m, t),
              HasSubstr(path + ": " + name_of(m.tensors[t].state) + " of " + m.tensors[t].name));
  bytes.resize(bytes.size() - 1);
  folder_.write(m.files[static_cast<size_t>(s.file)].name, bytes);
  EXPECT_THAT([&] { check_files(m, folder_.path()); },
              ThrowsMessage<Error>(HasSubstr(fmt::format("it has {} bytes and should have {}",
                                                         bytes.size(), bytes.size() + 1))));
}

TEST(Checksum, IsTheSumByIndexHoweverATensorIsCut) {
  std::vector<uint32_t> x(1000);
  uint64_t want = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = philox_u32(1, 2, i);
    want += uint64_t{x[i]} * (2 * i + 1);
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(x.data());
  EXPECT_EQ(checksum(bytes, 4, 1000, 0), want);
  EXPECT_EQ(checksum(bytes, 4, 377, 0) + checksum(bytes + 4 * 377, 4, 623, 377), want);
  const auto* half = reinterpret_cast<const uint16_t*>(x.data());
  want = 0;
  for (size_t i = 0; i < 2000; ++i) want += uint64_t{half[i]} * (2 * (i + (uint64_t{1} << 33)) + 1);
  EXPECT_EQ(checksum(bytes, 2, 2000, int64_t{1} << 33), want);
  // Longer than a block.
  const std::vector<uint32_t> many(100'001, 0xffffffffu);
  want = 0;
  for (uint64_t i = 0; i < many.size(); ++i) want += uint64_t{0xffffffffu} * (2 * i + 1);
  EXPECT_EQ(checksum(reinterpret_cast<const std::byte*>(many.data()), 4, 100'001, 0), want);
}

// 671B on 512 ranks, without its data.
TEST(ManifestOfTheLargeModel, IsMadeAndReadInTime) {
  const ModelArgs args = model_args_of_flavor("671B");
  const Mesh mesh({.pp = 8, .ep = 64}, 512);
  std::vector<std::string> parts;
  for (int r = 0; r < 512; ++r) {
    const int stage = mesh.position(MeshGroup::pp, r);
    const StagePart part{.first_block = args.n_layers * stage / 8,
                         .end_block = args.n_layers * (stage + 1) / 8,
                         .embedding = stage == 0,
                         .head = stage == 7};
    const StoreLayout layout(model_layout(args, shard_spec(mesh, r), std::span(&part, 1)).tensors,
                             shard_counts(mesh));
    const RankSlices slices = rank_slices(layout, mesh, r);
    Manifest m;
    m.files.push_back({fmt::format("shard-{:05}-of-00512.safetensors", r), int64_t{1} << 40});
    int64_t offset = 100'000;
    for (const SavedState state : kStates)
      for (const auto& [box, written] : slices.slices) {
        if (!written) continue;
        m.tensors.push_back({.name = box.name, .state = state, .shape = box.whole});
        m.tensors.back().slices = {{.offset = offset,
                                    .origin = box.origin,
                                    .extent = box.extent,
                                    .checksum = hash_name(box.name)}};
        offset += box.extent.count() * 4;
      }
    parts.push_back(to_text(m));
  }
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Manifest> parsed;
  for (const std::string& p : parts) parsed.push_back(parse_manifest(p, "part"));
  const Manifest all = merge(std::move(parsed));
  check_slices(all, "671B");
  const std::string text = to_text(all);
  const auto made = std::chrono::steady_clock::now();
  check_slices(parse_manifest(text, "671B"), "671B");
  const auto read = std::chrono::steady_clock::now();
  const auto seconds = [](auto a, auto b) { return std::chrono::duration<double>(b - a).count(); };
  int64_t slices = 0;
  for (const Manifest::Tensor& t : all.tensors) slices += static_cast<int64_t>(t.slices.size());
  std::printf("%lld slices, %.1f MB, made in %.2f s, read in %.2f s\n",
              static_cast<long long>(slices), static_cast<double>(text.size()) / 1e6,
              seconds(begin, made), seconds(made, read));
  EXPECT_LT(text.size(), 64'000'000u);
}

}  // namespace
}  // namespace nereus
