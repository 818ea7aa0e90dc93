// Parameter counts and FLOPs a token against TorchTitan's own function (tests/golden/flops).
#include "config/model_flops.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(ModelFlops, AndSizesAreTorchTitansForEveryFlavor) {
  const nlohmann::json golden =
      nlohmann::json::parse(test::read_file(test::source_path("tests/golden/flops/flops.json")));
  for (const std::string& flavor : model_flavors()) {
    SCOPED_TRACE(flavor);
    const nlohmann::json& g = golden.at(flavor);
    const ModelArgs a = model_args_of_flavor(flavor);
    const ModelSize s = model_size(a);
    EXPECT_EQ(s.total(), g.at("total").get<int64_t>());
    EXPECT_EQ(s.embedding, g.at("embedding").get<int64_t>());
    EXPECT_EQ(s.torchtitan_dense(), g.at("dense").get<int64_t>());
    EXPECT_EQ(s.router, g.at("router").get<int64_t>());
    EXPECT_EQ(s.shared_experts, g.at("shared_experts").get<int64_t>());
    EXPECT_EQ(s.routed_experts, g.at("routed_experts").get<int64_t>());
    EXPECT_EQ(s.active, g.at("active").get<int64_t>());
    EXPECT_EQ(s.active - s.embedding, g.at("active_without_embedding").get<int64_t>());
    EXPECT_EQ(flops_per_token(a, 2048).torchtitan,
              g.at("num_flops_per_token_seq2048").get<int64_t>());
    EXPECT_EQ(flops_per_token(a, 4096).torchtitan,
              g.at("num_flops_per_token_seq4096").get<int64_t>());
  }
}

TEST(ModelFlops, CountAttentionByThreeConventions) {
  const FlopsPerToken f = flops_per_token(model_args_of_flavor("671B"), 4096);
  const int64_t gemms = 6 * (37552282624 - 926679040);
  EXPECT_EQ(f.torchtitan, 241245235200);
  // 2 products, of q k^T (width 192) and of p v (128), forward and twice backward, 61 x 128 heads.
  EXPECT_EQ(f.non_causal, gemms + int64_t{6} * 61 * 128 * (192 + 128) * 4096);
  EXPECT_EQ(f.causal, gemms + int64_t{3} * 61 * 128 * (192 + 128) * 4096);
  EXPECT_NEAR(static_cast<double>(f.non_causal), 281.16e9, 0.01e9);
}

// A document's last token is the one that ends it; the row's end cuts one off.
TEST(ModelFlops, OfDocumentsAreThoseOfTheirPairs) {
  const ModelArgs a = model_args_of_flavor("671B");
  EXPECT_EQ(masked_flops_per_token(a, 2048), static_cast<double>(flops_per_token(a, 4096).causal));
  constexpr int32_t kEnd = 1;
  const std::vector<int32_t> rows = {7,    7,    kEnd, 7, 7, 7, 7, 7,     // 3 + 5
                                     kEnd, kEnd, 7,    7, 7, 7, 7, kEnd,  // 1 + 1 + 6
                                     7,    7,    7,    7, 7, 7, 7, 7};    // 8
  EXPECT_EQ(document_pairs(rows, 8, kEnd), (9 + 25 + 1 + 1 + 36 + 64) / 2.0);
  EXPECT_EQ(document_pairs(rows, 24, kEnd), (9 + 36 + 1 + 36 + 64) / 2.0);
  EXPECT_EQ(document_pairs({}, 8, kEnd), 0);
}

TEST(ModelFlops, OfAModelWithoutExpertsAreDense) {
  ModelArgs a = model_args_of_flavor("debugmodel");
  a.n_dense_layers = a.n_layers;
  const ModelSize s = model_size(a);
  EXPECT_EQ(s.sparse(), 0);
  EXPECT_EQ(s.active, s.total());
  EXPECT_EQ(s.total(), 2 * 2048 * 256 + 256 + 6 * (3555840 + 2 * 256 + 3 * 256 * 1024));
}

}  // namespace
}  // namespace nereus
