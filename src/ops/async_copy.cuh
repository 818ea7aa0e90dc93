// Copies from global to shared memory in the background, and the dynamic shared memory they go to.
// For .cu files only. Addresses in shared memory are 32 bits wide, as the instructions take them.
#pragma once

#include <cstdint>

#include "ops/cuda.cuh"

namespace nereus::ops::cuda {

// The kernel's dynamic shared memory, aligned to 128 bytes, and its address.
__device__ inline unsigned char* dynamic_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}
__device__ inline uint32_t dynamic_shared() {
  return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_memory()));
}

// 16 (4) bytes from global to shared memory in the background; zeros unless `there`.
__device__ inline void copy_async16(uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
__device__ inline void copy_async4(uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from),
               "r"(there ? 4 : 0)
               : "memory");
}
// Ends a group of this thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits for this thread's copies, except those of its last `kGroups` groups.
template <int kGroups>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
}

}  // namespace nereus::ops::cuda
