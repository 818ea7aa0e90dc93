#include "tensor/tensor.h"

namespace nereus {

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string((*this)[i]);
  }
  return text + "]";
}

template <class Pointer>
std::string BasicView<Pointer>::to_string() const {
  if (rank() == 0) return "no tensor";
  return std::string(name_of(dtype)) + " " + shape.to_string();
}

template struct BasicView<std::byte*>;
template struct BasicView<const std::byte*>;

}  // namespace nereus
