#include "checkpoint/weight_source.h"

#include <algorithm>
#include <cctype>

#include "base/check.h"
#include "checkpoint/hf_forms.h"
#include "checkpoint/listing.h"
#include "tensor/convert.h"

namespace nereus {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "layers.9." before "layers.10.".
bool before(const std::string& a, const std::string& b) {
  size_t i = 0, k = 0;
  while (i < a.size() && k < b.size()) {
    if (is_digit(a[i]) && is_digit(b[k])) {
      size_t end_a = i, end_b = k;
      while (end_a < a.size() && is_digit(a[end_a])) ++end_a;
      while (end_b < b.size() && is_digit(b[end_b])) ++end_b;
      if (end_a - i != end_b - k) return end_a - i < end_b - k;
      const int order = a.compare(i, end_a - i, b, k, end_b - k);
      if (order != 0) return order < 0;
      i = end_a;
      k = end_b;
      continue;
    }
    if (a[i] != b[k]) return a[i] < b[k];
    ++i;
    ++k;
  }
  return a.size() - i < b.size() - k;
}

class HfSource final : public WeightSource {
 public:
  explicit HfSource(const HfWeights& weights) : weights_(weights) {
    std::vector<std::string> packed;
    for (const std::string& name : weights.names()) {
      const SafetensorsEntry& e = *weights.find(name);
      if (is_packed(name)) packed.push_back(name);
      weights.check_scale(name);
      NEREUS_CHECK(kConfig, size_of(e.dtype) > 0,
                   "{}: tensor '{}' is {}, a type that this program does not know", weights.path(),
                   name, e.to_string());
      tensors_.push_back({.name = name, .dtype = e.dtype, .shape = e.shape});
    }
    NEREUS_CHECK(kConfig, packed.empty(),
                 "{}: {} tensors are packed into 4 bits an element, which cannot be read: {}; take "
                 "the model's weights as F32, BF16, F16 or FP8 with scales of blocks",
                 weights.path(), packed.size(), first_of(packed));
    sort();
  }

  std::span<const std::byte> read(size_t i, int64_t begin, int64_t end, FileDType to) override {
    const Tensor& t = tensors_[i];
    if (read_ < tensors_.size()) weights_.release_pages(tensors_[read_].name);
    read_ = i;
    const int64_t n = (end - begin) * t.width();
    if (t.dtype == to) {  // where it is
      const int64_t size = size_of(t.dtype);
      const SafetensorsEntry& e = *weights_.find(t.name);
      return e.data.subspan(static_cast<size_t>(begin * t.width() * size),
                            static_cast<size_t>(n * size));
    }
    floats_.resize(static_cast<size_t>(n));
    weights_.read_f32(t.name, begin, end, floats_.data());
    if (to == FileDType::f32) return std::as_bytes(std::span(floats_));
    converted_.resize(static_cast<size_t>(n * size_of(to)));
    convert_from_f32(*dtype_of(to), floats_.data(), n, converted_.data());
    return converted_;
  }

 private:
  const HfWeights& weights_;
  size_t read_ = SIZE_MAX;  // the tensor that was read last
  std::vector<float> floats_;
  std::vector<std::byte> converted_;
};

}  // namespace

int64_t WeightSource::Tensor::width() const {
  int64_t width = 1;
  for (size_t d = 1; d < shape.size(); ++d) width *= shape[d];
  return width;
}

bool WeightSource::Tensor::is_float() const {
  const auto type = dtype_of(dtype);
  return type && nereus::is_float(*type);
}

void WeightSource::sort() {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const Tensor& a, const Tensor& b) { return before(a.name, b.name); });
}

std::unique_ptr<WeightSource> hf_source(const HfWeights& weights) {
  return std::make_unique<HfSource>(weights);
}

}  // namespace nereus
