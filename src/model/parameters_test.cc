#include "model/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "parallel/parameter_store.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

void collect(const TensorView& view, std::vector<double>& out) {
  if (view.rank() > 1) {
    for (int64_t i = 0; i < view.dim(0); ++i) collect(view[i], out);
    return;
  }
  for (int64_t i = 0; i < view.dim(0); ++i) out.push_back(static_cast<double>(view.as<float>()[i]));
}

// tests/golden/flops/init_stats_debugmodel.json: TorchTitan's own init_weights on the true
// debugmodel.
TEST(Parameters, HaveTorchTitansNamesShapesAndInitialStatistics) {
  const auto golden = nlohmann::json::parse(
      test::read_file(test::source_path("tests/golden/flops/init_stats_debugmodel.json")));
  const ModelArgs args = model_args_of_flavor("debugmodel");
  ParameterStore store(Device::cpu(), model_layout(args).tensors,
                       {.gradients = false, .moments = false});
  Stream stream(Device::cpu(), &test::pool());
  store.initialize(stream, 0);
  size_t found = 0;
  for (const NamedView& w : store.master_views()) {
    ASSERT_TRUE(golden.contains(w.name)) << w.name;
    ++found;
    const auto& want = golden[w.name];
    std::vector<int64_t> shape;
    for (int d = 0; d < w.view.rank(); ++d) shape.push_back(w.view.dim(d));
    EXPECT_EQ(shape, want["shape"].get<std::vector<int64_t>>()) << w.name;
    std::vector<double> values;
    collect(w.view, values);
    double mean = 0, squares = 0, most = 0;
    for (const double x : values) mean += x;
    mean /= static_cast<double>(values.size());
    for (const double x : values) {
      squares += (x - mean) * (x - mean);
      most = std::max(most, std::abs(x));
    }
    const auto n = static_cast<double>(values.size());
    const double std = std::sqrt(squares / n);
    double want_std = want["std"], want_most = want["absmax"];
    // torch's uniform numbers reach -1, where erfinv is infinite: about one value in 2^24 is cut at
    // its bound of 2, a hundred standard deviations out. Ours has no such values.
    if (want_most == 2) {
      want_std = std::sqrt(want_std * want_std - 4 / n);
      want_most = most;
    }
    // 2 % as the golden README asks, more only for tensors so small that 4 standard errors are.
    EXPECT_NEAR(std, want_std, std::max(0.02, 4 / std::sqrt(2.0 * n)) * want_std) << w.name;
    EXPECT_NEAR(mean, want["mean"], 8 * want_std / std::sqrt(n) + 1e-12) << w.name;
    EXPECT_NEAR(most, want_most, 0.25 * want_most) << w.name;
  }
  size_t trained = 0;
  for (const auto& [name, stats] : golden.items())
    trained += name.find("expert_bias") == std::string::npos;
  EXPECT_EQ(found, trained);
}

TEST(Parameters, AFusedTensorHoldsItsPartsOnceAndWhole) {
  for (const char* flavor : {"debugmodel", "671B"}) {
    const ModelArgs args = model_args_of_flavor(flavor);
    int64_t stored = 0, parts = 0;
    for (const StoredTensor& t : model_layout(args).tensors) {
      stored += t.shape.count();
      int64_t next = 0;
      for (const ParameterPart& p : t.parts) {
        EXPECT_EQ(p.begin, next) << p.parameter.name;
        next += p.parameter.shape[p.dim];
        parts += p.parameter.shape.count();
      }
      EXPECT_EQ(next, t.shape[t.parts[0].dim]) << t.name;
    }
    EXPECT_EQ(stored, parts);
    EXPECT_EQ(stored, flavor[0] == 'd' ? 33'014'016 : 671'026'404'352);
  }
}

// From the mesh alone, and so for ranks that are not there: what a checkpoint for other degrees of
// parallelism needs.
TEST(Parameters, AreHeldByTheRanksOfAMeshAsItsDegreesSay) {
  ModelArgs args;
  args.vocab_size = 12;
  args.dim = 8;
  args.inter_dim = 12;
  args.moe_inter_dim = 4;
  args.n_layers = 3;
  args.n_dense_layers = 1;
  args.n_heads = 2;
  args.q_lora_rank = 4;
  args.kv_lora_rank = 4;
  args.qk_nope_head_dim = 4;
  args.qk_rope_head_dim = 2;
  args.v_head_dim = 4;
  args.moe.num_experts = 8;
  args.moe.num_shared_experts = 1;
  args.moe.top_k = 2;
  const std::vector<StagePart> halves = {{.first_block = 0, .end_block = 1, .head = false},
                                         {.first_block = 1, .end_block = 3, .embedding = false}};
  const std::vector<StagePart> whole = {{.first_block = 0, .end_block = 3}};
  for (const MeshDegrees& d :
       {MeshDegrees{.dp_shard = 1}, MeshDegrees{.dp_shard = 3},
        MeshDegrees{.dp_replicate = 2, .dp_shard = 2, .tp = 2, .ep = 2, .etp = 2},
        MeshDegrees{.dp_shard = 4, .cp = 2, .tp = 2, .ep = 4, .etp = 1},
        MeshDegrees{.dp_replicate = 2, .dp_shard = 2, .pp = 2, .ep = 2}}) {
    const Mesh mesh(d, d.dp_replicate * d.dp_shard * d.cp * d.tp * d.pp);
    SCOPED_TRACE(mesh.to_string());
    std::map<std::string, std::vector<int>> counted;  // by element: ranks that count it in a norm
    for (const Parameter& p : parameters(args))
      counted[p.name].resize(static_cast<size_t>(p.shape.count()));
    for (int rank = 0; rank < mesh.world(); ++rank) {
      const auto stage = static_cast<size_t>(mesh.position(MeshGroup::pp, rank));
      const ModelLayout model = model_layout(
          args, shard_spec(mesh, rank), std::span(d.pp > 1 ? halves : whole).subspan(stage, 1));
      const StoreLayout layout(model.tensors, shard_counts(mesh));
      const FlatRange mine = layout.counted(mesh.position(MeshGroup::tp, rank) == 0);
      for (const StoreLayout::Slice& s : layout.slices(shard_index(mesh, rank)))
        for (const StoreLayout::Run& run : StoreLayout::runs(s))
          for (int64_t i = 0; i < run.count; ++i)
            counted.at(s.name).at(static_cast<size_t>(run.index + i)) +=
                mine.begin <= run.flat + i && run.flat + i < mine.end;
    }
    for (const auto& [name, elements] : counted)
      for (const int n : elements) ASSERT_EQ(n, d.dp_replicate) << name;
  }
}

// Also on a rank of a pipeline that has some of the modules only.
TEST(Parameters, EveryModuleHasABucketOfItsOwnWhichIsTheSameOnAllRanks) {
  const ModelArgs args = model_args_of_flavor("debugmodel");
  const ModelLayout whole = model_layout(args);
  const StagePart middle{.first_block = 1, .end_block = 3, .embedding = false, .head = false};
  for (const ModelLayout& l : {whole, model_layout(args, {}, std::span(&middle, 1))}) {
    std::map<int, std::vector<std::string>> prefixes;  // of the names that a bucket may hold
    prefixes[l.embedding_bucket] = {"tok_embeddings."};
    prefixes[l.head_bucket] = {"norm.", "output."};
    for (size_t i = 0; i < l.block_buckets.size(); ++i)
      prefixes[l.block_buckets[i]] = {"layers." + std::to_string(i) + "."};
    EXPECT_EQ(prefixes.size(), static_cast<size_t>(args.n_layers) + 2);
    ASSERT_FALSE(l.tensors.empty());
    for (const StoredTensor& t : l.tensors) {
      const std::vector<std::string>& known = prefixes[t.bucket];
      EXPECT_TRUE(std::any_of(known.begin(), known.end(),
                              [&](const std::string& p) { return t.name.starts_with(p); }))
          << t.name << " in bucket " << t.bucket;
    }
    EXPECT_EQ(l.embedding_bucket, whole.embedding_bucket);
    EXPECT_EQ(l.block_buckets, whole.block_buckets);
    EXPECT_EQ(l.head_bucket, whole.head_bucket);
  }
}

// Where a parameter is stored, and what surrounds it, does not change its first value.
TEST(ParameterStore, InitialValuesDependOnNameAndSeedOnly) {
  const Initial initial{.mean = 0, .std = 0.02, .low = -2, .high = 2};
  const Parameter w1{"w1", {3, 5, 4}, ParameterKind::routed_expert, initial};
  const Parameter w3{"w3", {3, 5, 4}, ParameterKind::routed_expert, initial};
  const auto values = [&](std::vector<StoredTensor> tensors, const std::string& name) {
    ParameterStore store(Device::cpu(), std::move(tensors), {});
    Stream stream(Device::cpu(), &test::pool());
    store.initialize(stream, 9);
    std::vector<double> out;
    for (const NamedView& v : store.master_views())
      if (v.name == name) collect(v.view, out);
    return out;
  };
  const std::vector<StoredTensor> fused = {
      {.name = "gate_up", .shape = {3, 10, 4}, .parts = {{w1, 1, 0}, {w3, 1, 5}}}};
  const std::vector<StoredTensor> apart = {
      {.name = "w3", .shape = {3, 5, 4}, .parts = {{w3, 0, 0}}},
      {.name = "w1", .shape = {3, 5, 4}, .parts = {{w1, 0, 0}}}};
  EXPECT_EQ(values(fused, "w1"), values(apart, "w1"));
  EXPECT_EQ(values(fused, "w3"), values(apart, "w3"));
  EXPECT_NE(values(fused, "w1"), values(fused, "w3"));
}

}  // namespace
}  // namespace nereus
