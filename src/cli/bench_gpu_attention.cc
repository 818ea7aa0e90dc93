#ifdef NEREUS_CUDA

#include "base/philox.h"
#include "cli/gpu_bench.h"
#include "ops/attention.h"

namespace nereus::bench {
namespace {

struct AttentionCase {
  const char* name;
  ops::AttentionMask mask;
  int64_t documents;  // of a sequence, of random lengths; 0: none end
};

// The first key of each token, and how many (query, key) pairs a head has.
std::vector<int32_t> first_keys(const AttentionCase& c, double& pairs) {
  std::vector<int32_t> first(static_cast<size_t>(T));
  pairs = 0;
  for (int64_t t = 0; t < T; ++t) {
    const bool starts =
        t % S == 0 ||
        (c.documents > 0 && philox(1, static_cast<uint64_t>(t)).v[0] % (S / c.documents) == 0);
    first[static_cast<size_t>(t)] =
        starts ? static_cast<int32_t>(t) : first[static_cast<size_t>(t - 1)];
    pairs += d(t + 1 - first[static_cast<size_t>(t)]);
  }
  return first;
}

void attention_case(Bench& bench, const AttentionCase& c) {
  const std::string name = fmt::format("attention 192/128 {} 4x4096x128", c.name);
  if (!bench.wanted(name)) return;
  const auto heads = [&](int64_t width) { return bench.random(DType::bf16, {T, H, width}); };
  const TensorView q = heads(kHead), k = heads(kHead), kv = heads(kNope + kValue),
                   dout = heads(kValue), o = heads(kValue), dq = heads(kHead), dk = heads(kHead),
                   dkv = heads(kNope + kValue), lse = bench.tensor(DType::f32, {B, H, S}),
                   delta = bench.tensor(DType::f32, {B, H, S});
  double pairs = 0;
  const TensorView first_key = bench.integers(first_keys(c, pairs), {T});
  Stream& s = bench.stream();
  pairs *= 2 * d(H);
  bench.run(name + " forward", pairs * d(kHead + kValue), 0, [&] {
    ops::attention_forward(s, {.o = o,
                               .lse = lse,
                               .q = q,
                               .k = k,
                               .v = kv.columns(kNope, kNope + kValue),
                               .first_key = first_key,
                               .sequence = S,
                               .scale = 0.07f,
                               .mask = c.mask});
  });
  for (const bool unordered : {false, true}) {
    if (unordered && c.mask == ops::AttentionMask::document) continue;  // the same kernels
    ops::AttentionBackward backward{.dq = dq,
                                    .dk = dk,
                                    .dv = dkv.columns(kNope, kNope + kValue),
                                    .delta = delta,
                                    .dout = dout,
                                    .o = o,
                                    .lse = lse,
                                    .q = q,
                                    .k = k,
                                    .v = kv.columns(kNope, kNope + kValue),
                                    .first_key = first_key,
                                    .sequence = S,
                                    .scale = 0.07f,
                                    .mask = c.mask,
                                    .unordered = unordered};
    const int64_t workspace = ops::attention_backward_workspace(s, backward);
    if (workspace > 0) backward.workspace = bench.tensor(DType::u8, {workspace});
    bench.run(name + (unordered ? " backward, unordered" : " backward"),
              pairs * d(3 * kHead + 2 * kValue), 0, [&] { ops::attention_backward(s, backward); });
  }
  bench.clear();
}

}  // namespace

void attention(Bench& bench) {
  using Mask = ops::AttentionMask;
  for (const AttentionCase& c : {AttentionCase{"causal", Mask::causal, 0},
                                 AttentionCase{"as one document", Mask::document, 0},
                                 AttentionCase{"2 documents", Mask::document, 2},
                                 AttentionCase{"8 documents", Mask::document, 8},
                                 AttentionCase{"64 documents", Mask::document, 64}})
    attention_case(bench, c);
}

}  // namespace nereus::bench

#endif
