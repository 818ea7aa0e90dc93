// Does the file system of a path answer? Whatever looks at a hard mount whose server is gone (NFS,
// Lustre, FUSE) waits for ever, and nothing gets a thread out of that; so another process looks.
#pragma once

#include <chrono>
#include <string>

namespace nereus {

// False when nothing came back within `limit`; that there is no such file is an answer. Forks: for
// the start of a process, before threads and devices.
bool mount_answers(const std::string& path, std::chrono::milliseconds limit);

// The mount that a path is on, by its name alone: "/lustre (lustre)"; "" when it is not known.
// `table` is what /proc/self/mountinfo has.
std::string mount_of(const std::string& path, const std::string& table = "/proc/self/mountinfo");

}  // namespace nereus
