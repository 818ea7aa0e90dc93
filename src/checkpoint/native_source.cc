#include "checkpoint/native_source.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "checkpoint/box.h"
#include "checkpoint/checksum.h"
#include "checkpoint/hf_names.h"
#include "checkpoint/tensor_reader.h"
#include "tensor/convert.h"

namespace nereus {
namespace {

class NativeSource final : public WeightSource {
 public:
  NativeSource(const std::string& folder, const Manifest& m)
      : folder_(folder), manifest_(m), reader_(folder, m), read_(m.tensors.size()) {
    for (size_t i = 0; i < m.tensors.size(); ++i)
      if (m.tensors[i].state == SavedState::model) add(i);
    NEREUS_CHECK(kConfig, !tensors_.empty(), "{}: this checkpoint has no weights of a model",
                 folder);
    add_unused();
    sort();
  }

  std::span<const std::byte> read(size_t i, int64_t begin, int64_t end, FileDType to) override {
    const Tensor& t = tensors_[i];
    const Place& place = places_.at(t.name);
    if (place.unused != nullptr) return read_unused(t, *place.unused, begin, end, to);
    const Manifest::Tensor& saved = manifest_.tensors[place.tensor];
    const int64_t size = size_of(saved.dtype), n = (end - begin) * t.width();
    raw_.resize(static_cast<size_t>(n * size));
    const Box whole = box_of({}, saved.shape);
    Box box = whole;
    if (place.expert >= 0) {
      box.origin[0] = place.expert;
      box.extent[0] = 1;
    }
    box.origin[1] = begin;
    box.extent[1] = end - begin;
    reader_.read(place.tensor, box, raw_.data());
    count(place.tensor, whole, box, raw_.data());
    return converted(saved.dtype, raw_, n, to);
  }

 private:
  struct Place {
    size_t tensor = 0;
    int64_t expert = -1;
    const SafetensorsFile* unused = nullptr;
  };
  // What of a tensor was read so far.
  struct Read {
    int64_t elements = 0;
    uint64_t sum = 0;
  };

  void add(size_t i) {
    const Manifest::Tensor& t = manifest_.tensors[i];
    const bool experts = has_experts(t.name);
    std::vector<int64_t> shape;
    for (int d = experts ? 1 : 0; d < t.shape.rank(); ++d) shape.push_back(t.shape[d]);
    for (int64_t e = 0; e < (experts ? t.shape[0] : 1); ++e) {
      const std::string name = hf_name(t.name, e);
      tensors_.push_back({.name = name, .dtype = file_dtype(t.dtype), .shape = shape});
      places_[name] = {.tensor = i, .expert = experts ? e : -1};
    }
  }

  void add_unused() {
    const auto run = nlohmann::json::parse(manifest_.run, nullptr, false);
    if (!run.is_object() || !run.contains(kUnusedTensors)) return;
    for (const auto& [name, file] : run[kUnusedTensors].items()) {
      const std::string path = folder_ + "/" + file.get<std::string>();
      if (!opened_.contains(path)) opened_.emplace(path, SafetensorsFile::open(path));
      const SafetensorsFile& in = opened_.at(path);
      const SafetensorsEntry& e = in.require(name);
      tensors_.push_back({.name = name, .dtype = e.dtype, .shape = e.shape});
      places_[name] = {.unused = &in};
    }
  }

  std::span<const std::byte> read_unused(const Tensor& t, const SafetensorsFile& in, int64_t begin,
                                         int64_t end, FileDType to) {
    const SafetensorsEntry& e = in.require(t.name);
    if (begin == 0 && last_ != nullptr) last_file_->release_pages(*last_);
    last_ = &e;
    last_file_ = &in;
    const int64_t size = size_of(t.dtype), n = (end - begin) * t.width();
    const auto raw = e.data.subspan(static_cast<size_t>(begin * t.width() * size),
                                    static_cast<size_t>(n * size));
    return t.dtype == to ? raw : converted(*dtype_of(t.dtype), raw, n, to);
  }

  std::span<const std::byte> converted(DType from, std::span<const std::byte> raw, int64_t n,
                                       FileDType to) {
    if (file_dtype(from) == to) return raw;
    floats_.resize(static_cast<size_t>(n));
    convert_to_f32(from, raw.data(), n, floats_.data());
    if (to == FileDType::f32) return std::as_bytes(std::span(floats_));
    converted_.resize(static_cast<size_t>(n * size_of(to)));
    convert_from_f32(*dtype_of(to), floats_.data(), n, converted_.data());
    return converted_;
  }

  void count(size_t tensor, const Box& whole, const Box& box, const std::byte* data) {
    const Manifest::Tensor& t = manifest_.tensors[tensor];
    Read& r = read_[tensor];
    r.sum += checksum_of(whole, box, 0, box.count(), size_of(t.dtype), data);
    r.elements += box.count();
    if (r.elements != t.shape.count()) return;
    NEREUS_CHECK(kIo, r.sum == t.checksum(),
                 "{}: {} is not as it was written: its checksum is {:016x} and should be {:016x}. "
                 "`nereus checkpoint verify` names the file.",
                 folder_, t.name, r.sum, t.checksum());
    r = {};
  }

  const std::string folder_;
  const Manifest& manifest_;
  TensorReader reader_;
  std::vector<Read> read_;  // by tensor of the manifest
  std::map<std::string, Place> places_;
  std::map<std::string, SafetensorsFile> opened_;
  const SafetensorsEntry* last_ = nullptr;
  const SafetensorsFile* last_file_ = nullptr;
  std::vector<std::byte> raw_, converted_;
  std::vector<float> floats_;
};

}  // namespace

std::unique_ptr<WeightSource> native_source(const std::string& folder, const Manifest& m) {
  return std::make_unique<NativeSource>(folder, m);
}

}  // namespace nereus
