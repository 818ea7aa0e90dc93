// What a run says of the machine it is on: peaks of GPUs by name, memory in use.
#pragma once

#include <optional>
#include <string>

#include "device/device.h"

namespace nereus {

// Dense bf16 FLOP/s by TorchTitan's table (matched in its order, on parts of the name); none for a
// device that it does not have, where TorchTitan would take an A100's.
std::optional<double> peak_flops(const std::string& device_name);

// Of the stream's device; none on a CPU.
std::optional<double> peak_flops(const Stream&);

// Bytes a second of the device's memory, by its data sheet; none for one that is not known.
std::optional<double> peak_bandwidth(const std::string& device_name);

// "NVIDIA H200", "Intel Xeon ...".
std::string device_name(const Stream&);

struct MemoryUse {
  double peak_gib = 0;      // highest since the start: of the process on a CPU (VmHWM)
  double peak_percent = 0;  // of the machine's or device's memory
};
MemoryUse memory_use(const Stream&);

// Bytes of the machine's memory that programs can still take (MemAvailable).
double available_host_memory();

// Its name and memory: "NVIDIA H200 with 139.80GiB memory".
std::string device_text(const Stream&);

// Logs the device's name and memory, and its peak if it is known.
void log_device(const Stream&);

}  // namespace nereus
