#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/files.h"
#include "checkpoint/box.h"
#include "checkpoint/checksum.h"
#include "checkpoint/conversion_target.h"
#include "checkpoint/hf_names.h"
#include "checkpoint/manifest.h"
#include "checkpoint/native_source.h"

namespace nereus {
namespace {

Shape shape_of(const std::vector<int64_t>& dims) {
  Shape out;
  if (dims.size() == 1) out = {dims[0]};
  if (dims.size() == 2) out = {dims[0], dims[1]};
  if (dims.size() == 3) out = {dims[0], dims[1], dims[2]};
  return out;
}

class NativeTarget final : public ConversionTarget {
 public:
  NativeTarget(const WeightSource& source, std::optional<DType> dtype, int64_t shard_bytes,
               std::string run, const std::unordered_set<std::string>& unused)
      : run_(std::move(run)) {
    std::map<std::string, int64_t> experts;  // of a parameter
    for (const WeightSource::Tensor& t : source.tensors()) {
      const auto logical = unused.contains(t.name) ? std::nullopt : logical_name(t.name);
      NEREUS_CHECK(kConfig, (logical && t.is_float()) || unused.contains(t.name),
                   "'{}' is no tensor of a DeepSeek-V3 model, and has no place in a native "
                   "checkpoint; --format hf keeps it",
                   t.name);
      if (logical && logical->expert >= 0) {
        int64_t& count = experts[logical->name];
        count = std::max(count, logical->expert + 1);
      }
    }
    for (const WeightSource::Tensor& t : source.tensors()) {
      const FileDType type = new_type(t, dtype);
      const auto logical = unused.contains(t.name) ? std::nullopt : logical_name(t.name);
      Part part;
      SafetensorsWriter::Tensor declared{.name = t.name, .dtype = type, .shape = t.shape};
      if (logical) {
        part.is_parameter = true;
        part.tensor = {.name = logical->name, .state = SavedState::model, .dtype = *dtype_of(type)};
        part.slice.extent = shape_of(t.shape);
        part.tensor.shape = part.slice.extent;
        if (logical->expert >= 0) {
          declared.shape.insert(declared.shape.begin(), 1);
          part.slice.extent = shape_of(declared.shape);
          part.tensor.shape = part.slice.extent;
          part.tensor.shape[0] = experts.at(logical->name);
        }
        part.slice.origin = part.slice.extent;
        for (int d = 0; d < part.slice.origin.rank(); ++d) part.slice.origin[d] = 0;
        if (logical->expert >= 0) part.slice.origin[0] = logical->expert;
        declared.name = logical->name;
      }
      parts_.push_back(std::move(part));
      tensors_.push_back(std::move(declared));
    }
    files_ = shard_files(tensors_, shard_bytes);
    for (const ShardFiles::File& f : files_.files) {  // slices of one parameter in a file
      std::map<std::string, int> seen;
      for (size_t i = f.begin; i < f.end; ++i)
        if (const int nth = seen[tensors_[i].name]++; nth > 0)
          tensors_[i].name += fmt::format("#{}", nth);
    }
  }

  bool is_made(const ConversionFolder& folder, const ShardFiles::File& f) const override {
    return is_there(folder.file(part_of(f))) && has_tensors(folder.file(f.name), tensors_of(f));
  }

  void wrote(size_t i, std::span<const std::byte> bytes) override {
    Part& p = parts_[i];
    if (!p.is_parameter) return;
    const int64_t size = size_of(p.tensor.dtype), n = std::ssize(bytes) / size;
    p.slice.checksum +=
        checksum_of(box_of({}, p.tensor.shape), box_of(p.slice.origin, p.slice.extent), p.written,
                    n, size, bytes.data());
    p.written += n;
  }

  void finished(const ConversionFolder& folder, const ShardFiles::File& f,
                const SafetensorsWriter& writer) override {
    Manifest out;
    out.files.push_back({f.name, writer.file_bytes()});
    for (size_t i = f.begin; i < f.end; ++i) {
      Part& p = parts_[i];
      if (!p.is_parameter) continue;
      p.slice.offset = writer.begin(i - f.begin);
      Manifest::Tensor t = p.tensor;
      t.slices = {p.slice};
      out.tensors.push_back(std::move(t));
    }
    folder.write(part_of(f), to_text(out));
  }

  void complete(const ConversionFolder& folder) override {
    std::vector<Manifest> parts;
    auto run = nlohmann::ordered_json::parse(run_);
    run[kUnusedTensors] = nlohmann::ordered_json::object();
    for (const ShardFiles::File& f : files_.files) {
      std::ifstream in(folder.file(part_of(f)), std::ios::binary);
      const std::string text(std::istreambuf_iterator<char>(in), {});
      parts.push_back(parse_manifest(text, folder.file(part_of(f))));
      for (size_t i = f.begin; i < f.end; ++i)
        if (!parts_[i].is_parameter) run[kUnusedTensors][tensors_[i].name] = f.name;
    }
    Manifest whole = merge(std::move(parts));
    whole.run = run.dump();
    check_slices(whole, folder.file(kManifestFile));
    folder.write(kManifestFile, to_text(whole));
    for (const ShardFiles::File& f : files_.files) folder.remove(part_of(f));
  }

 private:
  struct Part {
    bool is_parameter = false;
    Manifest::Tensor tensor;
    Manifest::Slice slice;
    int64_t written = 0;  // elements
  };
  static std::string part_of(const ShardFiles::File& f) { return f.name + ".part.json"; }

  std::string run_;
  std::vector<Part> parts_;  // by tensor of the source
};

}  // namespace

std::unique_ptr<ConversionTarget> native_target(const WeightSource& source,
                                                std::optional<DType> dtype, int64_t shard_bytes,
                                                std::string run,
                                                const std::unordered_set<std::string>& unused) {
  return std::make_unique<NativeTarget>(source, dtype, shard_bytes, std::move(run), unused);
}

}  // namespace nereus
