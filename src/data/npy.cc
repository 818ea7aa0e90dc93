#include "data/npy.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "base/fetched.h"

namespace nereus::data {
namespace {

// The text after 'key': in the header, a Python dict literal.
std::string field(const std::string& header, const std::string& key, const std::string& path) {
  const size_t at = header.find("'" + key + "':");
  NEREUS_CHECK(kConfig, at != std::string::npos, "{}: the .npy header has no {}", path, key);
  size_t begin = at + key.size() + 3;
  while (begin < header.size() && header[begin] == ' ') ++begin;
  const char close = header[begin] == '(' ? ')' : ',';
  const size_t end = header.find(close, begin);
  NEREUS_CHECK(kConfig, end != std::string::npos, "{}: the .npy header is cut short", path);
  return header.substr(begin, end - begin + (close == ')' ? 1 : 0));
}

int64_t element_count(const std::string& shape, const std::string& path) {
  int64_t count = 1;
  std::istringstream in(shape.substr(1));
  for (std::string part; std::getline(in, part, ',');) {
    const size_t digit = part.find_first_of("0123456789");
    if (digit == std::string::npos) continue;
    NEREUS_CHECK(kConfig, part.size() - digit < 16, "{}: the .npy shape {} is too large", path,
                 shape);
    const int64_t n = std::stoll(part.substr(digit));
    NEREUS_CHECK(kConfig, n == 0 || count <= (int64_t{1} << 40) / n,
                 "{}: the .npy shape {} is too large", path, shape);
    count *= n;
  }
  return count;
}

template <class T>
void widen(const std::string& raw, std::span<int64_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T x;
    std::memcpy(&x, raw.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int64_t>(x);
  }
}

}  // namespace

NpyFile::NpyFile(const std::string& path) : path_(path), in_(path, std::ios::binary) {
  std::error_code error;
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  NEREUS_CHECK(kConfig, in_.good() && !error, "{}: cannot be read", path);
  std::string head(static_cast<size_t>(std::min<int64_t>(size, 12)), '\0');
  in_.read(head.data(), static_cast<std::streamsize>(head.size()));
  check_fetched(path);
  NEREUS_CHECK(kConfig, head.size() == 12 && head.compare(0, 6, "\x93NUMPY") == 0,
               "{}: is not a .npy file", path);
  const auto byte = [&](size_t i) { return int64_t{static_cast<unsigned char>(head[i])}; };
  const bool wide = head[6] >= 2;
  const int64_t start = wide ? 12 : 10;
  const int64_t length = byte(8) | byte(9) << 8 | (wide ? byte(10) << 16 | byte(11) << 24 : 0);
  NEREUS_CHECK(kConfig, start + length <= size, "{}: the .npy header is cut short", path);
  std::string header(static_cast<size_t>(length), '\0');
  in_.seekg(start);
  in_.read(header.data(), length);
  const std::string type = field(header, "descr", path), shape = field(header, "shape", path);
  NEREUS_CHECK(kConfig, field(header, "fortran_order", path) == "False",
               "{}: is in Fortran order; save it with numpy.ascontiguousarray", path);
  NEREUS_CHECK(kConfig, shape.starts_with('('), "{}: the .npy shape {} is no tuple", path, shape);
  count_ = element_count(shape, path);
  const bool plain = type.size() == 5;  // '<i4' with its quotes
  const char order = plain ? type[1] : '?', kind = plain ? type[2] : '?';
  width_ = plain ? type[3] - '0' : 0;
  NEREUS_CHECK(kConfig,
               (order == '<' || order == '|') && (kind == 'i' || kind == 'u') &&
                   (width_ == 1 || width_ == 2 || width_ == 4 || width_ == 8),
               "{}: has elements of type {}; token ids must be little-endian integers", path, type);
  signed_ = kind == 'i';
  data_ = start + length;
  NEREUS_CHECK(kConfig, size - data_ >= count_ * width_,
               "{}: is truncated: {} elements of {} bytes need {} bytes, and {} follow the header",
               path, count_, width_, count_ * width_, size - data_);
}

void NpyFile::read(int64_t begin, std::span<int64_t> out) {
  raw_.resize(out.size() * static_cast<size_t>(width_));
  in_.clear();
  in_.seekg(data_ + begin * width_);
  in_.read(raw_.data(), static_cast<std::streamsize>(raw_.size()));
  NEREUS_CHECK(kIo, in_.gcount() == static_cast<std::streamsize>(raw_.size()),
               "{}: reading {} elements from {} failed", path_, out.size(), begin);
  switch (width_) {
    case 1:
      return signed_ ? widen<int8_t>(raw_, out) : widen<uint8_t>(raw_, out);
    case 2:
      return signed_ ? widen<int16_t>(raw_, out) : widen<uint16_t>(raw_, out);
    case 4:
      return signed_ ? widen<int32_t>(raw_, out) : widen<uint32_t>(raw_, out);
    default:
      return signed_ ? widen<int64_t>(raw_, out) : widen<uint64_t>(raw_, out);
  }
}

}  // namespace nereus::data
