#include "base/fetched.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "base/text.h"

namespace nereus {

bool is_lfs_pointer(std::string_view start) { return start.starts_with("version https://git-lfs"); }

// A safetensors file may begin with "<!", the length of its header, but not with so many letters.
bool is_web_page(std::string_view start) {
  constexpr std::string_view kBlank = " \t\r\n\xEF\xBB\xBF";
  start.remove_prefix(std::min(start.find_first_not_of(kBlank), start.size()));
  const std::string text = lower(std::string(start.substr(0, 16)));
  constexpr std::array<std::string_view, 5> kBegins = {"<!doctype", "<html", "<head", "<body",
                                                       "<?xml"};
  return std::any_of(kBegins.begin(), kBegins.end(),
                     [&](std::string_view begin) { return text.starts_with(begin); });
}

void check_fetched(const std::string& path, std::string_view start) {
  NEREUS_CHECK(kConfig, !start.empty(), "{}: is empty; download or copy it again", path);
  NEREUS_CHECK(
      kConfig, !is_lfs_pointer(start),
      "{}: this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull` or "
      "download it again",
      path);
  NEREUS_CHECK(kConfig, !is_web_page(start),
               "{}: this is a web page, not the file itself (a server's answer, perhaps); download "
               "it again. It begins with {}",
               path, shown_start(start));
}

void check_fetched(const std::string& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::error_code ignored;
  NEREUS_CHECK(kConfig, in.good() && !std::filesystem::is_directory(path, ignored),
               "{}: cannot be read: {}", path, std::strerror(in.good() ? EISDIR : errno));
  std::array<char, 128> start{};
  in.read(start.data(), start.size());
  check_fetched(path, {start.data(), static_cast<size_t>(in.gcount())});
}

std::string read_fetched(const std::string& path) {
  check_fetched(path);
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  std::string text(static_cast<size_t>(std::max<std::streamoff>(0, in.tellg())), '\0');
  in.seekg(0);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  NEREUS_CHECK(kConfig, in.good(), "{}: reading failed: {}", path, std::strerror(errno));
  return text;
}

std::string shown_start(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += c >= ' ' && c <= '~' ? c : '?';
  return out;
}

}  // namespace nereus
