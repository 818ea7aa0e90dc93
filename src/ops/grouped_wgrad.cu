#include "ops/grouped_gemms.cuh"

namespace nereus::ops::cuda {

void grouped_wgrad(Stream& stream, const GroupedProblem& p) {
  run_grouped<WgradProduct<TileOf<128, 256>, ClusterOf<2, 1>, Hopper>>(stream, "grouped_wgrad", p);
}

}  // namespace nereus::ops::cuda
