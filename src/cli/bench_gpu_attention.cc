#ifdef NEREUS_CUDA

#include "base/philox.h"
#include "cli/gpu_bench.h"
#include "ops/attention.h"

namespace nereus::bench {
namespace {

struct AttentionCase {
  std::string name;
  ops::AttentionMask mask = ops::AttentionMask::causal;
  int64_t documents = 0;  // of a sequence, of random lengths; 0: none end
  int64_t rows = B, sequence = S;
  int64_t keys = 0, begin = 0;  // a chunk of queries: the keys of a row, and where the chunk begins
  ops::AttentionKernels kernels = {};
};

// The first key of each query, and how many (query, key) pairs a head has.
std::vector<int32_t> first_keys(const AttentionCase& c, double& pairs) {
  const int64_t keys = c.keys > 0 ? c.keys : c.sequence;
  std::vector<int32_t> first;
  pairs = 0;
  for (int64_t k = 0, start = 0; k < c.rows * keys; ++k) {
    const int64_t position = k % keys;
    if (position == 0 ||
        (c.documents > 0 &&
         philox(1, static_cast<uint64_t>(k)).v[0] % (c.sequence / c.documents) == 0))
      start = k;
    if (position < c.begin || position >= c.begin + c.sequence) continue;
    first.push_back(static_cast<int32_t>(start));
    pairs += d(k + 1 - start);
  }
  return first;
}

void attention_case(Bench& bench, const AttentionCase& c) {
  const std::string name =
      fmt::format("attention 192/128 {} {}x{}x128", c.name, c.rows, c.sequence);
  if (!bench.wanted(name)) return;
  const int64_t tokens = c.rows * c.sequence, keys = c.keys > 0 ? c.rows * c.keys : tokens;
  const auto heads = [&](int64_t count, int64_t width) {
    return bench.random(DType::bf16, {count, H, width});
  };
  const TensorView q = heads(tokens, kHead), k = heads(keys, kHead),
                   kv = heads(keys, kNope + kValue), dout = heads(tokens, kValue),
                   o = heads(tokens, kValue), dq = heads(tokens, kHead), dk = heads(keys, kHead),
                   dkv = heads(keys, kNope + kValue),
                   lse = bench.tensor(DType::f32, {c.rows, H, c.sequence}),
                   delta = bench.tensor(DType::f32, {c.rows, H, c.sequence});
  double pairs = 0;
  const TensorView first_key = bench.integers(first_keys(c, pairs), {tokens});
  Stream& s = bench.stream();
  pairs *= 2 * d(H);
  if (!c.kernels.unordered)
    bench.run(name + " forward", pairs * d(kHead + kValue), 0, [&] {
      ops::attention_forward(s, {.o = o,
                                 .lse = lse,
                                 .q = q,
                                 .k = k,
                                 .v = kv.columns(kNope, kNope + kValue),
                                 .first_key = first_key,
                                 .sequence = c.sequence,
                                 .scale = 0.07f,
                                 .mask = c.mask,
                                 .kernels = c.kernels,
                                 .key_sequence = c.keys,
                                 .chunk_start = c.begin});
    });
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
                                  .sequence = c.sequence,
                                  .scale = 0.07f,
                                  .mask = c.mask,
                                  .kernels = c.kernels,
                                  .key_sequence = c.keys,
                                  .chunk_start = c.begin};
  const int64_t workspace = ops::attention_backward_workspace(s, backward);
  if (workspace > 0) backward.workspace = bench.tensor(DType::u8, {workspace});
  bench.run(name + " backward", pairs * d(3 * kHead + 2 * kValue), 0,
            [&] { ops::attention_backward(s, backward); });
  bench.clear();
}

}  // namespace

void attention(Bench& bench) {
  constexpr auto kDocuments = ops::AttentionMask::document;
  const std::vector<AttentionCase> cases = {
      {.name = "causal"},
      {.name = "causal, cuDNN", .kernels = {.cudnn = true}},
      {.name = "causal, cuDNN, unordered", .kernels = {.cudnn = true, .unordered = true}},
      {.name = "causal", .rows = 1},
      {.name = "causal", .rows = 1, .sequence = 16384},
      {.name = "causal", .rows = 1, .sequence = 32768},
      {.name = "as one document", .mask = kDocuments},
      {.name = "2 documents", .mask = kDocuments, .documents = 2},
      {.name = "4 documents", .mask = kDocuments, .documents = 4},
      {.name = "8 documents", .mask = kDocuments, .documents = 8},
      {.name = "64 documents", .mask = kDocuments, .documents = 64},
      {.name = "chunk of 4096 from 2048", .sequence = 2048, .keys = 4096, .begin = 2048},
      {.name = "chunk of 16384 from 4096", .rows = 1, .keys = 16384, .begin = 4096},
      {.name = "chunk of 16384 from 8192", .rows = 1, .keys = 16384, .begin = 8192},
      {.name = "chunk of 16384 from 12288", .rows = 1, .keys = 16384, .begin = 12288}};
  for (const AttentionCase& c : cases) attention_case(bench, c);
}

}  // namespace nereus::bench

#endif
