#include "hub/download.h"

#include <fnmatch.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/check.h"
#include "base/text.h"
#include "hub/local_file.h"

namespace nereus::hub {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kAlwaysRead = int64_t{16} << 20;  // files up to here are read again each time

bool has_wildcard(const std::string& pattern) {
  return pattern.find_first_of("*?[") != std::string::npos;
}

// The folder that all matches of a pattern are in.
std::string fixed_folder(const std::string& pattern) {
  const size_t slash = pattern.rfind('/', pattern.find_first_of("*?["));
  return slash == std::string::npos ? "" : pattern.substr(0, slash);
}

bool matches(const std::vector<std::string>& patterns, const std::string& path) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) {
    return fnmatch(p.c_str(), path.c_str(), 0) == 0;
  });
}

// Free bytes of the file system that `folder` is, or would be, on.
int64_t free_bytes(fs::path folder) {
  std::error_code error;
  folder = fs::absolute(folder, error).lexically_normal();
  while (!fs::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  struct statvfs s {};
  if (statvfs(folder.c_str(), &s) != 0) return INT64_MAX;  // said when it is written to
  return static_cast<int64_t>(s.f_bavail) * static_cast<int64_t>(s.f_frsize);
}

std::vector<RepoFile> matching_files(const HubSettings& settings, const DownloadRequest& r,
                                     const std::string& commit) {
  HttpClient client(settings, r.timeouts);
  std::map<std::string, bool> folders;  // and whether what is below them is wanted
  for (const std::string& pattern : r.include)
    folders[fixed_folder(pattern)] |= has_wildcard(pattern);
  std::vector<RepoFile> files;
  for (const auto& [folder, recursive] : folders)
    for (RepoFile& file :
         list_files(client, settings, r.repository, commit, folder, recursive, r.retry))
      if (matches(r.include, file.path) && !matches(r.exclude, file.path))
        files.push_back(std::move(file));
  std::sort(files.begin(), files.end(),
            [](const RepoFile& a, const RepoFile& b) { return a.path < b.path; });
  files.erase(std::unique(files.begin(), files.end()), files.end());
  for (const std::string& pattern : r.include)
    NEREUS_CHECK(
        kConfig,
        has_wildcard(pattern) || std::any_of(files.begin(), files.end(),
                                             [&](const RepoFile& f) { return f.path == pattern; }),
        "{} at {} has no file {}", r.repository.name, r.repository.revision, pattern);
  NEREUS_CHECK(kConfig, !files.empty(), "{} at {} has no file that matches {}", r.repository.name,
               r.repository.revision, fmt::join(r.include, ", "));
  return files;
}

}  // namespace

DownloadPlan plan_download(const HubSettings& settings, const DownloadRequest& r) {
  DownloadPlan plan;
  {
    HttpClient client(settings, r.timeouts);
    plan.commit = resolve_commit(client, settings, r.repository, r.retry);
  }
  plan.files = matching_files(settings, r, plan.commit);
  for (const RepoFile& file : plan.files) {
    plan.bytes += file.size;
    const LocalFile local(r.folder, file);
    if (local.is_whole(r.verify || file.size <= kAlwaysRead)) continue;
    plan.missing.push_back(file);
    plan.missing_bytes += file.size - local.partial_bytes();
  }
  const int64_t free = free_bytes(r.folder);
  NEREUS_CHECK(kConfig, plan.missing_bytes <= free,
               "{}: {} are to be downloaded there, and its file system has {} free. Choose "
               "another folder, make space, or ask for fewer files.",
               r.folder, size_text(plan.missing_bytes), size_text(free));
  return plan;
}

}  // namespace nereus::hub
