// Any box of a saved tensor, whatever slices it was saved in.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "checkpoint/manifest.h"
#include "checkpoint/slice_files.h"

namespace nereus {

class TensorReader {
 public:
  // The manifest must outlive this.
  TensorReader(const std::string& folder, const Manifest& m) : manifest_(m), files_(folder, m) {}

  // A box of one panel of tensor `tensor` of the manifest, row-major, in the type in which it was
  // saved. Throws Error{kIo}: a file that cannot be read or ends too early.
  void read(size_t tensor, const Box&, std::byte* out);

 private:
  void read_part(const Manifest::Tensor&, const Manifest::Slice&, const Box& part, const Box& box,
                 std::byte* out);

  const Manifest& manifest_;
  SliceFiles files_;
  std::vector<std::byte> picked_;
};

}  // namespace nereus
