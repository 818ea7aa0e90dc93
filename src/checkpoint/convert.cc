#include "checkpoint/convert.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/conversion_folder.h"
#include "checkpoint/hf_forms.h"
#include "checkpoint/shard_files.h"
#include "checkpoint/weight_source.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kPiece = int64_t{4} << 20;  // elements

// The type of a tensor in the new files.
FileDType new_type(const WeightSource::Tensor& t, std::optional<DType> asked) {
  const bool keeps = t.name.ends_with(".e_score_correction_bias") ||
                     t.name.ends_with("rotary_emb.inv_freq") || !t.is_float();
  if (t.dtype == FileDType::f8e4m3) return file_dtype(asked.value_or(DType::bf16));
  return keeps || !asked ? t.dtype : file_dtype(*asked);
}

std::string folder_of(const std::string& weights) {
  return is_folder(weights) ? weights : fs::path(weights).parent_path().string();
}

// Name, bytes and time of every file that the result depends on.
std::string conversion_text(const ConvertRequest& r) {
  ordered_json j;
  j["from"] = absolute_path(r.from);
  j["dtype"] = r.dtype ? name_of(*r.dtype) : "as it is";
  j["shard_bytes"] = r.shard_bytes;
  std::vector<std::string> files;
  std::error_code error;
  for (const fs::directory_entry& entry : entries_of(folder_of(r.from), error)) {
    struct stat s {};
    if (::stat(entry.path().c_str(), &s) != 0 || !S_ISREG(s.st_mode)) continue;
    files.push_back(fmt::format("{} {} {}.{:09}", entry.path().filename().string(), s.st_size,
                                s.st_mtim.tv_sec, s.st_mtim.tv_nsec));
  }
  std::sort(files.begin(), files.end());
  j["files"] = files;
  return j.dump(1) + "\n";
}

// Is a file complete, with these tensors? One of that name is whole: it was renamed when it was.
bool is_made(const std::string& path, std::span<const SafetensorsWriter::Tensor> tensors) {
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

// config.json of weights whose elements have another type now, and no scales.
std::string new_config(const std::string& text, const std::string& path,
                       std::optional<DType> dtype) {
  if (!dtype) return text;
  const char* const word = *dtype == DType::f32    ? "float32"
                           : *dtype == DType::bf16 ? "bfloat16"
                                                   : "float16";
  ordered_json config;
  try {
    config = ordered_json::parse(text);
  } catch (const ordered_json::exception& e) {
    NEREUS_FAIL(kConfig, "{}: not valid JSON: {}", path, e.what());
  }
  const auto change = [&](ordered_json& j) {
    j.erase("quantization_config");
    for (const char* key : {"torch_dtype", "dtype"})
      if (j.contains(key)) j[key] = word;
  };
  change(config);
  for (const char* part : {"text_config", "language_config"})
    if (config.contains(part) && config[part].is_object()) change(config[part]);
  if (!config.contains("torch_dtype") && !config.contains("dtype")) config["torch_dtype"] = word;
  return config.dump(2) + "\n";
}

// What the folder has beside weights: the tokenizer, the generation's settings, a licence.
void copy_others(const std::string& from, const ConversionFolder& to, std::optional<DType> dtype) {
  constexpr int64_t kSmall = 64 << 20;
  constexpr const char* kKinds[] = {".json", ".txt", ".md", ".model", ".py", ".jinja", ""};
  std::error_code error, unknown;
  for (const fs::directory_entry& entry : entries_of(from, error)) {
    const std::string name = entry.path().filename().string();
    const std::string kind = entry.path().extension().string();
    if (name.starts_with(".") || name.ends_with(".index.json") || name == "conversion.json" ||
        std::find(std::begin(kKinds), std::end(kKinds), kind) == std::end(kKinds) ||
        !entry.is_regular_file(unknown) || entry.file_size(unknown) > kSmall)
      continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    NEREUS_CHECK(kConfig, in.good() || in.eof(), "{}: cannot be read", entry.path().string());
    to.write(name, name == "config.json" ? new_config(text, entry.path().string(), dtype) : text);
  }
}

std::vector<SafetensorsWriter::Tensor> new_tensors(const WeightSource& source,
                                                   const ConvertRequest& request) {
  std::vector<SafetensorsWriter::Tensor> out;
  for (const WeightSource::Tensor& t : source.tensors())
    out.push_back({.name = t.name, .dtype = new_type(t, request.dtype), .shape = t.shape});
  return out;
}

class Conversion {
 public:
  Conversion(WeightSource& source, const ConversionFolder& folder, const ConvertRequest& request,
             const std::function<void(const ConvertProgress&)>& report)
      : source_(source),
        folder_(folder),
        report_(report),
        tensors_(new_tensors(source, request)),
        files_(shard_files(tensors_, request.shard_bytes)) {
    progress_.of_bytes = files_.bytes;
    progress_.of_files = files_.files.size();
    for (const ShardFiles::File& f : files_.files) {
      made_.push_back(is_made(folder.file(f.name), tensors_of(f)));
      if (made_.back()) progress_.found += f.bytes;
    }
    check_space();
  }

  ConvertProgress run() {
    progress_.bytes = progress_.found;
    progress_.files = static_cast<size_t>(std::count(made_.begin(), made_.end(), true));
    if (progress_.found > 0)
      log::info("{}: {} of {} files are there: the conversion goes on.", folder_.path(),
                progress_.files, progress_.of_files);
    report_(progress_);
    for (size_t i = 0; i < files_.files.size(); ++i) {
      if (made_[i]) continue;
      write(files_.files[i]);
      ++progress_.files;
      report_(progress_);
    }
    if (const std::string index = index_json(files_, tensors_); !index.empty())
      folder_.write("model.safetensors.index.json", index);
    return progress_;
  }

 private:
  std::span<const SafetensorsWriter::Tensor> tensors_of(const ShardFiles::File& f) const {
    return std::span(tensors_).subspan(f.begin, f.end - f.begin);
  }

  void check_space() const {
    const int64_t need = progress_.of_bytes - progress_.found, free = folder_.free_bytes();
    NEREUS_CHECK(kConfig, need <= free,
                 "{}: {} are to be written there, and its file system has {} free. Choose another "
                 "folder, make space, or ask for a smaller type with --dtype.",
                 folder_.path(), size_text(need), size_text(free));
  }

  void write(const ShardFiles::File& file) {
    const auto tensors = tensors_of(file);
    SafetensorsWriter writer(folder_.file(file.name), {tensors.begin(), tensors.end()});
    for (size_t i = 0; i < tensors.size(); ++i) {
      const WeightSource::Tensor& t = source_.tensors()[file.begin + i];
      const int64_t step = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, t.width()));
      for (int64_t row = 0; row < t.rows(); row += step) {
        const auto piece =
            source_.read(file.begin + i, row, std::min(t.rows(), row + step), tensors[i].dtype);
        writer.append(i, piece);
        progress_.bytes += static_cast<int64_t>(piece.size());
        report_(progress_);
      }
    }
    writer.finish();
  }

  WeightSource& source_;
  const ConversionFolder& folder_;
  const std::function<void(const ConvertProgress&)>& report_;
  const std::vector<SafetensorsWriter::Tensor> tensors_;
  const ShardFiles files_;
  std::vector<bool> made_;  // by file
  ConvertProgress progress_;
};

}  // namespace

ConversionPlan plan_conversion(const ConvertRequest& r) {
  const HfWeights weights = HfWeights::open(r.from);
  const std::unique_ptr<WeightSource> source = hf_source(weights);
  const std::vector<SafetensorsWriter::Tensor> tensors = new_tensors(*source, r);
  ConversionPlan plan;
  plan.tensors = tensors.size();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const WeightSource::Tensor& t = source->tensors()[i];
    plan.scaled += t.dtype == FileDType::f8e4m3 ? 1 : 0;
    plan.largest = std::max(plan.largest, t.rows() * t.width() * size_of(tensors[i].dtype));
  }
  const std::vector<std::string> names = weights.names();
  const std::unordered_set<std::string> unused = unused_names(names);
  plan.unused = {unused.begin(), unused.end()};
  std::sort(plan.unused.begin(), plan.unused.end());
  const ShardFiles files = shard_files(tensors, r.shard_bytes);
  plan.bytes = files.bytes;
  plan.files = files.files.size();
  return plan;
}

ConvertProgress convert_to_hf(const ConvertRequest& r,
                              const std::function<void(const ConvertProgress&)>& report) {
  const HfWeights weights = HfWeights::open(r.from);
  const std::unique_ptr<WeightSource> source = hf_source(weights);
  for (const std::string& note : weights.notes()) log::info("{}", note);
  ConversionFolder folder(r.to, conversion_text(r));
  const ConvertProgress done = Conversion(*source, folder, r, report).run();
  const bool scaled = std::any_of(source->tensors().begin(), source->tensors().end(),
                                  [](const auto& t) { return t.dtype == FileDType::f8e4m3; });
  copy_others(folder_of(r.from), folder, r.dtype || !scaled ? r.dtype : DType::bf16);
  folder.finish();
  return done;
}

}  // namespace nereus
