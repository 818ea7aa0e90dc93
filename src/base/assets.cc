#include "base/assets.h"

#include <filesystem>

namespace nereus {

namespace fs = std::filesystem;

std::string program_path() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).string();
}

std::string asset_path(const std::string& name) {
  const std::string program = program_path();
  if (program.empty()) return "";
  std::error_code error;
  const fs::path folder = fs::path(program).parent_path();
  for (const char* place : {"../assets", "../share/nereus/assets", "../../assets"}) {
    const fs::path candidate = (folder / place / name).lexically_normal();
    if (fs::exists(candidate, error)) return candidate.string();
  }
  return "";
}

std::string resolve_asset(const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error)) return path;
  for (const char* prefix : {"assets/", "./assets/"}) {
    if (!path.starts_with(prefix)) continue;
    const std::string found = asset_path(path.substr(std::string(prefix).size()));
    if (!found.empty()) return found;
  }
  return path;
}

}  // namespace nereus
