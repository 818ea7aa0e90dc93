#include "model/mla.h"

#include <gtest/gtest.h>

#include "model/layer_test.h"

namespace nereus {
namespace {

using test::normal;
using test::poisoned;
using test::Tensor;
using test::Values;

// Odd sizes, none of them another's; two sequences.
constexpr int64_t kSequence = 7, kTokens = 2 * kSequence, kDim = 11, kHeads = 3, kNope = 5,
                  kRotary = 4, kValue = 6, kRankKv = 9, kQk = kNope + kRotary;
constexpr size_t kT = kTokens, kD = kDim, kH = kHeads;

struct Case {
  const char* what;
  int64_t q_rank = 8;
  bool documents = false, huggingface = false, yarn = false;
  DType dtype = DType::f32;
};
void PrintTo(const Case& c, std::ostream* s) { *s << c.what; }

// The formulas of the header in double.
struct Judge {
  size_t q_rank;
  double eps, scale;
  Values first_key, cos, sin;
  Values x, dy, q, latent, q_norm, q_up, kv_norm, kv_up, out;

  // Pairs of the last kRotary columns of rows of heads, by the position of their token.
  void rotate(Values& heads, size_t count) const {
    for (size_t row = 0; row < heads.size() / kQk; ++row) {
      const size_t position = row / count % kSequence;
      for (size_t i = 0; i < kRotary / 2; ++i) {
        double& a = heads[row * kQk + kNope + 2 * i];
        double& b = heads[row * kQk + kNope + 2 * i + 1];
        const double c = cos[position * kRotary / 2 + i], s = sin[position * kRotary / 2 + i];
        const double turned = a * c - b * s;
        b = a * s + b * c;
        a = turned;
      }
    }
  }

  Values y() const {
    const size_t width = q_rank + kRankKv + kRotary;
    const Values latents = test::product(x, latent, kD);
    Values queries = q_rank == 0
                         ? test::product(x, q, kD)
                         : test::product(test::rms_normalised(
                                             test::columns(latents, width, 0, q_rank), q_norm, eps),
                                         q_up, q_rank);
    const Values kv = test::product(
        test::rms_normalised(test::columns(latents, width, q_rank, q_rank + kRankKv), kv_norm, eps),
        kv_up, kRankKv);
    Values keys(kT * kH * kQk);
    for (size_t t = 0; t < kT; ++t)
      for (size_t h = 0; h < kH; ++h)
        for (size_t d = 0; d < kQk; ++d)
          keys[(t * kH + h) * kQk + d] = d < kNope
                                             ? kv[(t * kH + h) * (kNope + kValue) + d]
                                             : latents[t * width + q_rank + kRankKv + d - kNope];
    rotate(queries, kH);
    rotate(keys, kH);
    Values o(kT * kH * kValue);
    for (size_t t = 0; t < kT; ++t)
      for (size_t h = 0; h < kH; ++h) {
        Values p;
        double sum = 0;
        const auto first = static_cast<size_t>(first_key[t]);
        for (size_t j = first; j <= t; ++j) {
          double score = 0;
          for (size_t d = 0; d < kQk; ++d)
            score += queries[(t * kH + h) * kQk + d] * keys[(j * kH + h) * kQk + d];
          p.push_back(std::exp(score * scale));
          sum += p.back();
        }
        for (size_t j = first; j <= t; ++j)
          for (size_t d = 0; d < kValue; ++d)
            o[(t * kH + h) * kValue + d] +=
                p[j - first] / sum * kv[(j * kH + h) * (kNope + kValue) + kNope + d];
      }
    return test::product(o, out, kH * kValue);
  }
};

class MlaTest : public testing::TestWithParam<Case> {};

TEST_P(MlaTest, OutputAndGradientsAreThoseOfTheFormulas) {
  const Case& c = GetParam();
  ModelArgs args;
  args.numerics =
      numerics_of(c.huggingface ? NumericsFamily::huggingface : NumericsFamily::torchtitan);
  args.dim = kDim;
  args.n_heads = kHeads;
  args.q_lora_rank = c.q_rank;
  args.kv_lora_rank = kRankKv;
  args.qk_nope_head_dim = kNope;
  args.qk_rope_head_dim = kRotary;
  args.v_head_dim = kValue;
  args.norm_eps = 0.01;  // large enough to be seen
  args.max_seq_len = kSequence;
  args.rope_factor = 8;
  if (c.yarn) args.original_seq_len = 3;

  const auto weight = [&](uint64_t seed, const Shape& shape) {
    return normal(seed, shape, 0.5, c.dtype);
  };
  const Tensor x = normal(1, {kTokens, kDim}, 1, c.dtype),
               dy = normal(2, {kTokens, kDim}, 1, c.dtype);
  const Tensor q = weight(3, {kHeads * kQk, kDim}),
               latent = weight(4, {c.q_rank + kRankKv + kRotary, kDim}),
               q_norm = normal(5, {c.q_rank}, 0.3, DType::f32, 1),
               q_up = weight(6, {kHeads * kQk, c.q_rank}),
               kv_norm = normal(7, {kRankKv}, 0.3, DType::f32, 1),
               kv_up = weight(8, {kHeads * (kNope + kValue), kRankKv}),
               out = weight(9, {kDim, kHeads * kValue});
  // Any tables: what is not a rotation shows that backward has the transpose.
  const Tensor cos = normal(10, {kSequence, kRotary / 2}),
               sin = normal(11, {kSequence, kRotary / 2});
  Values position, first;
  for (int64_t t = 0; t < kTokens; ++t) {
    position.push_back(static_cast<double>(t % kSequence));
    const int64_t start = t - t % kSequence;
    first.push_back(static_cast<double>(c.documents && t % kSequence >= 3 ? start + 3 : start));
  }
  const Tensor positions = test::integers(position), first_key = test::integers(first);

  const double mscale = c.yarn ? 0.1 * std::log(8.0) + 1 : 1;
  Judge judge{.q_rank = static_cast<size_t>(c.q_rank),
              .eps = c.huggingface ? 1e-6 : 0.01,
              .scale = mscale * mscale / std::sqrt(9.0),
              .first_key = first,
              .cos = cos.values(),
              .sin = sin.values(),
              .x = x.values(),
              .dy = dy.values(),
              .q = q.values(),
              .latent = latent.values(),
              .q_norm = q_norm.values(),
              .q_up = q_up.values(),
              .kv_norm = kv_norm.values(),
              .kv_up = kv_up.values(),
              .out = out.values()};
  const Values want_y = judge.y();
  const auto value = [&] { return test::dot(judge.dy, judge.y()); };
  std::vector<std::pair<const char*, Values>> want;
  for (const auto& [name, values] : {std::pair<const char*, Values*>{"x", &judge.x},
                                     {"latent", &judge.latent},
                                     {"kv_norm", &judge.kv_norm},
                                     {"kv_up", &judge.kv_up},
                                     {"out", &judge.out}})
    want.emplace_back(name, test::derivatives(*values, value));
  if (c.q_rank == 0) {
    want.emplace_back("q", test::derivatives(judge.q, value));
  } else {
    want.emplace_back("q_norm", test::derivatives(judge.q_norm, value));
    want.emplace_back("q_up", test::derivatives(judge.q_up, value));
  }

  const TensorView none;
  const Mla::Weights w{
      c.q_rank == 0 ? ConstTensorView(q) : none, latent, q_norm, q_up, kv_norm, kv_up, out};
  const Microbatch mb{
      .ids = positions,
      .labels = positions,
      .positions = positions,
      .first_key = first_key,
      .sequence = kSequence,
      .mask = c.documents ? ops::AttentionMask::document : ops::AttentionMask::causal};
  test::LayerMemory memory;
  IdentityRegion region;
  // Sums of some tens of products; bf16 rounds every tensor on the way.
  const double tolerance = c.dtype == DType::f32 ? 5e-6 : 0.04;
  for (const Recompute& recompute :
       {Recompute::none(), Recompute{.mla_up = true}, Recompute{.assembly = true}}) {
    SCOPED_TRACE(testing::Message()
                 << "mla_up again " << recompute.mla_up << ", assembly " << recompute.assembly);
    const Mla mla(args, {cos, sin}, region, region, recompute, {});
    const Tensor dq = poisoned(q.shape()), dlatent = poisoned(latent.shape()),
                 dq_norm = poisoned(q_norm.shape()), dq_up = poisoned(q_up.shape()),
                 dkv_norm = poisoned(kv_norm.shape()), dkv_up = poisoned(kv_up.shape()),
                 dout = poisoned(out.shape());
    const Mla::Grads grads{dq, dlatent, dq_norm, dq_up, dkv_norm, dkv_up, dout};
    // The second pass adds to what the first has written.
    for (const int pass : {1, 2}) {
      memory.reset();
      const Tensor y = poisoned(x.shape(), c.dtype), dx = poisoned(x.shape(), c.dtype);
      Mla::Saved saved;
      Mla::Pending pending;
      Context ctx = memory.context(pass == 2);
      mla.forward(ctx, w, mb, x, y, saved, ctx, false);
      mla.backward_input(ctx, w, mb, dy, dx, saved, pending, grads);
      memory.release_input();
      mla.backward_weight(ctx, saved, pending, grads);
      EXPECT_LT(test::normwise_error(y.values(), want_y), tolerance);
      for (const auto& [name, expected] : want) {
        const std::string n = name;
        const Tensor& got = n == "x"         ? dx
                            : n == "latent"  ? dlatent
                            : n == "kv_norm" ? dkv_norm
                            : n == "kv_up"   ? dkv_up
                            : n == "out"     ? dout
                            : n == "q"       ? dq
                            : n == "q_norm"  ? dq_norm
                                             : dq_up;
        Values scaled = expected;
        if (n != "x")
          for (double& v : scaled) v *= pass;
        EXPECT_LT(test::normwise_error(got.values(), scaled), 2 * tolerance)
            << n << ", pass " << pass;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    EveryKind, MlaTest,
    testing::Values(Case{"q_lora"}, Case{"no q_lora", 0}, Case{"documents", 8, true},
                    Case{"documents, no q_lora, YaRN", 0, true, false, true},
                    Case{"huggingface", 8, false, true},
                    Case{"bf16", 8, true, false, false, DType::bf16},
                    Case{"bf16, huggingface, no q_lora", 0, true, true, false, DType::bf16}));

}  // namespace
}  // namespace nereus
