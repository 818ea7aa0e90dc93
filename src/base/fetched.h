// What is left where a file should be that was not fetched: the few lines that Git LFS keeps until
// `git lfs pull`, the web page that a server sent, nothing at all.
#pragma once

#include <string>
#include <string_view>

namespace nereus {

// Of the first bytes of a file; 64 are enough.
bool is_lfs_pointer(std::string_view start);
bool is_web_page(std::string_view start);

// Throws Error{kConfig} for one of these, or an empty file, with the remedy.
void check_fetched(const std::string& path, std::string_view start);
void check_fetched(const std::string& path);

// The whole text of a file that is none of these. Throws Error{kConfig} likewise, and for a file
// that cannot be read.
std::string read_fetched(const std::string& path);

// The beginning of a text as a message can show it.
std::string shown_start(std::string_view text);

}  // namespace nereus
