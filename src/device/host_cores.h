// The cores of the host that are near a GPU.
#pragma once

#include <string>
#include <vector>

namespace nereus {

// "0-3,8,10-11" as the kernel writes lists of cores; empty for what is no such list.
std::vector<int> parse_core_list(const std::string& text);
std::string core_list_text(const std::vector<int>& cores);  // the reverse; sorted input

// Restricts the calling thread, and threads that it starts later, to those of its cores that share
// a NUMA node with the GPU according to sysfs, so that copies and launches do not cross sockets.
// Returns these cores; empty, and nothing changes, where nothing is known or none of them may be
// used.
std::vector<int> bind_thread_near_gpu(int gpu);

}  // namespace nereus
