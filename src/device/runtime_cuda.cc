#include <cuda_runtime.h>

#include "base/check.h"
#include "device/cuda_runtime.h"

namespace nereus::cuda {
namespace {

void check(cudaError_t error, const char* call) {
  NEREUS_CHECK(kDevice, error == cudaSuccess, "{} failed: {} ({})", call, cudaGetErrorString(error),
               cudaGetErrorName(error));
}
#define NEREUS_CUDA_CALL(call) check(call, #call)

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

// Code for a generation's own instructions (90a, 100a) runs on exactly that compute capability.
bool built_for(const DeviceProperties& p) {
  const std::string mine = fmt::format(",{}{}a,", p.major, p.minor);
  return ("," + std::string(NEREUS_CUDA_ARCHITECTURES) + ",").find(mine) != std::string::npos;
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // the error is not to be found by a later call
    return 0;
  }
  return count;
}

void use_device(int index) {
  int driver = 0, runtime = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  NEREUS_CHECK(kConfig, driver > 0,
               "a GPU was asked for, and this machine has no NVIDIA driver. Install one for CUDA "
               "{} or newer, or train on the CPU with --device.kind=cpu.",
               version(runtime));
  NEREUS_CHECK(kConfig, driver / 1000 >= runtime / 1000,
               "the NVIDIA driver serves CUDA {}, and this program needs CUDA {}. Update the "
               "driver, or build with an older toolkit.",
               version(driver), version(runtime));
  const cudaError_t error = cudaGetDeviceCount(&count);
  NEREUS_CHECK(kConfig, error == cudaSuccess && count > 0,
               "a GPU was asked for, and the driver shows none: {}. Look at nvidia-smi and "
               "CUDA_VISIBLE_DEVICES, or train on the CPU with --device.kind=cpu.",
               cudaGetErrorString(error));
  NEREUS_CHECK(kConfig, index < count, "GPU {} was asked for; there are {}, numbered from 0.",
               index, count);
  const DeviceProperties p = properties(index);
  NEREUS_CHECK(kConfig, p.major >= 9,
               "GPU {} is a {} of compute capability {}.{}; the kernels need 9.0 (H100) or newer. "
               "Train on the CPU with --device.kind=cpu.",
               index, p.name, p.major, p.minor);
  NEREUS_CHECK(
      kConfig, built_for(p),
      "GPU {} is a {} of compute capability {}.{}, and this program was built for {} only. "
      "{}",
      index, p.name, p.major, p.minor, NEREUS_CUDA_ARCHITECTURES,
      p.major == 10 && p.minor == 0
          ? "Build it with -DNEREUS_CUDA_ARCHITECTURES='90a;100a' (whose code for this GPU "
            "has been compiled and never run)."
          : "There is no code for this one yet. Train on the CPU with --device.kind=cpu.");
  NEREUS_CUDA_CALL(cudaSetDevice(index));
}

void use_device_again(int index) { NEREUS_CUDA_CALL(cudaSetDevice(index)); }

DeviceProperties properties(int index) {
  cudaDeviceProp p{};
  NEREUS_CUDA_CALL(cudaGetDeviceProperties(&p, index));
  return {.name = p.name,
          .memory_bytes = static_cast<int64_t>(p.totalGlobalMem),
          .sm_count = p.multiProcessorCount,
          .major = p.major,
          .minor = p.minor};
}

MemoryInfo memory_info(int index) {
  NEREUS_CUDA_CALL(cudaSetDevice(index));
  size_t available = 0, total = 0;
  NEREUS_CUDA_CALL(cudaMemGetInfo(&available, &total));
  return {static_cast<int64_t>(available), static_cast<int64_t>(total)};
}

void* make_stream(int index, bool high_priority) {
  use_device(index);
  cudaStream_t stream = nullptr;
  // The lowest is what streams have that ask for none; the highest is for sends of a pipeline,
  // which wait on the device for other ranks (comm/nccl_ranks_nccl.cc). Numbers fall as they rise.
  int lowest = 0, highest = 0;
  NEREUS_CUDA_CALL(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  NEREUS_CUDA_CALL(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                                high_priority ? lowest - 1 : lowest));
  return stream;
}
void destroy_stream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
void synchronize_stream(void* stream) {
  NEREUS_CUDA_CALL(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
}

void call_on_host(void* stream, void (*work)(void*), void* data) {
  NEREUS_CUDA_CALL(cudaLaunchHostFunc(static_cast<cudaStream_t>(stream), work, data));
}

void* make_event(bool timing) {
  cudaEvent_t event = nullptr;
  NEREUS_CUDA_CALL(
      cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming));
  return event;
}
void destroy_event(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
void record_event(void* event, void* stream) {
  NEREUS_CUDA_CALL(
      cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)));
}
void wait_event(void* event, void* stream) {
  NEREUS_CUDA_CALL(
      cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event)));
}
void synchronize_event(void* event) {
  NEREUS_CUDA_CALL(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}
float milliseconds_between(void* begin, void* end) {
  float ms = 0;
  NEREUS_CUDA_CALL(
      cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(begin), static_cast<cudaEvent_t>(end)));
  return ms;
}

void* allocate(int index, int64_t bytes) {
  NEREUS_CUDA_CALL(cudaSetDevice(index));
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<size_t>(bytes)) == cudaSuccess) return memory;
  cudaGetLastError();
  return nullptr;
}
void* allocate_pinned(int64_t bytes) {
  void* memory = nullptr;
  if (cudaMallocHost(&memory, static_cast<size_t>(bytes)) == cudaSuccess) return memory;
  cudaGetLastError();
  return nullptr;
}
bool pin(int index, void* memory, int64_t bytes) {
  NEREUS_CUDA_CALL(cudaSetDevice(index));
  if (cudaHostRegister(memory, static_cast<size_t>(bytes), cudaHostRegisterPortable) == cudaSuccess)
    return true;
  cudaGetLastError();
  return false;
}
void unpin(void* memory) { cudaHostUnregister(memory); }
void release(void* memory) { cudaFree(memory); }
void release_pinned(void* memory) { cudaFreeHost(memory); }
void zero(void* memory, int64_t bytes) {
  NEREUS_CUDA_CALL(cudaMemset(memory, 0, static_cast<size_t>(bytes)));
  NEREUS_CUDA_CALL(cudaDeviceSynchronize());  // no stream of ours waits for the default one
}
void fill_async(void* memory, int byte, int64_t bytes, void* stream) noexcept {
  cudaMemsetAsync(memory, byte, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream));
}

void copy_async(void* to, const void* from, int64_t bytes, void* stream) {
  NEREUS_CUDA_CALL(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault,
                                   static_cast<cudaStream_t>(stream)));
}

void copy_rows_async(void* to, int64_t to_step, const void* from, int64_t from_step, int64_t width,
                     int64_t rows, void* stream) {
  NEREUS_CUDA_CALL(cudaMemcpy2DAsync(to, static_cast<size_t>(to_step), from,
                                     static_cast<size_t>(from_step), static_cast<size_t>(width),
                                     static_cast<size_t>(rows), cudaMemcpyDefault,
                                     static_cast<cudaStream_t>(stream)));
}

double peer_bandwidth(int from, int to, int64_t bytes) {
  constexpr int kCopies = 8;
  int direct = 0;
  NEREUS_CUDA_CALL(cudaDeviceCanAccessPeer(&direct, from, to));
  if (!direct) return -1;
  const auto n = static_cast<size_t>(bytes);
  void *source = nullptr, *target = nullptr;
  NEREUS_CUDA_CALL(cudaSetDevice(to));
  NEREUS_CUDA_CALL(cudaMalloc(&target, n));
  NEREUS_CUDA_CALL(cudaSetDevice(from));
  NEREUS_CUDA_CALL(cudaMalloc(&source, n));
  if (cudaDeviceEnablePeerAccess(to, 0) != cudaSuccess) cudaGetLastError();  // it is already
  void *stream = make_stream(from), *begin = make_event(true), *end = make_event(true);
  const auto copy = [&] {
    NEREUS_CUDA_CALL(
        cudaMemcpyPeerAsync(target, to, source, from, n, static_cast<cudaStream_t>(stream)));
  };
  copy();  // the first one sets the way up
  record_event(begin, stream);
  for (int i = 0; i < kCopies; ++i) copy();
  record_event(end, stream);
  synchronize_event(end);
  const double seconds = 1e-3 * static_cast<double>(milliseconds_between(begin, end));
  destroy_event(begin);
  destroy_event(end);
  destroy_stream(stream);
  NEREUS_CUDA_CALL(cudaFree(source));
  NEREUS_CUDA_CALL(cudaFree(target));
  return kCopies * static_cast<double>(bytes) / seconds;
}

void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  NEREUS_CHECK(kDevice, error == cudaSuccess, "{}: the kernel could not be launched: {} ({})", op,
               cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace nereus::cuda
