#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/hf_names.h"
#include "checkpoint/hf_weights.h"
#include "checkpoint/shard_files.h"
#include "tensor/convert.h"
#include "tensor/format.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

struct Source {
  SafetensorsWriter::Tensor tensor;
  ConstTensorView view;  // f32, one or two dims
  size_t of;             // index of its parameter
  int64_t expert;
};

std::vector<Source> sources(std::span<const NamedView> tensors, DType dtype, bool fetched) {
  std::vector<Source> out;
  for (const NamedView& t : tensors) {
    NEREUS_CHECK(kContract, t.view.dtype == DType::f32 && (fetched || t.view.data != nullptr),
                 "'{}': weights are saved from f32, not from {}", t.name, t.view);
    // A step of the bias is 1e-3, below bf16's resolution; transformers keeps it in f32 too.
    const DType stored = t.name.ends_with(".expert_bias") ? DType::f32 : dtype;
    const std::vector<std::string> names = hf_names_of(t.name, t.view);
    for (size_t i = 0; i < names.size(); ++i) {
      const ConstTensorView view = has_experts(t.name) ? t.view[static_cast<int64_t>(i)] : t.view;
      std::vector<int64_t> shape;
      for (int d = 0; d < view.rank(); ++d) shape.push_back(view.dim(d));
      NEREUS_CHECK(kContract, view.rank() <= 2, "'{}': {} has more than two dims", names[i], view);
      out.push_back({{names[i], file_dtype(stored), shape},
                     view,
                     static_cast<size_t>(&t - tensors.data()),
                     static_cast<int64_t>(i)});
    }
  }
  return out;
}

// Streams the elements in pieces: memory is bounded whatever the tensor's size.
void append(SafetensorsWriter& writer, size_t index, const Source& source, DType dtype,
            Stream* device) {
  constexpr int64_t kPiece = 1 << 18;  // elements
  std::vector<std::byte> converted;
  std::vector<float> staging(device == nullptr ? 0 : static_cast<size_t>(kPiece));
  const auto write = [&](const float* from, int64_t n) {
    for (int64_t done = 0; done < n; done += kPiece) {
      const int64_t piece = std::min(kPiece, n - done);
      const float* values = from + done;
      if (device != nullptr) {
        const auto* bytes = reinterpret_cast<const std::byte*>(values);
        copy_to_host(*device, staging.data(), ConstTensorView(bytes, DType::f32, {piece}));
        device->synchronize();
        values = staging.data();
      }
      converted.resize(static_cast<size_t>(piece * size_of(dtype)));
      convert_from_f32(dtype, values, piece, converted.data());
      writer.append(index, converted);
    }
  };
  const ConstTensorView& view = source.view;
  const float* data = view.as<float>();
  if (view.contiguous()) {
    write(data, view.count());
    return;
  }
  for (int64_t row = 0; row < view.dim(0); ++row)
    write(data + row * view.row_stride(), view.dim(1));
}

void write_text(const std::string& path, const std::string& text) {
  const std::error_code error = replace_file(path, text, {.sync = true});
  NEREUS_CHECK(kIo, !error, "{}: cannot write: {}; it needs {} bytes; nothing of it was kept", path,
               error.message(), text.size());
}

// A folder that disappears unless it is moved to its place.
class PartialFolder {
 public:
  explicit PartialFolder(const std::string& place) : place_(place), path_(place + ".partial") {
    std::error_code error;
    fs::remove_all(path_, error);  // of a run that was killed
    fs::create_directories(path_, error);
    NEREUS_CHECK(kIo, !error, "{}: cannot create: {}; choose a folder that can be written to",
                 place_, error.message());
  }
  ~PartialFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const std::string& path() const { return path_; }

  // What was in the place is removed if it is weights and nothing else, otherwise kept under
  // another name. The folder is complete: where it cannot be moved it stays as it is.
  void move_to_place() {
    std::error_code error;
    const fs::file_status there = fs::symlink_status(place_, error);
    const bool taken =
        fs::exists(there) && !(fs::is_directory(there) && fs::is_empty(place_, error));
    const std::string old = taken ? free_name() : "", made = std::exchange(path_, "");
    error = put_in_place(made, place_, old);
    NEREUS_CHECK(kIo, !error, "{}: cannot move {} there: {}; the weights in it are complete{}",
                 place_, made, error.message(),
                 taken && is_there(old) ? "; what was there is " + old : "");
    if (!taken) return;
    if (only_weights(old)) {
      fs::remove_all(old, error);
    } else {
      log::warning("{} was there before and has other files than weights: kept as {}", place_, old);
    }
  }

 private:
  std::string free_name() const {
    std::string name = place_ + ".old";
    for (int i = 2; is_there(name); ++i) name = fmt::format("{}.old-{}", place_, i);
    return name;
  }

  static bool only_weights(const std::string& folder) {
    std::error_code error, unknown;
    for (const fs::directory_entry& entry : entries_of(folder, error)) {
      const std::string name = entry.path().filename().string();
      const bool weights = name == "config.json" || name == "model.safetensors.index.json" ||
                           (name.starts_with("model") && name.ends_with(".safetensors"));
      if (!weights || !entry.is_regular_file(unknown)) return false;
    }
    return !error;
  }

  std::string place_, path_;
};

}  // namespace

int64_t save_hf_weights(const std::string& folder, std::span<const NamedView> tensors,
                        const std::string& config_json, DType dtype, int64_t shard_bytes,
                        Stream* device, const FetchTensor& fetch) {
  NEREUS_CHECK(kContract, dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
               "weights are saved as f32, bf16 or f16, not as {}", dtype);
  const std::vector<Source> all = sources(tensors, dtype, fetch != nullptr);
  std::vector<SafetensorsWriter::Tensor> declared;
  for (const Source& s : all) declared.push_back(s.tensor);
  const ShardFiles shards = shard_files(declared, shard_bytes);
  // A trailing slash would put ".partial" inside the folder.
  fs::path place = fs::path(folder).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  PartialFolder partial(place.string());
  ConstTensorView fetched;
  size_t fetched_index = tensors.size();
  for (const ShardFiles::File& file : shards.files) {
    const std::span mine = std::span(declared).subspan(file.begin, file.end - file.begin);
    SafetensorsWriter writer(partial.path() + "/" + file.name, {mine.begin(), mine.end()});
    for (size_t i = file.begin; i < file.end; ++i) {
      Source source = all[i];
      if (fetch) {
        if (fetched_index != source.of) fetched = fetch(source.of);
        fetched_index = source.of;
        source.view = has_experts(tensors[source.of].name) ? fetched[source.expert] : fetched;
      }
      append(writer, i - file.begin, source, *dtype_of(source.tensor.dtype),
             fetch ? nullptr : device);
    }
    writer.finish();
  }
  if (const std::string index = index_json(shards, declared); !index.empty())
    write_text(partial.path() + "/model.safetensors.index.json", index);
  write_text(partial.path() + "/config.json", config_json);
  partial.move_to_place();
  return shards.bytes;
}

}  // namespace nereus
