// Ranges for profilers of NVIDIA (Nsight Systems, Nsight Compute), by NVTX: they nest on the
// calling thread. NVTX comes with the CUDA toolkit; in a build without it nothing is attached.
#pragma once

namespace nereus::nvtx {

// Is there a profiler? It says so with NVTX_INJECTION64_PATH, as NVTX itself looks for it.
bool attached();

void push(const char* name);
void pop();

}  // namespace nereus::nvtx
