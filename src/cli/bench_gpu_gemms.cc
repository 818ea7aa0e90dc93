#ifdef NEREUS_CUDA

#include "cli/gpu_bench.h"
#include "ops/grouped_cutlass.h"
#include "ops/grouped_matmul.h"
#include "ops/matmul.h"
#include "ops/matmul_general.h"

namespace nereus::bench {
namespace {

void dense(Bench& bench, const char* what, int64_t M, int64_t N, int64_t inner) {
  const std::string name = fmt::format("matmul {} {}x{}x{}", what, M, N, inner);
  if (!bench.wanted(name)) return;
  const TensorView x = bench.random(DType::bf16, {M, inner}), y = bench.random(DType::bf16, {M, N}),
                   w = bench.random(DType::bf16, {N, inner}, 0.02f),
                   dw = bench.tensor(DType::f32, {N, inner});
  const double flops = 2 * d(M) * d(N) * d(inner);
  Stream& s = bench.stream();
  bench.run(name + " forward", flops, 0,
            [&] { ops::matmul(s, {.out = y, .a = x, .b = w, .trans_b = true}); });
  const TensorView dy = bench.random(DType::bf16, {M, N});
  bench.run(name + " dgrad", flops, 0, [&] { ops::matmul(s, {.out = x, .a = dy, .b = w}); });
  const TensorView again = bench.random(DType::bf16, {M, inner});
  bench.run(name + " wgrad", flops, 0,
            [&] { ops::matmul(s, {.out = dw, .a = dy, .b = again, .trans_a = true}); });
  bench.run(name + " wgrad, accumulating", flops, 0, [&] {
    ops::matmul(s, {.out = dw, .a = dy, .b = again, .trans_a = true, .accumulate = true});
  });
  bench.clear();
}

// The slice's dense GEMMs: what, rows, outputs, inputs.
template <class Visit>
void for_dense_shapes(Visit&& f) {
  f("latents", T, kLatent, D);
  f("q up", T, H * kHead, kQ);
  f("kv up", T, H * (kNope + kValue), kKv);
  f("attention out", T, D, H * kValue);
  f("dense gate_up", T, 2 * kInter, D);
  f("dense down", T, D, kInter);
  f("shared gate_up", T, 2 * F, D);
  f("shared down", T, D, F);
  f("router", T, E, D);
  f("head", 4096, V, D);
}

// Times the algorithms that cuBLASLt proposes, by turns, so that all have the device equally warm.
void tune(Bench& bench, int64_t M, int64_t N, int64_t inner) {
  Stream& s = bench.stream();
  const TensorView x = bench.random(DType::bf16, {M, inner}), y = bench.random(DType::bf16, {M, N}),
                   w = bench.random(DType::bf16, {N, inner}, 0.02f),
                   dw = bench.tensor(DType::f32, {N, inner}),
                   out = bench.tensor(DType::bf16, {M, std::max(N, inner)});
  const ops::Matmul passes[] = {
      {.out = TensorView(out.data, DType::bf16, {M, N}), .a = x, .b = w, .trans_b = true},
      {.out = TensorView(out.data, DType::bf16, {M, inner}), .a = y, .b = w},
      {.out = dw, .a = y, .b = x, .trans_a = true},
      {.out = dw, .a = y, .b = x, .trans_a = true, .accumulate = true}};
  for (const ops::Matmul& pass : passes) {
    const size_t count = ops::cuda::matmul_algorithms(s, pass);
    std::vector<std::vector<double>> seconds(count);
    constexpr int kRounds = 7;
    for (int round = 0; round < kRounds; ++round) {
      for (size_t i = 0; i < count; ++i) {
        ops::cuda::choose_algorithm(s, pass, i);
        seconds[i].push_back(bench.time(3, [&] { ops::matmul(s, pass); }));
      }
    }
    size_t best = 0;
    for (auto& times : seconds)
      std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    for (size_t i = 1; i < count; ++i)
      if (seconds[i][kRounds / 2] < seconds[best][kRounds / 2]) best = i;
    const double gain = seconds[0][kRounds / 2] / seconds[best][kRounds / 2];
    if (gain < 1.01) continue;
    fmt::print("{{{}, {}, {}, {}, {}, {}, {}, {}}},  // {:.1f} % faster\n", pass.out.dim(0),
               pass.out.dim(1), pass.a.dim(pass.trans_a ? 0 : 1), pass.trans_a, pass.trans_b,
               pass.out.dtype == DType::f32, pass.accumulate, best, 100 * (gain - 1));
    std::fflush(stdout);
  }
  bench.clear();
}

std::vector<int32_t> offsets_of(int64_t rows, const std::string& kind) {
  std::vector<int32_t> out{0};
  for (int64_t e = 0; e < E; ++e) {
    int64_t n = rows / E;
    if (kind == "half in one") n = e == 3 ? rows / 2 : rows / 2 / (E - 1);
    if (kind == "uneven") n = rows / E + (e % 2 == 0 ? 1 : -1) * (rows / E / 7 + e);
    out.push_back(out.back() + static_cast<int32_t>(n));
  }
  return out;
}

constexpr std::pair<ops::cuda::GroupedTile, const char*> kTiles[] = {
    {ops::cuda::GroupedTile::standard, "128x256 weights shared"},
    {ops::cuda::GroupedTile::tall, "256x128 weights shared"},
    {ops::cuda::GroupedTile::wide, "128x256 rows shared"}};

void grouped(Bench& bench, int64_t rows, const std::string& kind, int64_t N, int64_t inner,
             bool every_tile) {
  const std::string name = fmt::format("grouped {}x{} {}x{} {}", E, rows / E, N, inner, kind);
  if (!bench.wanted(name)) return;
  const std::vector<int32_t> host = offsets_of(rows, kind);
  const TensorView offsets = bench.integers(host, {E + 1});
  const TensorView x = bench.random(DType::bf16, {rows, inner}),
                   dy = bench.random(DType::bf16, {rows, N}),
                   out = bench.tensor(DType::bf16, {rows, std::max(N, inner)}),
                   w = bench.random(DType::bf16, {E, N, inner}, 0.02f),
                   dw = bench.tensor(DType::f32, {E, N, inner});
  const double flops = 2 * d(host.back()) * d(N) * d(inner);
  Stream& s = bench.stream();
  const TensorView y(out.data, DType::bf16, {rows, N}), dx(out.data, DType::bf16, {rows, inner});
  const auto forward = [&] {
    ops::grouped_matmul(s, {.out = y, .a = x, .b = w, .offsets = offsets, .trans_b = true});
  };
  const auto dgrad = [&] {
    ops::grouped_matmul(s, {.out = dx, .a = dy, .b = w, .offsets = offsets});
  };
  bench.run(name + " forward", flops, 0, forward);
  bench.run(name + " dgrad", flops, 0, dgrad);
  if (every_tile) {
    for (const auto& [tile, what] : kTiles) {
      ops::cuda::force_grouped_tile(s, tile);
      bench.run(fmt::format("{} forward, {}", name, what), flops, 0, forward);
      bench.run(fmt::format("{} dgrad, {}", name, what), flops, 0, dgrad);
    }
    ops::cuda::force_grouped_tile(s, std::nullopt);
  }
  bench.run(name + " wgrad", flops, 0,
            [&] { ops::grouped_wgrad(s, {.out = dw, .dy = dy, .x = x, .offsets = offsets}); });
  // The same as a loop of dense GEMMs, whose sizes the host would have to know.
  bench.run(name + " forward, cuBLASLt loop", flops, 0, [&] {
    for (int64_t e = 0; e < E; ++e)
      ops::matmul(s, {.out = y.rows(host[static_cast<size_t>(e)], host[static_cast<size_t>(e + 1)]),
                      .a = x.rows(host[static_cast<size_t>(e)], host[static_cast<size_t>(e + 1)]),
                      .b = w[e],
                      .trans_b = true});
  });
  bench.run(name + " wgrad, cuBLASLt loop", flops, 0, [&] {
    for (int64_t e = 0; e < E; ++e)
      ops::matmul(s, {.out = dw[e],
                      .a = dy.rows(host[static_cast<size_t>(e)], host[static_cast<size_t>(e + 1)]),
                      .b = x.rows(host[static_cast<size_t>(e)], host[static_cast<size_t>(e + 1)]),
                      .trans_a = true});
  });
  bench.clear();
}

}  // namespace

void dense_gemms(Bench& bench) {
  for_dense_shapes([&](const char* what, int64_t M, int64_t N, int64_t inner) {
    dense(bench, what, M, N, inner);
  });
}

void tune_gemms(Bench& bench) {
  for_dense_shapes(
      [&](const char*, int64_t M, int64_t N, int64_t inner) { tune(bench, M, N, inner); });
}

void grouped_gemms(Bench& bench, bool every_tile) {
  for (const char* kind : {"even", "uneven", "half in one"}) {
    for (const int64_t rows : {E * 8192, E * 2048}) {
      grouped(bench, rows, kind, 2 * F, D, every_tile);
      grouped(bench, rows, kind, D, F, every_tile);
    }
  }
}

}  // namespace nereus::bench

#endif
