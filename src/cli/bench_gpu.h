// nereus bench gpu [--filter TEXT] [--repeats N] [--grouped-tiles] [--tune]: times the GPU's ops at
// the sizes of configs/slice1.toml, each with its share of a stated limit: 790 TFLOP/s for GEMMs
// in bf16, 2.9 TB/s for memory; what a large cuBLAS GEMM and a large copy reach on an H100.
#pragma once

namespace nereus {

// Arguments after `nereus bench`. Returns the exit code; throws Error.
int run_bench_gpu(int argc, char** argv);

}  // namespace nereus
