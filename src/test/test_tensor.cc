#include "test/test_tensor.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "base/philox.h"
#include "device/cuda_runtime.h"

namespace nereus::test {
namespace {

double load(const std::byte* p, DType t) {
  switch (t) {
    case DType::f64: {
      double x;
      memcpy(&x, p, 8);
      return x;
    }
    case DType::f32: {
      float x;
      memcpy(&x, p, 4);
      return static_cast<double>(x);
    }
    case DType::bf16: {
      bf16 x;
      memcpy(&x, p, 2);
      return static_cast<double>(static_cast<float>(x));
    }
    case DType::i64: {
      int64_t x;
      memcpy(&x, p, 8);
      return static_cast<double>(x);
    }
    case DType::i32: {
      int32_t x;
      memcpy(&x, p, 4);
      return x;
    }
    case DType::i16: {
      int16_t x;
      memcpy(&x, p, 2);
      return x;
    }
    default:
      NEREUS_FAIL(kContract, "test::Tensor does not read {}", name_of(t));
  }
}

void store(std::byte* p, DType t, double value) {
  switch (t) {
    case DType::f64:
      memcpy(p, &value, 8);
      return;
    case DType::f32: {
      const float x = static_cast<float>(value);
      memcpy(p, &x, 4);
      return;
    }
    case DType::bf16: {
      const bf16 x(static_cast<float>(value));
      memcpy(p, &x, 2);
      return;
    }
    case DType::i64: {
      const int64_t x = static_cast<int64_t>(value);
      memcpy(p, &x, 8);
      return;
    }
    case DType::i32: {
      const int32_t x = static_cast<int32_t>(value);
      memcpy(p, &x, 4);
      return;
    }
    case DType::i16: {
      const int16_t x = static_cast<int16_t>(value);
      memcpy(p, &x, 2);
      return;
    }
    default:
      NEREUS_FAIL(kContract, "test::Tensor does not write {}", name_of(t));
  }
}

bool integral(DType t) { return t == DType::i16 || t == DType::i32 || t == DType::i64; }
double lowest(DType t) {
  return t == DType::i16   ? static_cast<double>(std::numeric_limits<int16_t>::min())
         : t == DType::i32 ? static_cast<double>(std::numeric_limits<int32_t>::min())
                           : static_cast<double>(std::numeric_limits<int64_t>::min());
}

}  // namespace

ThreadPool& pool() {
  static ThreadPool instance(2);
  return instance;
}

std::vector<Device> devices() {
  std::vector<Device> out{Device::cpu()};
#ifdef NEREUS_CUDA
  if (cuda::device_count() > 0) out.push_back(Device::cuda(0));
#endif
  return out;
}

double unit_roundoff(DType t) {
  switch (t) {
    case DType::f64:
      return 0x1p-53;
    case DType::f32:
      return 0x1p-24;
    case DType::bf16:
      return 0x1p-8;
    case DType::f16:
      return 0x1p-11;
    default:
      return 0;
  }
}

Tensor::Tensor(Device device, DType dtype, const Shape& shape)
    : buffer_(device, std::max<int64_t>(shape.count(), 1) * size_of(dtype), "a test"),
      view_(buffer_.data(), dtype, shape) {}

std::vector<double> Tensor::values() const {
  std::vector<std::byte> host(static_cast<size_t>(view_.bytes()));
  Stream s(buffer_.device(), &pool());
  copy_to_host(s, host.data(), view_);
  s.synchronize();
  std::vector<double> out(static_cast<size_t>(count()));
  const auto size = static_cast<size_t>(size_of(view_.dtype));
  for (size_t i = 0; i < out.size(); ++i) out[i] = load(host.data() + i * size, view_.dtype);
  return out;
}

Tensor& Tensor::set(const std::vector<double>& values) & {
  NEREUS_CHECK(kContract, static_cast<int64_t>(values.size()) == count(),
               "{} values for {} elements", values.size(), count());
  std::vector<std::byte> host(static_cast<size_t>(view_.bytes()));
  const auto size = static_cast<size_t>(size_of(view_.dtype));
  for (size_t i = 0; i < values.size(); ++i) store(host.data() + i * size, view_.dtype, values[i]);
  Stream s(buffer_.device(), &pool());
  copy_to_device(s, view_, host.data());
  s.synchronize();
  return *this;
}

Tensor& Tensor::fill(double value) & {
  return set(std::vector<double>(static_cast<size_t>(count()), value));
}

Tensor& Tensor::fill_normal(uint64_t seed, double mean, double std) & {
  std::vector<double> values(static_cast<size_t>(count()));
  for (size_t i = 0; i < values.size(); ++i) {
    const Philox4 r = philox(seed, i);
    const double u1 = (r.v[0] + 0.5) * 0x1p-32, u2 = (r.v[1] + 0.5) * 0x1p-32;
    values[i] = mean + std * std::sqrt(-2 * std::log(u1)) * std::cos(2 * M_PI * u2);
  }
  return set(values);
}

Tensor& Tensor::fill_uniform_int(uint64_t seed, int64_t low, int64_t high) & {
  std::vector<double> values(static_cast<size_t>(count()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] =
        static_cast<double>(low + static_cast<int64_t>(philox(seed, i).v[0]) % (high - low));
  return set(values);
}

Tensor& Tensor::poison() & {
  return fill(integral(view_.dtype) ? lowest(view_.dtype)
                                    : std::numeric_limits<double>::quiet_NaN());
}

double Tensor::operator[](int64_t i) const {
  if (buffer_.device().kind == Device::Kind::cpu)
    return load(view_.data + i * size_of(view_.dtype), view_.dtype);
  std::byte element[8];
  Stream s(buffer_.device(), &pool());
  copy_to_host(s, element, view_.reshape({count()}).rows(i, i + 1));
  s.synchronize();
  return load(element, view_.dtype);
}

void Tensor::set_element(int64_t i, double value) {
  std::vector<double> all = values();
  all[static_cast<size_t>(i)] = value;
  set(all);
}

bool Tensor::poisoned(int64_t i) const {
  const double x = (*this)[i];
  return integral(view_.dtype) ? x == lowest(view_.dtype) : std::isnan(x);
}

Stream stream(Device device) { return Stream(device, &pool()); }

double normwise_error(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double error = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    error = std::max(error, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return largest > 0 ? error / largest : error;
}

std::string source_path(const std::string& relative) {
  const char* root = std::getenv("NEREUS_SOURCE_DIR");
  return (root != nullptr ? std::string(root) + "/" : std::string()) + relative;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "nereus-test-XXXXXX").string();
  NEREUS_CHECK(kIo, mkdtemp(pattern.data()) != nullptr, "cannot make a folder like {}", pattern);
  path_ = pattern;
}
TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
std::string TemporaryFolder::write(const std::string& name, const std::string& contents) const {
  std::filesystem::create_directories(std::filesystem::path(file(name)).parent_path());
  std::ofstream(file(name), std::ios::binary) << contents;
  return file(name);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  NEREUS_CHECK(kIo, in.good(), "cannot read {}", path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace nereus::test
