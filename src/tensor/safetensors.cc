#include "tensor/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/check.h"
#include "base/fetched.h"
#include "base/suggest.h"

namespace nereus {
namespace {

using Json = nlohmann::json;

struct TypeRow {
  FileDType type;
  const char* name;
  int64_t size;
  std::optional<DType> dtype;
};
constexpr std::array<TypeRow, 17> kTypes = {{
    {FileDType::f64, "F64", 8, DType::f64},
    {FileDType::f32, "F32", 4, DType::f32},
    {FileDType::bf16, "BF16", 2, DType::bf16},
    {FileDType::f16, "F16", 2, DType::f16},
    {FileDType::f8e4m3, "F8_E4M3", 1, DType::f8e4m3},
    {FileDType::f8e5m2, "F8_E5M2", 1, std::nullopt},
    {FileDType::f8e8m0, "F8_E8M0", 1, std::nullopt},
    {FileDType::i64, "I64", 8, DType::i64},
    {FileDType::i32, "I32", 4, DType::i32},
    {FileDType::i16, "I16", 2, std::nullopt},
    {FileDType::i8, "I8", 1, std::nullopt},
    {FileDType::u64, "U64", 8, std::nullopt},
    {FileDType::u32, "U32", 4, std::nullopt},
    {FileDType::u16, "U16", 2, std::nullopt},
    {FileDType::u8, "U8", 1, DType::u8},
    {FileDType::boolean, "BOOL", 1, std::nullopt},
    {FileDType::other, "", 0, std::nullopt},
}};
const TypeRow& row_of(FileDType t) { return kTypes[static_cast<size_t>(t)]; }

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kLongestHeader = 100'000'000;  // the safetensors library's own bound

std::string show(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Reads and checks a header. Every message begins with the file's path.
class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> bytes, const std::string& path)
      : bytes_(bytes), path_(path) {}

  void parse() {
    const std::string_view text = header_text();
    const Json header = json(text);
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        read_metadata(value);
      } else {
        entries.push_back(read_entry(key, value));
      }
    }
    // Empty tensors first among those that begin at the same byte.
    std::sort(entries.begin(), entries.end(), [](const Range& a, const Range& b) {
      return std::tie(a.begin, a.end, a.entry.name) < std::tie(b.begin, b.end, b.entry.name);
    });
    check_ranges();
  }

  struct Range {
    SafetensorsEntry entry;
    uint64_t begin = 0, end = 0;  // in the data
  };
  std::vector<Range> entries;
  std::map<std::string, std::string> metadata;

 private:
  std::string_view text(size_t begin, size_t n) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + begin, n};
  }

  std::string_view header_text() {
    const uint64_t size = bytes_.size();
    check_fetched(path_, text(0, std::min<size_t>(size, 128)));
    NEREUS_CHECK(kConfig, size >= kLengthBytes,
                 "{}: not a safetensors file: it has {} bytes, and the header's length alone takes "
                 "{}; download or copy it again",
                 path_, size, kLengthBytes);
    uint64_t length = 0;
    for (size_t i = kLengthBytes; i-- > 0;) length = length << 8 | static_cast<uint8_t>(bytes_[i]);
    NEREUS_CHECK(kConfig, length <= kLongestHeader,
                 "{}: not a safetensors file: its first 8 bytes announce a header of {} bytes; at "
                 "most {} are allowed",
                 path_, length, kLongestHeader);
    NEREUS_CHECK(kConfig, length <= size - kLengthBytes,
                 "{}: truncated, or not a safetensors file: its first 8 bytes announce a header of "
                 "{} bytes, but only {} follow; download or copy it again",
                 path_, length, size - kLengthBytes);
    data_begin_ = kLengthBytes + length;
    return text(kLengthBytes, static_cast<size_t>(length));
  }

  // The parsed header, in which no name occurs twice (the parser alone would drop one silently).
  Json json(std::string_view header) {
    NEREUS_CHECK(kConfig, header.starts_with('{'),
                 "{}: not a safetensors file: its header does not begin with '{{'", path_);
    std::unordered_set<std::string> names, fields;
    const auto callback = [&](int depth, Json::parse_event_t event, Json& value) {
      NEREUS_CHECK(kConfig, depth <= 3, "{}: its header is nested too deeply", path_);
      if (event != Json::parse_event_t::key) return true;
      const std::string& key = value.get_ref<const std::string&>();
      if (depth == 1) {
        NEREUS_CHECK(kConfig, names.insert(key).second, "{}: its header has '{}' twice", path_,
                     key);
        fields.clear();
      } else {
        NEREUS_CHECK(kConfig, fields.insert(key).second, "{}: its header has the field '{}' twice",
                     path_, key);
      }
      return true;
    };
    try {
      return Json::parse(header, callback);
    } catch (const Json::exception& e) {
      NEREUS_FAIL(kConfig, "{}: its header is not valid JSON: {}", path_, e.what());
    }
  }

  void read_metadata(const Json& value) {
    NEREUS_CHECK(kConfig, value.is_object(), "{}: __metadata__ is not an object", path_);
    for (const auto& [key, text] : value.items()) {
      NEREUS_CHECK(kConfig, text.is_string(), "{}: __metadata__ '{}' is not a string", path_, key);
      metadata[key] = text.get<std::string>();
    }
  }

  uint64_t natural(const std::string& name, const char* field, const Json& value) const {
    NEREUS_CHECK(kConfig, value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX,
                 "{}: tensor '{}': {} holds {}; expected whole numbers from 0 up", path_, name,
                 field, value.dump());
    return value.get<uint64_t>();
  }

  Range read_entry(const std::string& name, const Json& value) const {
    NEREUS_CHECK(kConfig, value.is_object(), "{}: tensor '{}' is not described by an object", path_,
                 name);
    const auto field = [&](const char* key) -> const Json& {
      const auto it = value.find(key);
      NEREUS_CHECK(kConfig, it != value.end(), "{}: tensor '{}' has no {}", path_, name, key);
      return *it;
    };
    Range r;
    r.entry.name = name;
    const Json& type = field("dtype");
    NEREUS_CHECK(kConfig, type.is_string(), "{}: tensor '{}': dtype is not a string", path_, name);
    // A type that is not known is no fault of a tensor that nobody asks for.
    const auto known = file_dtype(type.get_ref<const std::string&>());
    const FileDType dtype = known.value_or(FileDType::other);
    if (!known) r.entry.other_type = type.get<std::string>();
    r.entry.dtype = dtype;
    const Json &shape = field("shape"), &offsets = field("data_offsets");
    NEREUS_CHECK(kConfig, shape.is_array(), "{}: tensor '{}': shape is not a list", path_, name);
    NEREUS_CHECK(kConfig, offsets.is_array() && offsets.size() == 2,
                 "{}: tensor '{}': data_offsets is not a list of two numbers", path_, name);
    uint64_t bytes = known ? static_cast<uint64_t>(size_of(dtype)) : 1;
    bool overflow = false;
    for (const Json& d : shape) {
      const uint64_t dim = natural(name, "shape", d);
      overflow |= __builtin_mul_overflow(bytes, dim, &bytes);
      r.entry.shape.push_back(static_cast<int64_t>(dim));
    }
    NEREUS_CHECK(kConfig, !overflow && bytes <= INT64_MAX,
                 "{}: tensor '{}': the shape {} is too large", path_, name, show(r.entry.shape));
    r.begin = natural(name, "data_offsets", offsets[0]);
    r.end = natural(name, "data_offsets", offsets[1]);
    NEREUS_CHECK(kConfig, r.begin <= r.end,
                 "{}: tensor '{}': data_offsets [{}, {}] end before they begin", path_, name,
                 r.begin, r.end);
    NEREUS_CHECK(
        kConfig, !known || bytes == r.end - r.begin,
        "{}: tensor '{}' has a wrong length: {} takes {} bytes, data_offsets [{}, {}] give {}",
        path_, name, r.entry.to_string(), bytes, r.begin, r.end, r.end - r.begin);
    return r;
  }

  void check_ranges() {
    const uint64_t available = bytes_.size() - data_begin_;
    uint64_t end = 0;
    const Range* before = nullptr;
    for (const Range& r : entries) {
      NEREUS_CHECK(kConfig, r.begin >= end,
                   "{}: tensors '{}' and '{}' overlap: bytes [{}, {}] and [{}, {}]", path_,
                   before == nullptr ? "" : before->entry.name, r.entry.name,
                   before == nullptr ? 0 : before->begin, end, r.begin, r.end);
      NEREUS_CHECK(
          kConfig, r.begin == end,
          "{}: a gap of {} bytes before tensor '{}', which begins at {} where {} is expected",
          path_, r.begin - end, r.entry.name, r.begin, end);
      end = r.end;
      before = &r;
    }
    if (end > available) {
      const auto cut = std::find_if(entries.begin(), entries.end(),
                                    [&](const Range& r) { return r.end > available; });
      NEREUS_FAIL(kConfig,
                  "{}: truncated: its tensors take {} bytes and {} are there, {} are missing (from "
                  "'{}' on); download or copy it again",
                  path_, end, available, end - available, cut->entry.name);
    }
    NEREUS_CHECK(
        kConfig, end == available,
        "{}: a gap of {} bytes after the last tensor: its tensors take {} bytes and {} are there",
        path_, available - end, end, available);
    for (Range& r : entries)
      r.entry.data = bytes_.subspan(static_cast<size_t>(data_begin_ + r.begin),
                                    static_cast<size_t>(r.end - r.begin));
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
  uint64_t data_begin_ = 0;
};

}  // namespace

int64_t size_of(FileDType t) { return row_of(t).size; }
const char* name_of(FileDType t) { return row_of(t).name; }
std::optional<DType> dtype_of(FileDType t) { return row_of(t).dtype; }

std::optional<FileDType> file_dtype(std::string_view header_name) {
  for (const TypeRow& row : kTypes)
    if (row.type != FileDType::other && header_name == row.name) return row.type;
  return std::nullopt;
}

FileDType file_dtype(DType t) {
  for (const TypeRow& row : kTypes)
    if (row.dtype == t) return row.type;
  NEREUS_FAIL(kContract, "safetensors has no type for {}", name_of(t));
}

int64_t SafetensorsEntry::count() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

std::string SafetensorsEntry::to_string() const {
  return fmt::format("{} {}", dtype == FileDType::other ? other_type.c_str() : name_of(dtype),
                     show(shape));
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  NEREUS_CHECK(kConfig, file >= 0, "{}: cannot read: {}", path, std::strerror(errno));
  struct stat status {};
  const bool regular = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const size_t bytes = regular ? static_cast<size_t>(status.st_size) : 0;
  void* address = bytes > 0 ? mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0) : nullptr;
  const int error = errno;
  ::close(file);
  NEREUS_CHECK(kConfig, regular, "{}: not a safetensors file: not a regular file", path);
  NEREUS_CHECK(kIo, address != MAP_FAILED, "{}: cannot map {} bytes into memory: {}", path, bytes,
               std::strerror(error));
  std::shared_ptr<const std::byte> mapping(static_cast<const std::byte*>(address),
                                           [address, bytes](const std::byte*) {
                                             if (bytes > 0) munmap(address, bytes);
                                           });
  SafetensorsFile out = parse({mapping.get(), bytes}, path);
  out.mapping_ = std::move(mapping);
  return out;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& path) {
  HeaderParser header(bytes, path);
  header.parse();
  SafetensorsFile out;
  out.path_ = path;
  out.metadata_ = std::move(header.metadata);
  out.entries_.reserve(header.entries.size());
  for (HeaderParser::Range& r : header.entries) {
    out.index_.emplace(r.entry.name, out.entries_.size());
    out.entries_.push_back(std::move(r.entry));
  }
  return out;
}

void SafetensorsFile::release_pages(const SafetensorsEntry& entry) const {
  if (mapping_ == nullptr || entry.data.empty()) return;
  // From the beginning of its first page. Only an advice: where it fails, the pages stay.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t offset = static_cast<size_t>(entry.data.data() - mapping_.get()) % page;
  (void)madvise(const_cast<std::byte*>(entry.data.data()) - offset, entry.data.size() + offset,
                MADV_DONTNEED);
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

const SafetensorsEntry& SafetensorsFile::require(const std::string& name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry != nullptr) return *entry;
  std::vector<std::string> names;
  for (const SafetensorsEntry& e : entries_) names.push_back(e.name);
  const std::string near = nearest(name, names);
  NEREUS_FAIL(kConfig, "{}: there is no tensor '{}' among its {}{}", path_, name, names.size(),
              near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
}

const SafetensorsEntry& SafetensorsFile::require(const std::string& name, FileDType dtype) const {
  const SafetensorsEntry& entry = require(name);
  NEREUS_CHECK(kConfig, entry.dtype == dtype, "{}: tensor '{}' is {}; expected {}", path_, name,
               entry.to_string(), name_of(dtype));
  return entry;
}

}  // namespace nereus
