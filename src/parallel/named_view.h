// A view of a logical parameter, or of a box of it, under its name. What initialization, probes and
// checkpoints read and write; valid as long as the memory of the store that gave it.
#pragma once

#include <string>

#include "tensor/tensor.h"

namespace nereus {

struct NamedView {
  std::string name;  // of the parameter, or of a buffer that is saved with the parameters
  TensorView view;
  Shape origin = {}, whole = {};  // where the view begins in the parameter, and the parameter's
                                  // shape; no dims: the view is all of it
};

}  // namespace nereus
