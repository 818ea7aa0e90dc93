#include "data/npy.h"

#include <cstring>
#include <fstream>
#include <sstream>

#include "base/check.h"

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
std::vector<int64_t> widen(const char* data, int64_t count) {
  std::vector<int64_t> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) {
    T x;
    std::memcpy(&x, data + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int64_t>(x);
  }
  return out;
}

}  // namespace

std::vector<int64_t> read_npy(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  NEREUS_CHECK(kConfig, in.good(), "{}: cannot be read", path);
  std::stringstream stream;
  stream << in.rdbuf();
  const std::string file = std::move(stream).str();
  NEREUS_CHECK(kConfig, file.size() >= 12 && file.compare(0, 6, "\x93NUMPY") == 0,
               "{}: is not a .npy file", path);
  const auto byte = [&](size_t i) {
    return static_cast<size_t>(static_cast<unsigned char>(file[i]));
  };
  const bool wide = file[6] >= 2;
  const size_t start = wide ? 12 : 10;
  const size_t length = byte(8) | byte(9) << 8 | (wide ? byte(10) << 16 | byte(11) << 24 : 0);
  NEREUS_CHECK(kConfig, start + length <= file.size(), "{}: the .npy header is cut short", path);
  const std::string header = file.substr(start, length);
  const std::string type = field(header, "descr", path), shape = field(header, "shape", path);
  NEREUS_CHECK(kConfig, field(header, "fortran_order", path) == "False",
               "{}: is in Fortran order; save it with numpy.ascontiguousarray", path);
  const int64_t count = element_count(shape, path);
  const char kind = type.size() > 2 ? type[2] : '?';
  const int64_t width = type.size() > 3 ? type[3] - '0' : 0;
  NEREUS_CHECK(kConfig,
               (type[1] == '<' || type[1] == '|') && (kind == 'i' || kind == 'u') &&
                   (width == 1 || width == 2 || width == 4 || width == 8),
               "{}: has elements of type {}; token ids must be little-endian integers", path, type);
  NEREUS_CHECK(kConfig, static_cast<int64_t>(file.size() - start - length) >= count * width,
               "{}: is truncated: {} elements of {} bytes need {} bytes, and {} follow the header",
               path, count, width, count * width, file.size() - start - length);
  const char* data = file.data() + start + length;
  const bool is_signed = kind == 'i';
  switch (width) {
    case 1:
      return is_signed ? widen<int8_t>(data, count) : widen<uint8_t>(data, count);
    case 2:
      return is_signed ? widen<int16_t>(data, count) : widen<uint16_t>(data, count);
    case 4:
      return is_signed ? widen<int32_t>(data, count) : widen<uint32_t>(data, count);
    default:
      return is_signed ? widen<int64_t>(data, count) : widen<uint64_t>(data, count);
  }
}

}  // namespace nereus::data
