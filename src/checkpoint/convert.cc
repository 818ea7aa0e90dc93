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
#include "checkpoint/conversion_target.h"
#include "checkpoint/hf_forms.h"
#include "checkpoint/manifest.h"
#include "checkpoint/native_source.h"
#include "checkpoint/weight_source.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kPiece = int64_t{4} << 20;  // elements

std::string folder_of(const std::string& weights) {
  return is_folder(weights) ? weights : fs::path(weights).parent_path().string();
}

// Name, bytes and time of every file that the result depends on.
std::string conversion_text(const ConvertRequest& r) {
  ordered_json j;
  j["from"] = absolute_path(r.from);
  j["dtype"] = r.dtype ? name_of(*r.dtype) : "as it is";
  j["format"] = r.format == ConvertRequest::Format::hf ? "hf" : "native";
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
        name == kManifestFile ||
        std::find(std::begin(kKinds), std::end(kKinds), kind) == std::end(kKinds) ||
        !entry.is_regular_file(unknown) || entry.file_size(unknown) > kSmall)
      continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    NEREUS_CHECK(kConfig, in.good() || in.eof(), "{}: cannot be read", entry.path().string());
    to.write(name, name == "config.json" ? new_config(text, entry.path().string(), dtype) : text);
  }
}

// What is read, whichever format it has.
struct Opened {
  explicit Opened(const std::string& from) {
    if (is_native_checkpoint(from)) {
      manifest.emplace(read_manifest(from));
      source = native_source(from, *manifest);
    } else {
      weights.emplace(HfWeights::open(from));
      source = hf_source(*weights);
    }
    std::vector<std::string> names;
    for (const WeightSource::Tensor& t : source->tensors()) names.push_back(t.name);
    unused = unused_names(names);
  }
  bool scaled() const {
    return std::any_of(source->tensors().begin(), source->tensors().end(),
                       [](const auto& t) { return t.dtype == FileDType::f8e4m3; });
  }

  std::optional<HfWeights> weights;
  std::optional<Manifest> manifest;
  std::unique_ptr<WeightSource> source;
  std::unordered_set<std::string> unused;
};

std::unique_ptr<ConversionTarget> target_of(const ConvertRequest& r, const Opened& from) {
  return r.format == ConvertRequest::Format::hf
             ? hf_target(*from.source, r.dtype, r.shard_bytes)
             : native_target(*from.source, r.dtype, r.shard_bytes, r.run, from.unused);
}

class Conversion {
 public:
  Conversion(WeightSource& source, ConversionTarget& target, const ConversionFolder& folder,
             const std::function<void(const ConvertProgress&)>& report)
      : source_(source), target_(target), folder_(folder), report_(report) {
    progress_.of_bytes = target.files().bytes;
    progress_.of_files = target.files().files.size();
    for (const ShardFiles::File& f : target.files().files) {
      made_.push_back(target.is_made(folder, f));
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
    for (size_t i = 0; i < made_.size(); ++i) {
      if (made_[i]) continue;
      write(target_.files().files[i]);
      ++progress_.files;
      report_(progress_);
    }
    target_.complete(folder_);
    return progress_;
  }

 private:
  void check_space() const {
    const int64_t need = progress_.of_bytes - progress_.found, free = folder_.free_bytes();
    NEREUS_CHECK(kConfig, need <= free,
                 "{}: {} are to be written there, and its file system has {} free. Choose another "
                 "folder, make space, or ask for a smaller type with --dtype.",
                 folder_.path(), size_text(need), size_text(free));
  }

  void write(const ShardFiles::File& file) {
    const auto tensors = target_.tensors_of(file);
    SafetensorsWriter writer(folder_.file(file.name), {tensors.begin(), tensors.end()});
    for (size_t i = 0; i < tensors.size(); ++i) {
      const WeightSource::Tensor& t = source_.tensors()[file.begin + i];
      const int64_t step = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, t.width()));
      for (int64_t row = 0; row < t.rows(); row += step) {
        const auto piece =
            source_.read(file.begin + i, row, std::min(t.rows(), row + step), tensors[i].dtype);
        writer.append(i, piece);
        target_.wrote(file.begin + i, piece);
        progress_.bytes += static_cast<int64_t>(piece.size());
        report_(progress_);
      }
    }
    writer.finish();
    target_.finished(folder_, file, writer);
  }

  WeightSource& source_;
  ConversionTarget& target_;
  const ConversionFolder& folder_;
  const std::function<void(const ConvertProgress&)>& report_;
  std::vector<bool> made_;  // by file
  ConvertProgress progress_;
};

}  // namespace

bool is_native_checkpoint(const std::string& path) {
  return is_there(fs::path(path) / kManifestFile);
}

ConversionPlan plan_conversion(const ConvertRequest& r) {
  const Opened from(r.from);
  const std::unique_ptr<ConversionTarget> target = target_of(r, from);
  ConversionPlan plan;
  plan.tensors = target->tensors().size();
  for (size_t i = 0; i < plan.tensors; ++i) {
    const WeightSource::Tensor& t = from.source->tensors()[i];
    plan.scaled += t.dtype == FileDType::f8e4m3 ? 1 : 0;
    plan.largest =
        std::max(plan.largest, t.rows() * t.width() * size_of(target->tensors()[i].dtype));
  }
  plan.unused = {from.unused.begin(), from.unused.end()};
  std::sort(plan.unused.begin(), plan.unused.end());
  plan.bytes = target->files().bytes;
  plan.files = target->files().files.size();
  return plan;
}

ConvertProgress convert_weights(const ConvertRequest& r,
                                const std::function<void(const ConvertProgress&)>& report) {
  const Opened from(r.from);
  if (from.weights)
    for (const std::string& note : from.weights->notes()) log::info("{}", note);
  const std::unique_ptr<ConversionTarget> target = target_of(r, from);
  ConversionFolder folder(r.to, conversion_text(r));
  const ConvertProgress done = Conversion(*from.source, *target, folder, report).run();
  if (!r.config_json.empty()) folder.write("config.json", r.config_json);
  copy_others(folder_of(r.from), folder, r.dtype || !from.scaled() ? r.dtype : DType::bf16);
  folder.finish();
  return done;
}

}  // namespace nereus
