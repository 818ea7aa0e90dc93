#include "hub/repository.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace nereus::hub {
namespace {

using nlohmann::json;

// As a path of a URL.
std::string escaped(const std::string& path) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~/";
  std::string out;
  for (const char c : path)
    out += std::string(kPlain).find(c) != std::string::npos
               ? std::string(1, c)
               : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  return out;
}

// A revision may have a slash, which is one part of the URL.
std::string escaped_part(const std::string& part) {
  std::string out;
  for (const char c : escaped(part)) out += c == '/' ? std::string("%2F") : std::string(1, c);
  return out;
}

std::string api(const HubSettings& settings, const Repository& repo) {
  return fmt::format("{}/api/{}/{}", settings.endpoint,
                     repo.kind == Repository::Kind::model ? "models" : "datasets",
                     escaped(repo.name));
}

std::string page(const HubSettings& settings, const Repository& repo) {
  return fmt::format("{}/{}{}", settings.endpoint,
                     repo.kind == Repository::Kind::model ? "" : "datasets/", repo.name);
}

// The address that a Link header calls next; "" on the last page.
std::string next_page(const std::string& link) {
  const size_t rel = link.find("rel=\"next\"");
  if (rel == std::string::npos) return "";
  const size_t begin = link.rfind('<', rel), end = link.find('>', begin);
  if (begin == std::string::npos || end == std::string::npos) return "";
  return link.substr(begin + 1, end - begin - 1);
}

HttpReply ask(HttpClient& client, const HubSettings& settings, const Repository& repo,
              const std::string& url, const std::string& what, const RetryPolicy& policy) {
  Retry retry(policy);
  for (;;) {
    HttpReply reply = client.get(url);
    if (reply.ok()) return reply;
    if (!retry.again(reply)) refuse(reply, settings, repo, what);
  }
}

// Listings may only name paths below the folder that was asked for.
bool is_safe(const std::string& path) {
  if (path.empty() || path.front() == '/' || path.find('\0') != std::string::npos) return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

RepoFile parse_file(const json& entry, const Repository& repo) {
  RepoFile file;
  file.path = entry.at("path").get<std::string>();
  file.size = entry.at("size").get<int64_t>();
  file.lfs = entry.contains("lfs") && entry["lfs"].is_object();
  file.digest =
      file.lfs ? entry["lfs"].at("oid").get<std::string>() : entry.at("oid").get<std::string>();
  if (file.digest.starts_with("sha256:")) file.digest.erase(0, 7);
  NEREUS_CHECK(kComm, is_safe(file.path) && file.size >= 0,
               "the list of {} names \"{}\", which is no place below a folder: nothing of it is "
               "taken",
               repo.name, file.path);
  NEREUS_CHECK(kComm,
               file.digest.size() == (file.lfs ? 64u : 40u) &&
                   file.digest.find_first_not_of("0123456789abcdef") == std::string::npos,
               "the list of {} has no checksum of {}", repo.name, file.path);
  return file;
}

// The hub refused the token. Whether the repository is public decides what to do: it is asked for
// once more, without one.
[[noreturn]] void refuse_token(const HubSettings& settings, const Repository& repo,
                               const std::string& what) {
  HubSettings without_token;
  without_token.endpoint = settings.endpoint;
  HttpClient client(without_token, {.total_seconds = 30});
  const bool is_public =
      client.get(api(settings, repo) + "/revision/" + escaped_part(repo.revision)).ok();
  NEREUS_FAIL(kConfig,
              "{}: the hub rejected HF_TOKEN (HTTP 401: invalid or expired).\n  Make a new one at "
              "{}/settings/tokens{}",
              what, settings.endpoint,
              is_public
                  ? fmt::format(", or unset it: {} is public.", repo.name)
                  : fmt::format(". Without a token {} is not to be had either: it is gated or "
                                "private, or its name is another (look at {}).",
                                repo.name, page(settings, repo)));
}

// The hub's address, and where it comes from if not from here.
std::string hub_text(const HubSettings& settings) {
  return settings.endpoint == HubSettings().endpoint
             ? settings.endpoint
             : fmt::format("{}, from HF_ENDPOINT", settings.endpoint);
}

}  // namespace

void refuse(const HttpReply& reply, const HubSettings& settings, const Repository& repo,
            const std::string& what) {
  const std::string code = reply.header("x-error-code");
  const std::string where = page(settings, repo);
  const bool token = !settings.token.empty();
  if (!reply.failure.empty() || worth_retrying(reply))
    NEREUS_FAIL(
        kComm,
        "{}: cannot be fetched: {}.\n  If this machine cannot reach the internet (compute nodes "
        "often cannot), run the command on a login node. https_proxy names a proxy, HF_ENDPOINT "
        "another hub, CURL_CA_BUNDLE other certificates.",
        what, reply.outcome());
  if (reply.status == 401 && !token)
    NEREUS_FAIL(kConfig,
                "{}: {} is gated or private, or there is no such repository (HTTP 401), and "
                "HF_TOKEN is not set.\n  Accept its terms at {} if it has any, make a token at "
                "{}/settings/tokens, export HF_TOKEN=..., and run this again.",
                what, repo.name, where, settings.endpoint);
  if (reply.status == 401) refuse_token(settings, repo, what);
  if (reply.status == 403)
    NEREUS_FAIL(kConfig, "{}: access to {} is refused (HTTP 403{}).\n  {} the terms at {}{}.", what,
                repo.name, code.empty() ? "" : ", " + code,
                token ? "The owner of HF_TOKEN must accept" : "Set HF_TOKEN and accept", where,
                token ? "; a fine-grained token also needs the right to read this repository" : "");
  if (reply.status == 404 && code == "RevisionNotFound")
    NEREUS_FAIL(kConfig, "{}: {} has no revision {} (HTTP 404); {}/tree/main lists them.", what,
                repo.name, repo.revision, where);
  if (reply.status == 404 && code == "EntryNotFound")
    NEREUS_FAIL(kConfig, "{}: {} at {} has no such file or folder (HTTP 404); {}/tree/{} shows it.",
                what, repo.name, repo.revision, where, repo.revision);
  if (reply.status == 404)
    NEREUS_FAIL(kConfig, "{}: the hub has no {} (HTTP 404).\n  Check the spelling at {} (hub: {}).",
                what, repo.name, where, hub_text(settings));
  NEREUS_FAIL(kComm, "{}: unexpected answer of the hub: {}.", what, reply.outcome());
}

std::string resolve_commit(HttpClient& client, const HubSettings& settings, const Repository& repo,
                           const RetryPolicy& policy) {
  RetryPolicy first = policy;  // where there is no way out, that should be said soon
  first.attempts = std::min(first.attempts, 4);
  const HttpReply reply =
      ask(client, settings, repo, api(settings, repo) + "/revision/" + escaped_part(repo.revision),
          fmt::format("{}, revision {}", repo.name, repo.revision), first);
  const json body = json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
  const bool good = body.is_object() && body.contains("sha") && body["sha"].is_string();
  NEREUS_CHECK(kComm, good, "{}: {} does not answer as a Hugging Face hub; check HF_ENDPOINT",
               repo.name, host_of(settings.endpoint));
  return body["sha"].get<std::string>();
}

std::vector<RepoFile> list_files(HttpClient& client, const HubSettings& settings,
                                 const Repository& repo, const std::string& commit,
                                 const std::string& folder, bool recursive,
                                 const RetryPolicy& policy) {
  std::vector<RepoFile> out;
  std::string url = fmt::format("{}/tree/{}{}?recursive={}&expand=false", api(settings, repo),
                                commit, folder.empty() ? "" : "/" + escaped(folder), recursive);
  while (!url.empty()) {
    const HttpReply reply =
        ask(client, settings, repo, url,
            folder.empty() ? repo.name : fmt::format("{}, folder {}", repo.name, folder), policy);
    try {
      for (const json& entry : json::parse(reply.body))
        if (entry.at("type") == "file") out.push_back(parse_file(entry, repo));
    } catch (const json::exception& e) {
      NEREUS_FAIL(kComm, "{}: the hub's list of files cannot be read: {}", repo.name, e.what());
    }
    url = next_page(reply.header("link"));
  }
  return out;
}

std::string file_url(const HubSettings& settings, const Repository& repo, const std::string& commit,
                     const std::string& path) {
  return fmt::format("{}/{}{}/resolve/{}/{}", settings.endpoint,
                     repo.kind == Repository::Kind::model ? "" : "datasets/", escaped(repo.name),
                     commit, escaped(path));
}

}  // namespace nereus::hub
