#include "ops/grouped_gemms.cuh"

namespace nereus::ops::cuda {

void grouped_dgrad_tall(Stream& stream, const GroupedProblem& p) {
  run_grouped<DgradProduct<TileOf<256, 128>, ClusterOf<2, 1>, Hopper>>(stream, "grouped_matmul", p);
}

}  // namespace nereus::ops::cuda
