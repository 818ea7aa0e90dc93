// The safetensors format: 8 bytes (little endian) with the length of a JSON header, the header with
// each tensor's type, shape and byte range, then the tensors' bytes without gaps.
//
// A file with wrong contents is an Error{kConfig} that names the file, the tensor and the numbers;
// a failure while writing (a full disk) is an Error{kIo}.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/atomic_file.h"
#include "tensor/dtype.h"

namespace nereus {

// The element types of the format; DType has those of them that we compute with.
enum class FileDType : uint8_t {
  f64,
  f32,
  bf16,
  f16,
  f8e4m3,
  f8e5m2,
  f8e8m0,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  other,  // a type that is newer than this list: its bytes are not looked at
};

int64_t size_of(FileDType);      // bytes of an element; 0: not known (other)
const char* name_of(FileDType);  // as in the header: "F8_E4M3"
std::optional<FileDType> file_dtype(std::string_view header_name);
FileDType file_dtype(DType);
std::optional<DType> dtype_of(FileDType);

struct SafetensorsEntry {
  std::string name;
  FileDType dtype = FileDType::f32;
  std::vector<int64_t> shape;       // empty: a scalar, one element
  std::span<const std::byte> data;  // of any alignment
  std::string other_type = {};      // the header's word where dtype is `other`

  int64_t count() const;
  std::string to_string() const;  // "F32 [4, 8]"

  // Elements [begin, begin + n) as E, whose size must be the type's. Bounds are the caller's.
  template <class E>
  void read(int64_t begin, int64_t n, E* dst) const {
    if (n > 0) {
      memcpy(dst, data.data() + begin * static_cast<int64_t>(sizeof(E)),
             static_cast<size_t>(n) * sizeof(E));
    }
  }
  template <class E>
  std::vector<E> values() const {
    std::vector<E> out(static_cast<size_t>(count()));
    read(0, count(), out.data());
    return out;
  }
};

// A file mapped into memory for reading: opening reads the header only. The file must not shrink
// while this lives.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);
  // The same over bytes in memory, which must outlive it; `path` is for messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& path);

  const std::string& path() const { return path_; }
  // In the order of their bytes.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const SafetensorsEntry* find(const std::string& name) const;  // nullptr: there is none
  // Throws Error{kConfig} that names the file, the tensor and the nearest one that is there.
  const SafetensorsEntry& require(const std::string& name) const;
  // require(), and the type must be `dtype`.
  const SafetensorsEntry& require(const std::string& name, FileDType dtype) const;

  // Releases the pages of an entry that were read; until then the system counts them as memory of
  // the process. The bytes stay valid.
  void release_pages(const SafetensorsEntry&) const;

 private:
  std::string path_;
  std::shared_ptr<const std::byte> mapping_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes a file whose tensors are all declared first. It is written as `path`.partial and renamed
// by finish(), so that `path` is the old file or the complete new one. Space is reserved at the
// start, where the file system can do that, so that a full disk is noticed before the first tensor.
// What was written goes to the disk along the way, and its pages back to the system: a file larger
// than memory fills no page cache.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    FileDType dtype = FileDType::f32;
    std::vector<int64_t> shape;
  };

  // Wider types come first in the file, else in the given order: each tensor is aligned to its
  // type.
  SafetensorsWriter(std::string path, std::vector<Tensor> tensors,
                    std::map<std::string, std::string> metadata = {{"format", "pt"}});
  ~SafetensorsWriter() = default;  // without finish(): removes what was written
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Appends bytes to tensor `index` of the constructor's list. In the list's order writing is
  // sequential (but for the order by width above); any order is allowed.
  void append(size_t index, std::span<const std::byte> bytes);
  // Every declared byte must have been appended. Flushes to the disk and renames.
  void finish();

  int64_t file_bytes() const { return file_bytes_; }
  int64_t begin(size_t index) const { return slots_[index].begin; }  // in the file

 private:
  struct Slot {
    int64_t begin = 0, bytes = 0, written = 0;  // in the file
  };
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  void drop_pages();
  [[noreturn]] void fail_io(const char* doing, const std::error_code& error);

  std::string path_;
  std::vector<Tensor> tensors_;
  std::vector<Slot> slots_;
  int64_t file_bytes_ = 0;
  int64_t unflushed_ = 0;  // bytes
  AtomicFile file_;
};

}  // namespace nereus
