// Hopper's own instructions (compute capability 9.0, target sm_90a): barriers in shared memory,
// copies by the tensor memory accelerator (TMA), products of warpgroups (wgmma). For .cu files
// only; for the formats see the PTX ISA's chapters on mbarrier, cp.async.bulk.tensor and wgmma.
//
// An address of shared memory is its 32-bit offset. A warpgroup is four warps from a multiple of
// four on; its threads issue a product together. The products read shared memory and write
// registers while the threads go on, until products_wait().
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nereus::ops::cuda::hopper {

// ---- barriers of threads ----

// Of the threads that name the same `id` (1 to 15), `threads` in all.
template <int id>
__device__ inline void sync_threads(int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"n"(id), "r"(threads) : "memory");
}
template <int id>
__device__ inline void arrive_threads(int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"n"(id), "r"(threads) : "memory");
}
__device__ inline void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void arrive_threads(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// ---- mbarriers: 8 bytes in shared memory; a phase ends with its count of arrivals and bytes ----

__device__ inline void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}
// After the inits, before other threads and the TMA see the barriers.
__device__ inline void barriers_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline bool phase_ended(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}
#ifdef NEREUS_TRAP_LONG_WAITS
constexpr uint64_t kLongestWait = 2'000'000'000;
__device__ inline uint64_t nanoseconds() {
  uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;\n" : "=l"(t));
  return t;
}
#endif
// Until the phase of this parity has ended; the phase before the first has parity 1.
__device__ inline void wait(uint32_t barrier, uint32_t parity) {
#ifdef NEREUS_TRAP_LONG_WAITS
  for (const uint64_t begin = nanoseconds(); !phase_ended(barrier, parity);)
    if (nanoseconds() - begin > kLongestWait) __trap();
#else
  while (!phase_ended(barrier, parity)) {
  }
#endif
}

// ---- copies into shared memory, whose bytes a barrier counts ----

__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int x0,
                                int x1, int x2, int x3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::"
      "complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];\n" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(barrier), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
      : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}
// `bytes`, a multiple of 16 from a multiple of 16 on.
__device__ inline void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::"
      "bytes [%0], [%1], %2, [%3];\n" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// From shared memory: stores, and adds in f32. A group of this thread's each.
__device__ inline void store_bytes(void* to, uint32_t from, int bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
      "cp.async.bulk.commit_group;\n" ::"l"(to),
      "r"(from), "r"(bytes)
      : "memory");
}
__device__ inline void add_floats(float* to, uint32_t from, int bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 "
      "[%0], [%1], %2;\n"
      "cp.async.bulk.commit_group;\n" ::"l"(to),
      "r"(from), "r"(bytes)
      : "memory");
}
// Until this thread's groups have read shared memory; until they are done.
__device__ inline void stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}
__device__ inline void stores_done() { asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory"); }
// This thread's ordinary stores to shared memory come before later products and copies of others
// that a barrier orders after it.
__device__ inline void stores_before_products() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// What this thread knows to be in global memory comes before its later copies.
__device__ inline void memory_before_copies() {
  asm volatile("fence.proxy.async.global;\n" ::: "memory");
}
// x += four floats in shared memory.
__device__ inline void add_shared(float& x0, float& x1, float& x2, float& x3, uint32_t from) {
  asm volatile(
      "{\n.reg .f32 a, b, c, d;\n"
      "ld.shared.v4.f32 {a, b, c, d}, [%4];\n"
      "add.f32 %0, %0, a;\nadd.f32 %1, %1, b;\nadd.f32 %2, %2, c;\nadd.f32 %3, %3, d;\n}\n"
      : "+f"(x0), "+f"(x1), "+f"(x2), "+f"(x3)
      : "r"(from)
      : "memory");
}

// Four 8 x 8 matrices of bf16: lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void store_matrices(uint32_t row, const uint32_t (&m)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(row),
               "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}

// ---- registers of a warpgroup's threads ----

template <int count>
__device__ inline void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(count));
}
template <int count>
__device__ inline void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(count));
}

// ---- products ----

// A tile in shared memory: rows of kSwizzle bytes, whose 16-byte chunks are permuted as the TMA's
// swizzle of that width does. `across`: bytes between the column blocks of kSwizzle bytes; it
// matters only to an operand whose rows are what is summed over ("transposed").
template <int kSwizzle>
__device__ inline uint64_t tile_operand(uint32_t address, int across) {
  static_assert(kSwizzle == 128 || kSwizzle == 64);
  constexpr uint64_t kKind = kSwizzle == 128 ? 1 : 2;
  constexpr uint64_t kEightRows = 8 * kSwizzle / 16;
  return kKind << 62 | kEightRows << 32 | static_cast<uint64_t>(across / 16) << 16 |
         static_cast<uint64_t>((address & 0x3ffffu) >> 4);
}
// The operand `bytes` further.
__device__ inline uint64_t further(uint64_t operand, int bytes) {
  return operand + static_cast<uint64_t>(bytes / 16);
}

// Before the first product after registers that products use were written.
__device__ inline void products_begin() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
// Ends a group of products.
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Until all but the last kLeft groups are done.
template <int kLeft>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
}
// The compiler must take these registers for written here: after a wait, before they are read.
template <int n>
__device__ inline void written(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define NEREUS_D8(c, i)                                                            \
  c "f"(d[i]), c "f"(d[i + 1]), c "f"(d[i + 2]), c "f"(d[i + 3]), c "f"(d[i + 4]), \
      c "f"(d[i + 5]), c "f"(d[i + 6]), c "f"(d[i + 7])
#define NEREUS_DATA32(c) NEREUS_D8(c, 0), NEREUS_D8(c, 8)
#define NEREUS_DATA64(c) NEREUS_DATA32(c), NEREUS_D8(c, 16), NEREUS_D8(c, 24)
#define NEREUS_DATA96(c) NEREUS_DATA64(c), NEREUS_D8(c, 32), NEREUS_D8(c, 40)
#define NEREUS_DATA128(c) NEREUS_DATA96(c), NEREUS_D8(c, 48), NEREUS_D8(c, 56)
#define NEREUS_DATA192(c) \
  NEREUS_DATA128(c), NEREUS_D8(c, 64), NEREUS_D8(c, 72), NEREUS_D8(c, 80), NEREUS_D8(c, 88)
#define NEREUS_LIST32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NEREUS_LIST64 \
  NEREUS_LIST32       \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NEREUS_LIST96 \
  NEREUS_LIST64       \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NEREUS_LIST128 \
  NEREUS_LIST96        \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NEREUS_LIST192                                               \
  NEREUS_LIST128                                                     \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"

// multiply<kTransposedA, kTransposedB>(d, a, b): d [64 x N] = a [64 x 16] b [16 x N] with d the N /
// 8 fragments of mma.cuh's C; multiply_add adds to d. a in shared memory, or a fragment of
// mma.cuh's A; b in shared memory. Not transposed: 16 columns are what is summed over. O0.. O5
// number the operands that come after d's.
#define NEREUS_PRODUCT_AS(function, c, add, N, O0, O1, O2, O3, O4, O5)                            \
  template <bool kTransposedA, bool kTransposedB>                                                 \
  __device__ inline void function(float(&d)[N / 2], uint64_t a, uint64_t b) {                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add                                          \
                 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 " NEREUS_LIST##N \
                 "}, %" #O0 ", %" #O1 ", p, 1, 1, %" #O2 ", %" #O3 ";\n}\n"                       \
                 : NEREUS_DATA##N(c)                                                              \
                 : "l"(a), "l"(b), "n"(static_cast<int>(kTransposedA)),                           \
                   "n"(static_cast<int>(kTransposedB)));                                          \
  }                                                                                               \
  template <bool kTransposedB>                                                                    \
  __device__ inline void function(float(&d)[N / 2], const uint32_t(&a)[4], uint64_t b) {          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add                                          \
                 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 " NEREUS_LIST##N \
                 "}, {%" #O0 ", %" #O1 ", %" #O2 ", %" #O3 "}, %" #O4 ", p, 1, 1, %" #O5 ";\n}\n" \
                 : NEREUS_DATA##N(c)                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                            \
                   "n"(static_cast<int>(kTransposedB)));                                          \
  }
#define NEREUS_PRODUCT(N, O0, O1, O2, O3, O4, O5)                  \
  NEREUS_PRODUCT_AS(multiply, "=", "0", N, O0, O1, O2, O3, O4, O5) \
  NEREUS_PRODUCT_AS(multiply_add, "+", "1", N, O0, O1, O2, O3, O4, O5)

NEREUS_PRODUCT(32, 16, 17, 18, 19, 20, 21)
NEREUS_PRODUCT(64, 32, 33, 34, 35, 36, 37)
NEREUS_PRODUCT(96, 48, 49, 50, 51, 52, 53)
NEREUS_PRODUCT(128, 64, 65, 66, 67, 68, 69)
NEREUS_PRODUCT(192, 96, 97, 98, 99, 100, 101)

#undef NEREUS_PRODUCT
#undef NEREUS_PRODUCT_AS
#undef NEREUS_D8
#undef NEREUS_DATA32
#undef NEREUS_DATA64
#undef NEREUS_DATA96
#undef NEREUS_DATA128
#undef NEREUS_DATA192
#undef NEREUS_LIST32
#undef NEREUS_LIST64
#undef NEREUS_LIST96
#undef NEREUS_LIST128
#undef NEREUS_LIST192

}  // namespace nereus::ops::cuda::hopper
