// Tensors for tests: memory on a device, read and written element by element in double.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "device/device.h"

namespace nereus::test {

// The pool of the test program: 2 threads, so that races can show.
ThreadPool& pool();

// The devices ops are tested on: the CPU and, when built with CUDA and one is there, a GPU.
std::vector<Device> devices();

// The largest relative error of rounding to the type: 2^-24 for f32, 2^-8 for bf16, 2^-53 for f64.
double unit_roundoff(DType);

// Owns a contiguous tensor. Elements are read and written through the host.
class Tensor {
 public:
  Tensor(Device, DType, const Shape&);

  Tensor& fill(double value) &;
  Tensor& fill_normal(uint64_t seed, double mean = 0, double std = 1) &;  // rounded to the dtype
  Tensor& fill_uniform_int(uint64_t seed, int64_t low, int64_t high) &;   // [low, high)
  Tensor& poison() &;  // NaN, or the lowest value of an integer type
  Tensor& set(const std::vector<double>& values) &;

  // The same for `const auto x = Tensor(...).fill_normal(1);`
  Tensor fill(double value) && { return std::move(fill(value)); }
  Tensor fill_normal(uint64_t seed, double mean = 0, double std = 1) && {
    return std::move(fill_normal(seed, mean, std));
  }
  Tensor fill_uniform_int(uint64_t seed, int64_t low, int64_t high) && {
    return std::move(fill_uniform_int(seed, low, high));
  }
  Tensor poison() && { return std::move(poison()); }

  double operator[](int64_t i) const;  // after copying from the device
  void set_element(int64_t i, double value);
  std::vector<double> values() const;
  bool poisoned(int64_t i) const;

  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }       // NOLINT
  operator ConstTensorView() const { return view_; }  // NOLINT
  const Shape& shape() const { return view_.shape; }
  int64_t count() const { return view_.count(); }

 private:
  Buffer buffer_;
  TensorView view_;
};

// A stream on `device` with the test pool.
Stream stream(Device device);

// max |a - b| / max |b| over two equally long lists, the golden data's "normwise" error.
double normwise_error(const std::vector<double>& a, const std::vector<double>& b);

// tests/golden/... of the source tree (NEREUS_SOURCE_DIR, which ctest sets, else the working
// folder).
std::string source_path(const std::string& relative);

// A fresh folder under the system's temporary one, removed with its contents at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name,
                    const std::string& contents) const;  // returns its path

 private:
  std::string path_;
};

std::string read_file(const std::string& path);

}  // namespace nereus::test
