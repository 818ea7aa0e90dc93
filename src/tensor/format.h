// fmt formatters for shapes, types and views. For .cc files only.
#pragma once

#include <fmt/format.h>

#include "tensor/tensor.h"

template <>
struct fmt::formatter<nereus::DType> : fmt::formatter<fmt::string_view> {
  auto format(nereus::DType t, fmt::format_context& c) const {
    return fmt::formatter<fmt::string_view>::format(nereus::name_of(t), c);
  }
};
template <>
struct fmt::formatter<nereus::Shape> : fmt::formatter<fmt::string_view> {
  auto format(const nereus::Shape& s, fmt::format_context& c) const {
    return fmt::formatter<fmt::string_view>::format(s.to_string(), c);
  }
};
template <class Pointer>
struct fmt::formatter<nereus::BasicView<Pointer>> : fmt::formatter<fmt::string_view> {
  auto format(const nereus::BasicView<Pointer>& v, fmt::format_context& c) const {
    return fmt::formatter<fmt::string_view>::format(v.to_string(), c);
  }
};
