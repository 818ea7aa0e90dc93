#include <algorithm>

#include "base/error.h"
#include "base/files.h"
#include "checkpoint/conversion_target.h"

namespace nereus {
namespace {

class HfTarget final : public ConversionTarget {
 public:
  HfTarget(const WeightSource& source, std::optional<DType> dtype, int64_t shard_bytes) {
    for (const WeightSource::Tensor& t : source.tensors())
      tensors_.push_back({.name = t.name, .dtype = new_type(t, dtype), .shape = t.shape});
    files_ = shard_files(tensors_, shard_bytes);
  }

  bool is_made(const ConversionFolder& folder, const ShardFiles::File& f) const override {
    return has_tensors(folder.file(f.name), tensors_of(f));
  }
  void wrote(size_t, std::span<const std::byte>) override {}
  void finished(const ConversionFolder&, const ShardFiles::File&,
                const SafetensorsWriter&) override {}
  void complete(const ConversionFolder& folder) override {
    if (const std::string index = index_json(files_, tensors_); !index.empty())
      folder.write("model.safetensors.index.json", index);
  }
};

}  // namespace

FileDType new_type(const WeightSource::Tensor& t, std::optional<DType> asked) {
  const bool keeps = t.name.ends_with(".e_score_correction_bias") ||
                     t.name.ends_with("rotary_emb.inv_freq") || !t.is_float();
  if (t.dtype == FileDType::f8e4m3) return file_dtype(asked.value_or(DType::bf16));
  return keeps || !asked ? t.dtype : file_dtype(*asked);
}

bool has_tensors(const std::string& path, std::span<const SafetensorsWriter::Tensor> tensors) {
  if (!is_there(path)) return false;
  try {
    const SafetensorsFile file = SafetensorsFile::open(path);
    return file.entries().size() == tensors.size() &&
           std::all_of(tensors.begin(), tensors.end(), [&](const auto& t) {
             const SafetensorsEntry* e = file.find(t.name);
             return e != nullptr && e->dtype == t.dtype && e->shape == t.shape;
           });
  } catch (const Error&) {
    return false;
  }
}

std::unique_ptr<ConversionTarget> hf_target(const WeightSource& source, std::optional<DType> dtype,
                                            int64_t shard_bytes) {
  return std::make_unique<HfTarget>(source, dtype, shard_bytes);
}

}  // namespace nereus
