// Must not build: an assert between asynchronous products makes ptxas serialize them (C7510), and
// the build takes that for an error. Asserts are on here, whatever the flags say.
#undef NDEBUG
#include <cassert>
#include <cstdint>

__global__ void kernel(float* out, uint64_t a, uint64_t b, int n) {
  float d[4] = {};
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
  for (int k = 0; k < n; ++k) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, "
        "0;\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a), "l"(b));
    assert(k != 77);
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = d[i];
}
