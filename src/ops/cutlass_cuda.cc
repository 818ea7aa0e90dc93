#include "base/check.h"
#include "ops/grouped_cutlass.h"

namespace nereus::ops::cuda {

void fail_cutlass(const char* op, const char* step, const char* reason) {
  NEREUS_FAIL(kDevice, "{}: CUTLASS's {} failed: {}", op, step, reason);
}

}  // namespace nereus::ops::cuda
