#include "ops/grouped_gemms.cuh"

namespace nereus::ops::cuda {

void grouped_forward(Stream& stream, const GroupedProblem& p) {
  run_grouped<ForwardProduct<TileOf<128, 256>, ClusterOf<2, 1>, Hopper>>(stream, "grouped_matmul",
                                                                         p);
}

}  // namespace nereus::ops::cuda
