#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"
#include "tensor/safetensors.h"

namespace nereus {
namespace {

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// The header with its 8 bytes of length; spaces at the end align the data to 8 bytes.
std::string header_text(const std::vector<SafetensorsWriter::Tensor>& tensors,
                        const std::vector<size_t>& order, const std::vector<int64_t>& begins,
                        const std::vector<int64_t>& bytes,
                        const std::map<std::string, std::string>& metadata) {
  // Assembled tensor by tensor: a JSON object would sort them by name.
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  for (const size_t i : order) {
    if (text.size() > 1) text += ",";
    text += fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        nlohmann::json(tensors[i].name).dump(), name_of(tensors[i].dtype),
                        fmt::join(tensors[i].shape, ","), begins[i], begins[i] + bytes[i]);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>((text.size() >> (8 * i)) & 255);
  return length + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path, std::vector<Tensor> tensors,
                                     std::map<std::string, std::string> metadata)
    : path_(std::move(path)), tensors_(std::move(tensors)), slots_(tensors_.size()), file_(path_) {
  std::vector<size_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return size_of(tensors_[a].dtype) > size_of(tensors_[b].dtype);
  });
  std::vector<int64_t> begins(tensors_.size()), bytes(tensors_.size());
  int64_t end = 0;
  for (const size_t i : order) {
    bytes[i] = size_of(tensors_[i].dtype);
    for (const int64_t d : tensors_[i].shape) bytes[i] *= d;
    begins[i] = end;
    end += bytes[i];
  }
  const std::string header = header_text(tensors_, order, begins, bytes, metadata);
  const int64_t data = static_cast<int64_t>(header.size());
  for (size_t i = 0; i < slots_.size(); ++i)
    slots_[i] = {.begin = data + begins[i], .bytes = bytes[i], .written = 0};
  file_bytes_ = data + end;

  const std::error_code created = file_.create();
  if (created == std::errc::no_space_on_device) fail_io("create", created);
  NEREUS_CHECK(kConfig, !created,
               "{}: cannot create: {}; choose a folder that exists and can be written to", path_,
               created.message());
  // On file systems that cannot reserve space a full disk is noticed while writing.
  if (fallocate(file_.fd(), 0, 0, file_bytes_) != 0 && errno != EOPNOTSUPP && errno != ENOSYS &&
      errno != EINVAL)
    fail_io("write", {errno, std::generic_category()});
  write_at(0, std::as_bytes(std::span(header)));
}

void SafetensorsWriter::append(size_t index, std::span<const std::byte> bytes) {
  Slot& slot = slots_.at(index);
  NEREUS_CHECK(kContract, slot.written + static_cast<int64_t>(bytes.size()) <= slot.bytes,
               "{}: tensor '{}' has {} bytes, {} were written and {} more were given", path_,
               tensors_[index].name, slot.bytes, slot.written, bytes.size());
  write_at(slot.begin + slot.written, bytes);
  slot.written += static_cast<int64_t>(bytes.size());
}

void SafetensorsWriter::finish() {
  for (size_t i = 0; i < slots_.size(); ++i)
    NEREUS_CHECK(kContract, slots_[i].written == slots_[i].bytes,
                 "{}: tensor '{}' has {} bytes, {} were written", path_, tensors_[i].name,
                 slots_[i].bytes, slots_[i].written);
  if (const std::error_code error = file_.sync()) fail_io("write", error);
  drop_pages();
  if (const std::error_code error = file_.commit()) fail_io("rename", error);
}

void SafetensorsWriter::write_at(int64_t offset, std::span<const std::byte> bytes) {
  constexpr int64_t kWindow = int64_t{64} << 20;
  if (const std::error_code error = file_.write_at(offset, bytes)) fail_io("write", error);
  unflushed_ += static_cast<int64_t>(bytes.size());
  if (unflushed_ >= kWindow) drop_pages();
}

// The writing of the last window is begun, that of the ones before it has been: their pages, now
// clean, are dropped. Both calls are advice: what they cannot do is no error.
void SafetensorsWriter::drop_pages() {
  unflushed_ = 0;
  (void)::posix_fadvise(file_.fd(), 0, 0, POSIX_FADV_DONTNEED);
  (void)::sync_file_range(file_.fd(), 0, 0, SYNC_FILE_RANGE_WRITE);
}

void SafetensorsWriter::fail_io(const char* doing, const std::error_code& error) {
  file_.discard();
  // Read after the partial file is removed: the space that a second attempt would have.
  struct statvfs space {};
  const bool known = statvfs(folder_of(path_).c_str(), &space) == 0;
  NEREUS_FAIL(kIo,
              "{}: cannot {}: {}; it needs {} bytes, {} are free there; nothing of it was kept",
              path_, doing, error.message(), file_bytes_,
              known ? std::to_string(space.f_bavail * space.f_frsize) : "an unknown number");
}

}  // namespace nereus
