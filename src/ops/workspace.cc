#include "ops/workspace.h"

#include <algorithm>

#include "base/check.h"

namespace nereus::ops {

void Workspace::reserve_bytes(int64_t bytes) {
  measured_ = true;
  grow(std::max(bytes, kLeastBytes));
}

std::byte* Workspace::take_bytes(int64_t bytes) {
  NEREUS_CHECK(kContract, bytes <= buffer_.bytes() || !measured_,
               "an op asks for a workspace of {} bytes, and the step that was measured needs {}",
               bytes, buffer_.bytes());
  grow(bytes);
  return buffer_.data();
}

void Workspace::grow(int64_t bytes) {
  if (bytes <= buffer_.bytes()) return;
  stream_.synchronize();  // an op may still be using the old block
  buffer_ = Buffer();
  buffer_ = Buffer(stream_.device(), std::max(bytes, kLeastBytes), "workspace of kernels");
}

}  // namespace nereus::ops
