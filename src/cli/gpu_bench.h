// What the cases of `nereus bench gpu` share: the slice's sizes, and timing by events. For .cc
// files only (fmt), in builds with CUDA.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "device/cuda_runtime.h"
#include "device/device.h"
#include "ops/elementwise.h"
#include "ops/init.h"

namespace nereus::bench {

// The slice's sizes: configs/slice1.toml.
inline constexpr int64_t B = 4, S = 4096, T = B * S, D = 7168, H = 128, kNope = 128, kRope = 64,
                         kValue = 128, kHead = kNope + kRope, kQ = 1536, kKv = 512,
                         kLatent = kQ + kKv + kRope, kInter = 18432, F = 2048, E = 16, K = 8,
                         V = 16160;
struct Reference {
  std::string_view name, figure;
};
inline constexpr Reference kReferences[] = {
#include "cli/gpu_references.inc"
};
// PyTorch's figure for a case, or nothing.
inline std::string reference(const std::string& name) {
  for (const Reference& r : kReferences)
    if (r.name == name) return fmt::format("  PyTorch: {}", r.figure);
  return "";
}

inline constexpr double kFlopsLimit = 790e12, kBytesLimit = 2.9e12;
// Below so many bytes the start of a launch counts: an op is compared with a copy of as many.
inline constexpr double kFewBytes = 64e6;

class Bench {
 public:
  Bench(const std::string& filter, int repeats)
      : filter_(filter),
        repeats_(repeats),
        stream_(Device::cuda(0)),
        begin_(cuda::make_event(true)),
        end_(cuda::make_event(true)),
        other_(stream_.device(), kOtherBytes, "a benchmark") {}
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

  // Seconds of one call: the median of `repeats`, each after a fill of memory that has nothing to
  // do with it. So the caches hold none of its tensors, as after another op of a step, and its
  // launches have been queued when the GPU comes to them.
  double median(const std::function<void()>& op) {
    const TensorView other(other_.data(), DType::f32, {kOtherBytes / 4});
    for (int i = 0; i < 3; ++i) op();
    std::vector<float> ms;
    for (int i = 0; i < repeats_; ++i) {
      ops::fill(stream_, {.out = other, .value = static_cast<double>(i)});
      cuda::record_event(begin_, stream_.native());
      op();
      cuda::record_event(end_, stream_.native());
      cuda::synchronize_event(end_);
      ms.push_back(cuda::milliseconds_between(begin_, end_));
    }
    std::nth_element(ms.begin(), ms.begin() + repeats_ / 2, ms.end());
    return static_cast<double>(ms[ms.size() / 2]) / 1e3;
  }

  void run(const std::string& name, double flops, double bytes, const std::function<void()>& op) {
    const double seconds = median(op);
    const double floor = std::max(flops / kFlopsLimit, bytes / kBytesLimit);
    const std::string rate = flops > 0 ? fmt::format("{:7.0f} TFLOP/s", flops / seconds / 1e12)
                                       : fmt::format("{:7.0f} GB/s   ", bytes / seconds / 1e9);
    fmt::print("{:<52} {:10.1f} us {} {:5.1f} %{}{}\n", name, seconds * 1e6, rate,
               100 * floor / seconds, beside_copy(flops, bytes, seconds), reference(name));
    std::fflush(stdout);
  }

 private:
  static constexpr int64_t kOtherBytes = int64_t{256} << 20;  // several times a level-2 cache

  // How long an op of few bytes takes compared with a copy that reads half of them and writes half.
  std::string beside_copy(double flops, double bytes, double seconds) {
    if (flops > 0 || bytes >= kFewBytes) return "";
    const auto half = static_cast<int64_t>(bytes / 2);
    const double copy = median([&] {
      cuda::copy_async(other_.data() + kOtherBytes / 2, other_.data(), half, stream_.native());
    });
    return fmt::format("  {:.2f} x a copy ({:.1f} us)", seconds / copy, copy * 1e6);
  }

  std::string filter_;
  int repeats_;
  Stream stream_;
  void *begin_, *end_;
  Buffer other_;
  uint64_t seed_ = 0;
  std::vector<Buffer> buffers_;
};

inline double d(int64_t n) { return static_cast<double>(n); }

// The cases; each runs those of its own that the filter wants.
void dense_gemms(Bench&);
void tune_gemms(Bench&);
void grouped_gemms(Bench&, bool every_tile);
void attention(Bench&);

}  // namespace nereus::bench
