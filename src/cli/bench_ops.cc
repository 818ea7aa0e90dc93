#include "cli/bench_ops.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/philox.h"
#include "cli/command.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/grouped_matmul.h"
#include "ops/matmul.h"

namespace nereus {
namespace {

struct Options {
  int threads = 2;
  std::string filter;
  bool cpu = true;  // the only choice here: bench.cc sees to the other
  bool quick = false;
};

// OpenBLAS for comparison, where the machine has it (package libopenblas0-pthread): the program
// itself does not need it.
class OpenBlas {
 public:
  OpenBlas() {
    void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    set_threads_ = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
    sgemm_ = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
  }
  bool found() const { return sgemm_ != nullptr && set_threads_ != nullptr; }
  void set_threads(int n) const { set_threads_(n); }

  // c[m,n] = op(a) op(b) (+ c), as ops::matmul.
  void sgemm(float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
             bool trans_a, const float* b, int64_t ldb, bool trans_b, bool accumulate) const {
    constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
    const auto i32 = [](int64_t x) { return static_cast<int>(x); };
    sgemm_(kRowMajor, trans_a ? kTransposed : kPlain, trans_b ? kTransposed : kPlain, i32(m),
           i32(n), i32(k), 1.0f, a, i32(lda), b, i32(ldb), accumulate ? 1.0f : 0.0f, c, i32(ldc));
  }

 private:
  using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                         float, float*, int);
  void (*set_threads_)(int) = nullptr;
  Sgemm sgemm_ = nullptr;
};

struct Case {
  std::string op, shape;
  double flops = 0, bytes = 0;     // of one call, counted by hand; bytes where memory is the limit
  std::function<void()> run;       // ours
  std::function<void()> openblas;  // the same GEMM by OpenBLAS with its own threads, or nothing
};

// What the ops of the program run on, and the memory of the case at hand.
class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), pool_(options.threads), stream_(Device::cpu(), &pool_) {}

  Stream& stream() { return stream_; }
  const OpenBlas& blas() const { return blas_; }

  // Uniform in (-0.5, 0.5); memory lives until the next case.
  TensorView tensor(DType dtype, const Shape& shape) {
    buffers_.emplace_back(Device::cpu(), std::max<int64_t>(1, shape.count() * size_of(dtype)),
                          "a benchmark");
    const TensorView view(buffers_.back().data(), dtype, shape);
    if (dtype == DType::i32) return view;
    visit_float(dtype, [&]<class E>() {
      for (int64_t i = 0; i < view.count(); ++i)
        view.as<E>()[i] = E(static_cast<float>((i * 40503 >> 4) % 1021) / 1021.0f - 0.5f);
    });
    return view;
  }

  // `make` builds the case's tensors; only called when its name passes the filter.
  void run(const std::string& op, const std::string& shape, const std::function<Case()>& make) {
    if ((op + " " + shape).find(options_.filter) == std::string::npos) return;
    Case c = make();
    c.op = op;
    c.shape = shape;
    report(c);
    buffers_.clear();
  }

 private:
  // After at least kWarm: threads that slept may share a processor for some milliseconds.
  double median_us(const std::function<void()>& work) const {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::milliseconds kWarm(30);
    const int warm = options_.quick ? 1 : 5, timed = options_.quick ? 7 : 21;
    const auto start = Clock::now();
    for (int i = 0; i < warm || Clock::now() - start < kWarm; ++i) work();
    std::vector<double> us;
    for (int i = 0; i < timed; ++i) {
      const auto begin = Clock::now();
      work();
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
    std::nth_element(us.begin(), us.begin() + timed / 2, us.end());
    return us[static_cast<size_t>(timed / 2)];
  }

  void report(const Case& c) const {
    double us = 0;
    if (c.run) us = median_us(c.run);
    double reference = 0;
    if (c.openblas && blas_.found()) {
      // Its idle threads spin for some milliseconds: they must not do so while ours are timed.
      blas_.set_threads(options_.threads);
      reference = median_us(c.openblas);
      blas_.set_threads(1);
      std::this_thread::sleep_for(std::chrono::milliseconds(80));
    }
    if (!c.run) us = reference;
    if (us <= 0) return;
    const std::string rate = c.flops > 0 ? fmt::format("{:8.1f} GFLOP/s", c.flops / us * 1e-3)
                                         : fmt::format("{:8.1f} GB/s   ", c.bytes / us * 1e-3);
    const std::string compared = c.run && c.openblas && blas_.found()
                                     ? fmt::format("{:11.0f}  {:5.2f}", reference, reference / us)
                                     : "";
    fmt::print("{:<22} {:<34} {:>10.0f} {} {}\n", c.op, c.shape, us, rate, compared);
    std::fflush(stdout);
  }

  Options options_;
  OpenBlas blas_;
  ThreadPool pool_;
  Stream stream_;
  std::deque<Buffer> buffers_;
};

double gemm_flops(int64_t m, int64_t n, int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

// The stated limit.
void peak(Bench& bench) {
  bench.run("OpenBLAS alone", "2048 x 2048 x 2048", [&] {
    const TensorView a = bench.tensor(DType::f32, {2048, 2048}), b = a,
                     c = bench.tensor(DType::f32, {2048, 2048});
    Case out;
    out.flops = gemm_flops(2048, 2048, 2048);
    out.openblas = [=, &bench] {
      bench.blas().sgemm(c.as<float>(), 2048, 2048, 2048, 2048, a.as<float>(), 2048, false,
                         b.as<float>(), 2048, false, false);
    };
    return out;
  });
}

enum class Pass { forward, dgrad, wgrad };

// y[T,N] = x[T,K] w[N,K]^T, dx = dy w, or dw += dy^T x.
void linear(Bench& bench, const char* name, DType dtype, Pass pass, int64_t T, int64_t K,
            int64_t N) {
  const char* op = pass == Pass::forward ? "forward" : pass == Pass::dgrad ? "dgrad" : "wgrad";
  bench.run(fmt::format("matmul {} {}", op, name_of(dtype)),
            fmt::format("{}: {} x {} x {}", name, T, K, N), [&] {
              const TensorView x = bench.tensor(dtype, {T, K}), y = bench.tensor(dtype, {T, N});
              const TensorView w = bench.tensor(pass == Pass::wgrad ? DType::f32 : dtype, {N, K});
              ops::Matmul a;
              if (pass == Pass::forward) a = {.out = y, .a = x, .b = w, .trans_b = true};
              if (pass == Pass::dgrad) a = {.out = x, .a = y, .b = w};
              if (pass == Pass::wgrad)
                a = {.out = w, .a = y, .b = x, .trans_a = true, .accumulate = true};
              Case c;
              c.flops = gemm_flops(T, K, N);
              c.run = [a, &bench] { ops::matmul(bench.stream(), a); };
              if (dtype == DType::f32) {
                c.openblas = [a, &bench] {
                  bench.blas().sgemm(a.out.as<float>(), a.out.row_stride(), a.out.dim(0),
                                     a.out.dim(1), a.a.dim(a.trans_a ? 0 : 1), a.a.as<float>(),
                                     a.a.row_stride(), a.trans_a, a.b.as<float>(), a.b.row_stride(),
                                     a.trans_b, a.accumulate);
                };
              }
              return c;
            });
}

void linears(Bench& bench) {
  struct Shape3 {
    const char* name;
    int64_t T, K, N;
  };
  constexpr Shape3 kDebug[] = {{"q", 1024, 256, 3072},          {"kv_a", 1024, 256, 576},
                               {"kv_b", 1024, 512, 4096},       {"o", 1024, 2048, 256},
                               {"gate_up", 1024, 256, 2048},    {"down", 1024, 1024, 256},
                               {"shared down", 1024, 512, 256}, {"router", 1024, 256, 8}};
  constexpr Shape3 kTiny[] = {{"tiny q_a", 512, 128, 144},
                              {"tiny head", 128, 128, 129280},
                              {"tiny head", 512, 128, 129280}};
  for (const Pass pass : {Pass::forward, Pass::dgrad, Pass::wgrad}) {
    for (const auto& [name, T, K, N] : kDebug) linear(bench, name, DType::f32, pass, T, K, N);
    for (const auto& [name, T, K, N] : kTiny) linear(bench, name, DType::f32, pass, T, K, N);
    for (const auto& [name, T, K, N] : {kDebug[0], kDebug[3]})
      linear(bench, name, DType::bf16, pass, T, K, N);
  }
}

// E experts; the reference is OpenBLAS expert after expert.
void experts(Bench& bench, const char* name, std::vector<int32_t> rows, int64_t K, int64_t N) {
  const auto E = static_cast<int64_t>(rows.size());
  int64_t R = 0;
  for (const int32_t n : rows) R += n;
  for (const Pass pass : {Pass::forward, Pass::dgrad, Pass::wgrad}) {
    const char* op = pass == Pass::forward ? "forward" : pass == Pass::dgrad ? "dgrad" : "wgrad";
    bench.run(fmt::format("grouped {} f32", op),
              fmt::format("{}: {} x {} x {} x {}", name, E, R / E, K, N), [&] {
                const TensorView x = bench.tensor(DType::f32, {R, K});
                const TensorView y = bench.tensor(DType::f32, {R, N});
                const TensorView w = bench.tensor(DType::f32, {E, N, K});
                const TensorView offsets = bench.tensor(DType::i32, {E + 1});
                for (int64_t e = 0; e < E; ++e)
                  offsets.as<int32_t>()[e + 1] =
                      offsets.as<int32_t>()[e] + rows[static_cast<size_t>(e)];
                Case c;
                c.flops = gemm_flops(R, K, N);
                if (pass == Pass::wgrad) {
                  c.run = [=, &bench] {
                    ops::grouped_wgrad(
                        bench.stream(),
                        {.out = w, .dy = y, .x = x, .offsets = offsets, .accumulate = true});
                  };
                } else {
                  const bool forward = pass == Pass::forward;
                  c.run = [=, &bench] {
                    ops::grouped_matmul(bench.stream(), {.out = forward ? y : x,
                                                         .a = forward ? x : y,
                                                         .b = w,
                                                         .offsets = offsets,
                                                         .trans_b = forward});
                  };
                }
                c.openblas = [=, &bench] {
                  const OpenBlas& blas = bench.blas();
                  for (int64_t e = 0; e < E; ++e) {
                    const int64_t first = offsets.as<int32_t>()[e];
                    const int64_t n = offsets.as<int32_t>()[e + 1] - first;
                    float *xe = x.as<float>() + first * K, *ye = y.as<float>() + first * N;
                    float* we = w.as<float>() + e * N * K;
                    if (pass == Pass::forward)
                      blas.sgemm(ye, N, n, N, K, xe, K, false, we, K, true, false);
                    if (pass == Pass::dgrad)
                      blas.sgemm(xe, K, n, K, N, ye, N, false, we, K, false, false);
                    if (pass == Pass::wgrad)
                      blas.sgemm(we, K, N, K, n, ye, N, true, xe, K, false, true);
                  }
                };
                return c;
              });
  }
}

// FLOPs of the causal half: S (S + 1) / 2 pairs; backward counts five GEMMs.
void attention(Bench& bench, const char* name, DType dtype, int64_t B, int64_t S, int64_t H,
               int64_t Dqk, int64_t Dv) {
  const int64_t T = B * S;
  const double pairs =
      static_cast<double>(B * H) * static_cast<double>(S) * static_cast<double>(S + 1) / 2;
  const std::string shape =
      fmt::format("{}: B{} S{} H{} {}/{} {}", name, B, S, H, Dqk, Dv, name_of(dtype));
  const auto make = [&](bool backward) {
    const auto take = [&](int64_t D) { return bench.tensor(dtype, {T, H, D}); };
    const TensorView q = take(Dqk), k = take(Dqk), v = take(Dv), o = take(Dv), dout = take(Dv);
    const TensorView dq = take(Dqk), dk = take(Dqk), dv = take(Dv);
    const TensorView lse = bench.tensor(DType::f32, {T / S, H, S}),
                     delta = bench.tensor(DType::f32, {T / S, H, S});
    const TensorView first_key = bench.tensor(DType::i32, {T});
    for (int64_t t = 0; t < T; ++t) first_key.as<int32_t>()[t] = static_cast<int32_t>(t - t % S);
    const auto forward = [=, &bench] {
      ops::attention_forward(bench.stream(), {.o = o,
                                              .lse = lse,
                                              .q = q,
                                              .k = k,
                                              .v = v,
                                              .first_key = first_key,
                                              .sequence = S,
                                              .scale = 0.07f});
    };
    Case c;
    if (!backward) {
      c.flops = pairs * 2.0 * static_cast<double>(Dqk + Dv);
      c.run = forward;
      return c;
    }
    forward();
    c.flops = pairs * 2.0 * static_cast<double>(3 * Dqk + 2 * Dv);
    c.run = [=, &bench] {
      ops::attention_backward(bench.stream(), {.dq = dq,
                                               .dk = dk,
                                               .dv = dv,
                                               .delta = delta,
                                               .dout = dout,
                                               .o = o,
                                               .lse = lse,
                                               .q = q,
                                               .k = k,
                                               .v = v,
                                               .first_key = first_key,
                                               .sequence = S,
                                               .scale = 0.07f});
    };
    return c;
  };
  bench.run("attention forward", shape, [&] { return make(false); });
  bench.run("attention backward", shape, [&] { return make(true); });
}

// Bytes: the logits read and written once, though more is read when a row does not stay in cache.
void cross_entropy(Bench& bench, DType dtype, int64_t T, int64_t V) {
  bench.run("cross_entropy", fmt::format("{} x {} {}", T, V, name_of(dtype)), [&] {
    const TensorView logits = bench.tensor(dtype, {T, V}), nll = bench.tensor(DType::f32, {T});
    const TensorView labels = bench.tensor(DType::i32, {T});
    Case c;
    c.bytes = 2.0 * static_cast<double>(logits.bytes());
    c.run = [=, &bench] {
      ops::cross_entropy(bench.stream(), {.logits = logits, .nll = nll, .labels = labels});
    };
    return c;
  });
  if (dtype == DType::f32) {
    bench.run("memcpy", fmt::format("{} x {}", T, V), [&] {
      const TensorView from = bench.tensor(dtype, {T, V}), to = bench.tensor(dtype, {T, V});
      Case c;
      c.bytes = 2.0 * static_cast<double>(from.bytes());
      c.run = [=, &bench] {
        bench.stream().parallel_for(T, [&](int64_t t, Scratch) {
          memcpy(to.as<float>() + t * V, from.as<float>() + t * V, static_cast<size_t>(V) * 4);
        });
      };
      return c;
    });
  }
}

}  // namespace

int run_bench_ops(int argc, char** argv) {
  Options options;
  CLI::App app("times the CPU ops: median of 21 calls after 5", "nereus bench ops");
  app.add_option("--threads", options.threads, "compute threads")->check(CLI::Range(1, 1024));
  app.add_option("--filter", options.filter, "only cases whose name contains this");
  app.add_flag("--quick", options.quick, "median of 7 after 1");
  app.add_flag("--cpu", options.cpu, "the CPU's ops also where there is a GPU");
  if (const auto code = parse_command(app, argc, argv)) return *code;
  Bench bench(options);
  fmt::print("{:<22} {:<34} {:>10} {:>16} {:>12} {:>6}\n", "op", "shape", "us", "rate",
             "OpenBLAS us", "ratio");
  peak(bench);
  linears(bench);
  experts(bench, "gate_up", std::vector<int32_t>(8, 384), 256, 512);
  experts(bench, "down", std::vector<int32_t>(8, 384), 256, 256);
  experts(bench, "gate_up, skewed", {1500, 700, 400, 250, 150, 71, 1, 0}, 256, 512);
  experts(bench, "tiny gate_up", std::vector<int32_t>(8, 128), 128, 128);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    attention(bench, "debug", dtype, 2, 512, 16, 192, 128);
    attention(bench, "tiny", dtype, 2, 256, 4, 48, 32);
    attention(bench, "long", dtype, 1, 4096, 2, 192, 128);
    cross_entropy(bench, dtype, 1024, 2048);
    cross_entropy(bench, dtype, 128, 129280);
  }
  return 0;
}

}  // namespace nereus
