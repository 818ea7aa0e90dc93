// What is at a path and in a folder, without the exceptions of std::filesystem: those say neither
// what was asked nor what would help, and end the program as a mistake of its own.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

namespace nereus {

// Is there anything, at the end of links? What cannot be looked at (no right to, a loop of links)
// is not there.
bool is_there(const std::filesystem::path&);
bool is_folder(const std::filesystem::path&);

// For a message about a path that is not what it should be: "there is no such file or folder", "it
// is a folder", "it is a file", "it is neither a file nor a folder", or what the system says
// ("Permission denied").
std::string what_is_at(const std::filesystem::path&);

// A folder's entries, in no order. With an error those before it.
std::vector<std::filesystem::directory_entry> entries_of(const std::filesystem::path& folder,
                                                         std::error_code& error);

// From the root on, without "." and "..". Throws Error{kConfig} when the working folder is gone.
std::string absolute_path(const std::filesystem::path&);

}  // namespace nereus
