#include "hub/fake_hub_test.h"

#include <nlohmann/json.hpp>

#include "hub/digest.h"

namespace nereus::hub {
namespace {

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";
constexpr const char* kApi = "/api/models/owner/name";

std::string digest(Digest::Kind kind, const std::string& bytes) {
  Digest d(kind, static_cast<int64_t>(bytes.size()));
  d.add(std::as_bytes(std::span(bytes)));
  return d.hex();
}

std::string unescaped(const std::string& url) {
  std::string out;
  for (size_t i = 0; i < url.size(); ++i) {
    out += url[i] == '%' ? static_cast<char>(std::stoi(url.substr(i + 1, 2), nullptr, 16)) : url[i];
    if (url[i] == '%') i += 2;
  }
  return out;
}

}  // namespace

FakeHub::FakeHub(std::map<std::string, FakeFile> f) : files(std::move(f)) {
  server = std::make_unique<TestServer>([this](const TestRequest& r) { return answer(r); });
}

std::string FakeHub::resolve(const std::string& path) const {
  return std::string("/owner/name/resolve/") + kCommit + "/" + path;
}

TestAnswer FakeHub::answer(const TestRequest& request) {
  if (before)
    if (TestAnswer a = before(request); a.status != 0) return a;
  const std::string& target = request.target;
  if (target == std::string(kApi) + "/revision/main")
    return {.body = std::string("{\"sha\":\"") + kCommit + "\"}"};
  if (target.starts_with(std::string(kApi) + "/revision/"))
    return {.status = 404, .headers = {"X-Error-Code: RevisionNotFound"}};
  if (target.starts_with(std::string(kApi) + "/tree/")) return list(target);
  for (const auto& [path, file] : files)
    if (unescaped(target) == resolve(path)) return serve_range(request, file.bytes);
  return {.status = 404,
          .headers = {
              std::string("X-Error-Code: ") +
              (target.find("owner/name") == std::string::npos ? "RepoNotFound" : "EntryNotFound")}};
}

TestAnswer FakeHub::list(const std::string& target) {
  const std::string head = std::string(kApi) + "/tree/" + kCommit;
  const size_t query = target.find('?');
  std::string folder = target.substr(head.size(), query - head.size());
  if (!folder.empty()) folder = folder.substr(1) + "/";
  const bool recursive = target.find("recursive=true") != std::string::npos;
  const size_t cursor = target.find("cursor=");
  const size_t from = cursor == std::string::npos ? 0 : std::stoul(target.substr(cursor + 7));
  nlohmann::json entries = nlohmann::json::array();
  size_t at = 0;
  TestAnswer out;
  for (const auto& [path, file] : files) {
    if (!path.starts_with(folder)) continue;
    if (!recursive && path.find('/', folder.size()) != std::string::npos) continue;
    if (at++ < from) continue;
    if (entries.size() == page) {
      const std::string next =
          target.substr(0, cursor == std::string::npos ? target.size() : cursor - 1);
      out.headers.push_back("Link: <" + server->url() + next + "&cursor=" + std::to_string(at - 1) +
                            ">; rel=\"next\"");
      break;
    }
    nlohmann::json e = {{"type", "file"},
                        {"path", path},
                        {"size", file.bytes.size()},
                        {"oid", digest(Digest::Kind::git_blob, file.bytes)}};
    if (file.lfs) e["lfs"] = {{"oid", digest(Digest::Kind::sha256, file.bytes)}};
    entries.push_back(e);
  }
  entries.push_back({{"type", "directory"}, {"path", "a folder"}, {"size", 0}});
  out.body = entries.dump();
  return out;
}

}  // namespace nereus::hub
