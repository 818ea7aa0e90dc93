// Whole numbers of a file's format, lowest byte first.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

namespace nereus {

template <class T>
void append_little_endian(std::string& out, T value) {
  static_assert(std::is_unsigned_v<T>);
  for (size_t i = 0; i < sizeof(T); ++i)
    out.push_back(static_cast<char>(static_cast<unsigned char>(value >> (8 * i))));
}

// Of at most sizeof(T) bytes.
template <class T>
T little_endian(std::string_view bytes) {
  static_assert(std::is_unsigned_v<T>);
  T value = 0;
  for (size_t i = bytes.size(); i-- > 0;)
    value = static_cast<T>(value << 8 | static_cast<unsigned char>(bytes[i]));
  return value;
}

}  // namespace nereus
