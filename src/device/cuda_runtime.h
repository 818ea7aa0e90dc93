// The CUDA runtime as device.cc needs it, without CUDA's headers; defined in builds with CUDA only.
// Every call throws Error{kDevice} that names the call and the runtime's reason.
#pragma once

#include <cstdint>
#include <string>

namespace nereus::cuda {

// How many GPUs the driver shows; 0 when there is none, or no driver.
int device_count();

// Makes `index` the calling thread's device. Throws Error{kConfig} when there is no such GPU, when
// the driver is too old for the toolkit, or when the kernels are not built for the GPU's
// generation; the message says what was found and what to do.
void use_device(int index);

// The same without the checks, once they have been made: for threads that come later.
void use_device_again(int index);

struct DeviceProperties {
  std::string name;
  int64_t memory_bytes = 0;
  int sm_count = 0;
  int major = 0, minor = 0;  // compute capability
};
DeviceProperties properties(int index);

// Bytes of the device's memory that are free, and how many it has.
struct MemoryInfo {
  int64_t free = 0, total = 0;
};
MemoryInfo memory_info(int index);

void* make_stream(int index, bool high_priority = false);
void destroy_stream(void* stream);
void synchronize_stream(void* stream);

// `work` is called with `data`, on a thread of the runtime, when the stream has come so far; what
// is enqueued later waits for it. It may make no call of the runtime.
void call_on_host(void* stream, void (*work)(void*), void* data);

void* make_event(bool timing);
void destroy_event(void* event);
void record_event(void* event, void* stream);
void wait_event(void* event, void* stream);
void synchronize_event(void* event);
float milliseconds_between(void* begin, void* end);

void* allocate(int index, int64_t bytes);  // null when there is not that much
void* allocate_pinned(int64_t bytes);      // null likewise
// Pins host memory that is there, for copies of any device; false when the system does not let it.
bool pin(int index, void* memory, int64_t bytes);
void unpin(void* memory);
void release(void* memory);
void release_pinned(void* memory);
void zero(void* memory, int64_t bytes);  // device memory; returns when done
void fill_async(void* memory, int byte, int64_t bytes, void* stream) noexcept;

void copy_async(void* to, const void* from, int64_t bytes, void* stream);
// `rows` rows of `width` bytes, to_step and from_step bytes apart.
void copy_rows_async(void* to, int64_t to_step, const void* from, int64_t from_step, int64_t width,
                     int64_t rows, void* stream);

// Bytes a second of copies from one GPU to another, both of which must be idle; negative when they
// have no direct path (NVLink, PCIe peer to peer). Makes GPU `from` the thread's device.
double peer_bandwidth(int from, int to, int64_t bytes);

// Throws if a launch since the last call failed. `op` goes into the message.
void check_launch(const char* op);

}  // namespace nereus::cuda
