#include "cli/bench_gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "base/check.h"
#include "cli/command.h"
#include "device/cuda_runtime.h"
#include "device/device.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/grouped_matmul.h"
#include "ops/init.h"
#include "ops/matmul.h"
#include "ops/matmul_general.h"
#include "ops/mla.h"
#include "ops/optimizer.h"
#include "ops/permute.h"
#include "ops/rmsnorm.h"
#include "ops/router.h"
#include "ops/swiglu.h"

namespace nereus {

#ifndef NEREUS_CUDA

int run_bench_gpu(int, char**) {
  NEREUS_FAIL(kConfig,
              "nereus bench gpu: this program was built without GPU code (make PRESET=cuda builds "
              "it)");
}

#else

namespace {

// The slice's sizes: configs/slice1.toml.
constexpr int64_t B = 4, S = 4096, T = B * S, D = 7168, H = 128, kNope = 128, kRope = 64,
                  kValue = 128, kHead = kNope + kRope, kQ = 1536, kKv = 512,
                  kLatent = kQ + kKv + kRope, kInter = 18432, F = 2048, E = 16, K = 8, V = 16160;
constexpr double kFlopsLimit = 790e12, kBytesLimit = 2.9e12;

class Bench {
 public:
  Bench(const std::string& filter, int repeats)
      : filter_(filter),
        repeats_(repeats),
        stream_(Device::cuda(0)),
        begin_(cuda::make_event(true)),
        end_(cuda::make_event(true)) {}
  ~Bench() {
    cuda::destroy_event(begin_);
    cuda::destroy_event(end_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  Stream& stream() { return stream_; }
  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }
  void clear() { buffers_.clear(); }

  TensorView tensor(DType dtype, const Shape& shape) {
    buffers_.emplace_back(stream_.device(), shape.count() * size_of(dtype), "a benchmark");
    return TensorView(buffers_.back().data(), dtype, shape);
  }
  // Normal numbers: constant ones need less power and run faster.
  TensorView random(DType dtype, const Shape& shape, float std = 1) {
    const TensorView all = tensor(dtype, shape);
    const TensorView flat = all.reshape({shape.count()});
    constexpr int64_t kPiece = int64_t{1} << 26;
    const Buffer piece(stream_.device(), 4 * std::min(kPiece, flat.count()), "a benchmark");
    for (int64_t i = 0; i < flat.count(); i += kPiece) {
      const int64_t n = std::min(kPiece, flat.count() - i);
      const TensorView x(piece.data(), DType::f32, {n});
      ops::init_normal(stream_, {.out = x, .seed = 1, .stream = ++seed_, .std = std});
      ops::cast(stream_, {.out = flat.rows(i, i + n), .x = x});
    }
    stream_.synchronize();
    return all;
  }
  TensorView integers(const std::vector<int32_t>& values, const Shape& shape) {
    const TensorView out = tensor(DType::i32, shape);
    copy_to_device(stream_, out, values.data());
    stream_.synchronize();
    return out;
  }

  // Seconds of one of `count` calls in a row.
  double time(int count, const std::function<void()>& op) {
    cuda::record_event(begin_, stream_.native());
    for (int i = 0; i < count; ++i) op();
    cuda::record_event(end_, stream_.native());
    cuda::synchronize_event(end_);
    return static_cast<double>(cuda::milliseconds_between(begin_, end_)) / 1e3 / count;
  }

  // The median of `repeats` runs, each timed by itself.
  void run(const std::string& name, double flops, double bytes, const std::function<void()>& op) {
    for (int i = 0; i < 3; ++i) op();
    std::vector<float> ms;
    for (int i = 0; i < repeats_; ++i) {
      cuda::record_event(begin_, stream_.native());
      op();
      cuda::record_event(end_, stream_.native());
      cuda::synchronize_event(end_);
      ms.push_back(cuda::milliseconds_between(begin_, end_));
    }
    std::nth_element(ms.begin(), ms.begin() + repeats_ / 2, ms.end());
    const double seconds = static_cast<double>(ms[ms.size() / 2]) / 1e3;
    const double floor = std::max(flops / kFlopsLimit, bytes / kBytesLimit);
    const std::string rate = flops > 0 ? fmt::format("{:7.0f} TFLOP/s", flops / seconds / 1e12)
                                       : fmt::format("{:7.0f} GB/s   ", bytes / seconds / 1e9);
    fmt::print("{:<52} {:10.1f} us {} {:5.1f} %\n", name, seconds * 1e6, rate,
               100 * floor / seconds);
    std::fflush(stdout);
  }

 private:
  std::string filter_;
  int repeats_;
  Stream stream_;
  void *begin_, *end_;
  uint64_t seed_ = 0;
  std::vector<Buffer> buffers_;
};

double d(int64_t n) { return static_cast<double>(n); }

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

// The slice's dense products: what, rows, outputs, inputs.
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

void grouped(Bench& bench, int64_t rows, const std::string& kind, int64_t N, int64_t inner) {
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
  bench.run(name + " forward", flops, 0, [&] {
    ops::grouped_matmul(s, {.out = y, .a = x, .b = w, .offsets = offsets, .trans_b = true});
  });
  bench.run(name + " dgrad", flops, 0,
            [&] { ops::grouped_matmul(s, {.out = dx, .a = dy, .b = w, .offsets = offsets}); });
  bench.run(name + " wgrad", flops, 0,
            [&] { ops::grouped_wgrad(s, {.out = dw, .dy = dy, .x = x, .offsets = offsets}); });
  // The same as a loop of dense products, whose sizes the host would have to know.
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

void attention(Bench& bench) {
  const std::string name = "attention 192/128 causal 4x4096x128";
  if (!bench.wanted(name)) return;
  const auto heads = [&](int64_t width) { return bench.random(DType::bf16, {T, H, width}); };
  const TensorView q = heads(kHead), k = heads(kHead), kv = heads(kNope + kValue),
                   dout = heads(kValue), o = heads(kValue), dq = heads(kHead), dk = heads(kHead),
                   dkv = heads(kNope + kValue), lse = bench.tensor(DType::f32, {B, H, S}),
                   delta = bench.tensor(DType::f32, {B, H, S});
  std::vector<int32_t> first(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t) first[static_cast<size_t>(t)] = static_cast<int32_t>(t - t % S);
  const TensorView first_key = bench.integers(first, {T});
  Stream& s = bench.stream();
  const double pair = d(B * H) * d(S) * d(S);  // half of them, times two operations
  bench.run(name + " forward", pair * d(kHead + kValue), 0, [&] {
    ops::attention_forward(s, {.o = o,
                               .lse = lse,
                               .q = q,
                               .k = k,
                               .v = kv.columns(kNope, kNope + kValue),
                               .first_key = first_key,
                               .sequence = S,
                               .scale = 0.07f});
  });
  for (const bool unordered : {false, true}) {
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
                                    .unordered = unordered,
                                    .workspace = {}};
    const int64_t workspace = ops::attention_backward_workspace(s, backward);
    if (workspace > 0) backward.workspace = bench.tensor(DType::u8, {workspace});
    bench.run(name + (unordered ? " backward, unordered" : " backward"),
              pair * d(3 * kHead + 2 * kValue), 0, [&] { ops::attention_backward(s, backward); });
  }
  bench.clear();
}

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
                            .bias = {},
                            .rule = {.normalize = true}});
  });
  bench.run("experts plan", 0, d(R) * 12, [&] {
    ops::permute_plan(
        s,
        {.row_of_slot = row_of_slot, .slot_of_row = slot_of_row, .offsets = offsets, .ids = ids});
  });
  bench.run("experts permute", 0, 2 * d(D) * d(T + R), [&] {
    ops::permute(s, {.rows = rows, .x = x, .row_of_slot = row_of_slot, .weights = {}});
  });
  bench.run("experts combine", 0, 2 * d(D) * d(R + 2 * T), [&] {
    ops::combine(s,
                 {.out = y, .rows = rows, .row_of_slot = row_of_slot, .weights = {}, .addend = x});
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
                   copy = bench.tensor(DType::bf16, {n}), norm = bench.tensor(DType::f32, {64}),
                   coefficient = bench.tensor(DType::f32, {64}),
                   ok = bench.integers(std::vector<int32_t>(64, 1), {64}),
                   sum = bench.tensor(DType::f64, {64});
  bench.run("norm of gradients, 2^30", 0, 4 * d(n),
            [&] { ops::sum_squares(s, {.out = sum.rows(0, 1), .x = g}); });
  ops::clip_coefficient(s, {.norm = norm.rows(0, 1),
                            .coefficient = coefficient.rows(0, 1),
                            .step_ok = ok.rows(0, 1),
                            .sum_squares = sum.rows(0, 1)});
  bench.run("adam, 2^30 parameters", 0, 30 * d(n), [&] {
    ops::adam(s, {.param = p,
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
                  .weight_decay = 0.1});
  });
  bench.clear();
}

}  // namespace

int run_bench_gpu(int argc, char** argv) {
  std::string filter;
  int repeats = 20;
  bool tuning = false;
  CLI::App app("Times the GPU's ops at the sizes of configs/slice1.toml", "nereus bench gpu");
  app.add_option("--filter", filter, "only cases whose name contains this");
  app.add_option("--repeats", repeats, "runs of each; the median is printed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_flag("--tune", tuning, "print the table of faster algorithms, src/ops/matmul_tuned.inc");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  Bench bench(filter, repeats);
  if (tuning) {
    for_dense_shapes([&](const char*, int64_t M, int64_t N, int64_t K) { tune(bench, M, N, K); });
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
  for_dense_shapes(
      [&](const char* what, int64_t M, int64_t N, int64_t K) { dense(bench, what, M, N, K); });
  for (const char* kind : {"even", "uneven", "half in one"}) {
    for (const int64_t rows : {E * 8192, E * 2048}) {
      grouped(bench, rows, kind, 2 * F, D);
      grouped(bench, rows, kind, D, F);
    }
  }
  return 0;
}

#endif

}  // namespace nereus
