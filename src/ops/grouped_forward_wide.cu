#include "ops/grouped_gemms.cuh"

namespace nereus::ops::cuda {

void grouped_forward_wide(Stream& stream, const GroupedProblem& p) {
  run_grouped<ForwardProduct<TileOf<128, 256>, ClusterOf<1, 2>, Hopper>>(stream, "grouped_matmul",
                                                                         p);
}

}  // namespace nereus::ops::cuda
