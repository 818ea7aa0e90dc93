#include "cli/bench_gpu.h"

#include <fmt/format.h>

#include <cstdio>
#include <vector>

#include "base/check.h"
#include "cli/command.h"
#include "cli/gpu_bench.h"
#include "device/cuda_runtime.h"
#include "device/device.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/mla.h"
#include "ops/optimizer.h"
#include "ops/permute.h"
#include "ops/rmsnorm.h"
#include "ops/router.h"
#include "ops/swiglu.h"
#include "parallel/host_states.h"

namespace nereus {

#ifndef NEREUS_CUDA

int run_bench_gpu(int, char**) {
  NEREUS_FAIL(kConfig,
              "nereus bench gpu: this program was built without GPU code (make PRESET=cuda builds "
              "it)");
}

#else

namespace {

using namespace bench;

void norms(Bench& bench) {
  if (!bench.wanted("rmsnorm")) return;
  Stream& s = bench.stream();
  const auto run = [&](int64_t width, int64_t stride, bool residual) {
    const TensorView wide = bench.random(DType::bf16, {T, stride});
    const TensorView x = wide.columns(0, width), more = bench.random(DType::bf16, {T, width}),
                     y = bench.tensor(DType::bf16, {T, width}),
                     sum = bench.tensor(DType::bf16, {T, width}),
                     dx = bench.tensor(DType::bf16, {T, stride}).columns(0, width),
                     rstd = bench.tensor(DType::f32, {T}), w = bench.random(DType::f32, {width}),
                     dw = bench.tensor(DType::f32, {width});
    const double bytes = 2 * d(T) * d(width);
    bench.run(fmt::format("rmsnorm {} forward{}", width, residual ? ", with residual" : ""), 0,
              bytes * (residual ? 4 : 2), [&] {
                ops::rmsnorm_forward(s, {.y = y,
                                         .rstd = rstd,
                                         .sum = residual ? sum : TensorView(),
                                         .x = x,
                                         .addend = residual ? more : TensorView(),
                                         .weight = w,
                                         .eps = 1e-6f});
              });
    bench.run(fmt::format("rmsnorm {} backward{}", width, residual ? ", with residual" : ""), 0,
              bytes * (residual ? 4 : 3), [&] {
                ops::rmsnorm_backward(s, {.dx = dx,
                                          .dweight = dw,
                                          .dy = more,
                                          .x = x,
                                          .residual = residual ? sum : TensorView(),
                                          .weight = w,
                                          .rstd = rstd});
              });
    bench.clear();
  };
  run(D, D, true);
  run(kQ, kLatent, false);
  run(kKv, kLatent, false);

  // Both latents' norms, as a layer calls them.
  const TensorView latent = bench.random(DType::bf16, {T, kLatent}),
                   dlatent = bench.tensor(DType::bf16, {T, kLatent});
  struct One {
    int64_t begin, end;
    TensorView y, dy, rstd, weight, dweight;
  };
  const auto one = [&](int64_t begin, int64_t end) {
    return One{begin,
               end,
               bench.tensor(DType::bf16, {T, end - begin}),
               bench.random(DType::bf16, {T, end - begin}),
               bench.tensor(DType::f32, {T}),
               bench.random(DType::f32, {end - begin}),
               bench.tensor(DType::f32, {end - begin})};
  };
  const One q = one(0, kQ), kv = one(kQ, kQ + kKv);
  const auto forward = [&](const One& o) {
    return ops::RmsNormForward{.y = o.y,
                               .rstd = o.rstd,
                               .x = latent.columns(o.begin, o.end),
                               .weight = o.weight,
                               .eps = 1e-6f};
  };
  const auto backward = [&](const One& o) {
    return ops::RmsNormBackward{.dx = dlatent.columns(o.begin, o.end),
                                .dweight = o.dweight,
                                .dy = o.dy,
                                .x = latent.columns(o.begin, o.end),
                                .weight = o.weight,
                                .rstd = o.rstd};
  };
  const double bytes = 2 * d(T) * d(kQ + kKv);
  bench.run("rmsnorm 1536 and 512 forward", 0, 2 * bytes,
            [&] { ops::rmsnorm_pair_forward(s, {.first = forward(q), .second = forward(kv)}); });
  bench.run("rmsnorm 1536 and 512 backward", 0, 3 * bytes,
            [&] { ops::rmsnorm_pair_backward(s, {.first = backward(q), .second = backward(kv)}); });
  bench.clear();
}

void experts(Bench& bench) {
  if (!bench.wanted("experts")) return;
  Stream& s = bench.stream();
  const int64_t R = T * K;
  const TensorView logits = bench.random(DType::bf16, {T, E}),
                   x = bench.random(DType::bf16, {T, D}), rows = bench.tensor(DType::bf16, {R, D}),
                   y = bench.tensor(DType::bf16, {T, D}),
                   weights = bench.tensor(DType::f32, {T, K}),
                   ids = bench.tensor(DType::i32, {T, K}),
                   scores = bench.tensor(DType::f32, {T, E}), load = bench.tensor(DType::i64, {E}),
                   row_of_slot = bench.tensor(DType::i32, {T, K}),
                   slot_of_row = bench.tensor(DType::i32, {R}),
                   offsets = bench.tensor(DType::i32, {E + 1}),
                   gathered = bench.tensor(DType::f32, {R}),
                   gate_up = bench.random(DType::bf16, {R, 2 * F}),
                   act = bench.random(DType::bf16, {R, F});
  bench.run("experts router", 0, d(T) * d(E) * 6 + d(T * K) * 8, [&] {
    ops::router_forward(s, {.weights = weights,
                            .ids = ids,
                            .scores = scores,
                            .load = load,
                            .logits = logits,
                            .rule = {.normalize = true}});
  });
  bench.run("experts plan", 0, d(R) * 12, [&] {
    ops::permute_plan(
        s,
        {.row_of_slot = row_of_slot, .slot_of_row = slot_of_row, .offsets = offsets, .ids = ids});
  });
  bench.run("experts permute", 0, 2 * d(D) * d(T + R),
            [&] { ops::permute(s, {.rows = rows, .x = x, .row_of_slot = row_of_slot}); });
  bench.run("experts combine", 0, 2 * d(D) * d(R + 2 * T), [&] {
    ops::combine(s, {.out = y, .rows = rows, .row_of_slot = row_of_slot, .addend = x});
  });
  bench.run("experts weights", 0, 12 * d(R),
            [&] { ops::gather_scalars(s, {.out = gathered, .x = weights, .index = slot_of_row}); });
  bench.run("experts swiglu forward", 0, 2 * d(R) * d(3 * F), [&] {
    ops::swiglu_forward(
        s, {.y = act, .gate_up = gate_up, .row_weight = gathered, .rows = offsets.rows(E, E + 1)});
  });
  bench.run("experts swiglu backward", 0, 2 * d(R) * d(5 * F), [&] {
    ops::swiglu_backward(s, {.dgate_up = gate_up,
                             .drow_weight = gathered,
                             .dy = act,
                             .gate_up = gate_up,
                             .row_weight = gathered,
                             .rows = offsets.rows(E, E + 1)});
  });
  bench.clear();
}

void latents(Bench& bench) {
  if (!bench.wanted("mla")) return;
  Stream& s = bench.stream();
  const TensorView q = bench.random(DType::bf16, {T, H, kHead}),
                   k = bench.random(DType::bf16, {T, H, kHead}),
                   kv = bench.random(DType::bf16, {T, H, kNope + kValue}),
                   latent = bench.random(DType::bf16, {T, kLatent}),
                   cos = bench.random(DType::f32, {S, kRope / 2}),
                   sin = bench.random(DType::f32, {S, kRope / 2});
  std::vector<int32_t> host(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t) host[static_cast<size_t>(t)] = static_cast<int32_t>(t % S);
  const TensorView positions = bench.integers(host, {T});
  const double bytes = 2 * d(T * H) * d(2 * kRope + kNope + kHead);
  bench.run("mla assemble", 0, bytes, [&] {
    ops::mla_assemble(s, {.q = q,
                          .k = k,
                          .k_nope = kv.columns(0, kNope),
                          .k_pe = latent.columns(kQ + kKv, kLatent),
                          .cos = cos,
                          .sin = sin,
                          .positions = positions});
  });
  bench.run("mla assemble backward", 0, bytes, [&] {
    ops::mla_assemble_backward(s, {.dq = q,
                                   .dk_nope = kv.columns(0, kNope),
                                   .dk_pe = latent.columns(kQ + kKv, kLatent),
                                   .dk = k,
                                   .cos = cos,
                                   .sin = sin,
                                   .positions = positions});
  });
  bench.clear();
}

void head_and_embedding(Bench& bench) {
  Stream& s = bench.stream();
  std::vector<int32_t> host(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t)
    host[static_cast<size_t>(t)] = static_cast<int32_t>((t * 7919 + t / 3) % V);
  if (bench.wanted("cross entropy")) {
    const int64_t rows = 4096;
    const TensorView logits = bench.random(DType::bf16, {rows, V}),
                     nll = bench.tensor(DType::f32, {rows}),
                     labels = bench.integers(host, {T}).rows(0, rows);
    bench.run("cross entropy 4096x16160", 0, 4 * d(rows) * d(V), [&] {
      ops::cross_entropy(s, {.logits = logits, .nll = nll, .labels = labels, .scale = 1e-4f});
    });
    bench.clear();
  }
  if (bench.wanted("embedding")) {
    const TensorView ids = bench.integers(host, {T}), table = bench.random(DType::bf16, {V, D}),
                     out = bench.random(DType::bf16, {T, D}),
                     grad = bench.tensor(DType::f32, {V, D});
    bench.run("embedding forward", 0, 4 * d(T) * d(D),
              [&] { ops::embedding_forward(s, {.out = out, .table = table, .ids = ids}); });
    bench.run("embedding backward", 0, 2 * d(T) * d(D) + 4 * d(V) * d(D),
              [&] { ops::embedding_backward(s, {.dtable = grad, .dy = out, .ids = ids}); });
    bench.clear();
  }
}

void memory(Bench& bench) {
  Stream& s = bench.stream();
  if (bench.wanted("copy")) {
    const int64_t bytes = int64_t{2} << 30;
    const TensorView a = bench.tensor(DType::u8, {bytes}), b = bench.tensor(DType::u8, {bytes});
    bench.run("copy of 2 GiB", 0, 2 * d(bytes),
              [&] { cuda::copy_async(a.data, b.data, bytes, s.native()); });
    bench.clear();
  }
  if (bench.wanted("add")) {
    const TensorView a = bench.random(DType::bf16, {T, D}), b = bench.random(DType::bf16, {T, D}),
                     c = bench.tensor(DType::bf16, {T, D});
    bench.run("add 16384x7168", 0, 6 * d(T) * d(D),
              [&] { ops::add(s, {.out = c, .a = a, .b = b}); });
    bench.clear();
  }
  if (!bench.wanted("adam") && !bench.wanted("norm of gradients")) return;
  const int64_t n = int64_t{1} << 30;
  const TensorView p = bench.random(DType::f32, {n}), m = bench.tensor(DType::f32, {n}),
                   v = bench.tensor(DType::f32, {n}), g = bench.random(DType::f32, {n}),
                   copy = bench.tensor(DType::bf16, {n}), remainder = bench.tensor(DType::i16, {n}),
                   norm = bench.tensor(DType::f32, {64}),
                   coefficient = bench.tensor(DType::f32, {64}),
                   ok = bench.integers(std::vector<int32_t>(64, 1), {64}),
                   sum = bench.tensor(DType::f64, {64});
  bench.run("norm of gradients, 2^30", 0, 4 * d(n),
            [&] { ops::sum_squares(s, {.out = sum.rows(0, 1), .x = g}); });
  ops::clip_coefficient(s, {.norm = norm.rows(0, 1),
                            .coefficient = coefficient.rows(0, 1),
                            .step_ok = ok.rows(0, 1),
                            .sum_squares = sum.rows(0, 1)});
  ops::Adam adam{.param = p,
                 .m = m,
                 .v = v,
                 .copy = copy,
                 .grad = g,
                 .coefficient = coefficient.rows(0, 1),
                 .step_ok = ok.rows(0, 1),
                 .lr = 1e-4,
                 .beta1 = 0.9,
                 .beta2 = 0.95,
                 .eps = 1e-8,
                 .weight_decay = 0.1};
  bench.run("adam, 2^30 parameters", 0, 30 * d(n), [&] { ops::adam(s, adam); });
  adam.param = {};
  adam.remainder = remainder;
  bench.run("adam with split masters, 2^30", 0, 28 * d(n), [&] { ops::adam(s, adam); });
  // As ParameterStore does it; what bounds it is the way to the host, 8 bytes in each direction.
  const int64_t few = n / 8;
  if (bench.wanted("adam with moments in host memory")) {
    HostStates moments(s.device(), few, {{DType::f32, "moments"}, {DType::f32, "moments"}},
                       HostStates::kChunk);
    bench.run("adam with moments in host memory, 2^27", 0, 30 * d(few), [&] {
      moments.visit(s, 0, few, true, [&](int64_t first, const std::vector<TensorView>& chunk) {
        const int64_t end = first + chunk[0].count();
        adam.param = p.rows(first, end);
        adam.remainder = {};
        adam.copy = copy.rows(first, end);
        adam.grad = g.rows(first, end);
        adam.m = chunk[0];
        adam.v = chunk[1];
        ops::adam(s, adam);
      });
    });
  }
  bench.clear();
}

}  // namespace

int run_bench_gpu(int argc, char** argv) {
  std::string filter;
  int repeats = 20;
  bool tuning = false, every_tile = false;
  CLI::App app("Times the GPU's ops at the sizes of configs/slice1.toml", "nereus bench gpu");
  app.add_option("--filter", filter, "only cases whose name contains this");
  app.add_option("--repeats", repeats, "runs of each; the median is printed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_flag("--tune", tuning, "print the table of faster algorithms, src/ops/matmul_tuned.inc");
  app.add_flag("--grouped-tiles", every_tile,
               "time the experts' GEMMs with every tile, for src/ops/grouped_tuned.inc");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  Bench bench(filter, repeats);
  if (tuning) {
    tune_gemms(bench);
    return 0;
  }
  fmt::print("{}; share of {:.0f} TFLOP/s or {:.1f} TB/s; median of {}\n", cuda::properties(0).name,
             kFlopsLimit / 1e12, kBytesLimit / 1e12, repeats);
  memory(bench);
  norms(bench);
  latents(bench);
  experts(bench);
  head_and_embedding(bench);
  attention(bench);
  dense_gemms(bench);
  grouped_gemms(bench, every_tile);
  return 0;
}

#endif

}  // namespace nereus
