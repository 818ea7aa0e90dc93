#include "hub/http.h"

#include <arpa/inet.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "hub/libraries.h"

namespace nereus::hub {
namespace {

constexpr int kRedirects = 10;
constexpr std::string_view kBlanks = " \t\r\n";
constexpr size_t kErrorBody = size_t{64} << 10;
constexpr size_t kWholeBody = size_t{256} << 20;  // of an answer that is kept in memory

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

bool is_loopback(const std::string& host) {
  in_addr four{};
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
  return host == "localhost" || host == "[::1]";
}

std::string host_of(const std::string& url) {
  const size_t begin = url.find("://") == std::string::npos ? 0 : url.find("://") + 3;
  const std::string authority = url.substr(begin, url.find_first_of("/?#", begin) - begin);
  const size_t colon = authority.rfind(':');
  const bool port = colon != std::string::npos && authority.find(']', colon) == std::string::npos;
  return lower(port ? authority.substr(0, colon) : authority);
}

std::string origin(const std::string& url) {
  const std::string scheme = lower(url.substr(0, url.find("://")));
  const size_t begin = scheme.size() + 3;
  const std::string authority = lower(url.substr(begin, url.find_first_of("/?#", begin) - begin));
  const std::string host = host_of(url);
  const bool has_port = authority.size() > host.size();
  return scheme + "://" + (has_port ? authority : host + (scheme == "https" ? ":443" : ":80"));
}

HubSettings HubSettings::from_environment() {
  HubSettings s;
  if (const std::string endpoint = trimmed(variable("HF_ENDPOINT"), kBlanks); !endpoint.empty()) {
    s.endpoint = endpoint;
    while (s.endpoint.ends_with('/')) s.endpoint.pop_back();
    NEREUS_CHECK(kConfig,
                 (s.endpoint.starts_with("https://") || s.endpoint.starts_with("http://")) &&
                     !host_of(s.endpoint).empty() &&
                     s.endpoint.find_first_of(" @?#") == std::string::npos,
                 "HF_ENDPOINT: it must be the hub's address alone, like https://huggingface.co; "
                 "unset it for that one");
  }
  s.token = trimmed(variable("HF_TOKEN"), kBlanks);
  NEREUS_CHECK(
      kConfig,
      std::all_of(s.token.begin(), s.token.end(), [](char c) { return c > ' ' && c < 127; }),
      "HF_TOKEN: has a blank, a line break or another letter that no token has; set it to "
      "the token alone (it begins with hf_)");
  if (!s.token.empty() && !s.endpoint.starts_with("https://") &&
      !is_loopback(host_of(s.endpoint))) {
    log::warning("HF_ENDPOINT = {} is not encrypted: HF_TOKEN is not sent there", s.endpoint);
    s.token.clear();
  }
  return s;
}

std::string HttpReply::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

std::string HttpReply::outcome() const {
  return failure.empty() ? fmt::format("HTTP {} of {}", status, host) : failure;
}

struct HttpClient::State {
  HubSettings settings;
  HttpTimeouts timeouts;
  const CurlLibrary& lib = curl_library();
  CURL* curl = nullptr;
  char why[CURL_ERROR_SIZE] = {};

  HttpReply reply;
  const Start* start = nullptr;
  const Sink* sink = nullptr;
  bool started = false;
  std::exception_ptr thrown;

  static size_t on_header(char* data, size_t, size_t n, void* self);
  static size_t on_data(char* data, size_t, size_t n, void* self);
  void take(std::span<const std::byte> bytes);
  void hop(const std::string& url, int64_t from);
};

size_t HttpClient::State::on_header(char* data, size_t, size_t n, void* self) {
  const std::string line(data, n);
  HttpReply& reply = static_cast<State*>(self)->reply;
  if (line.starts_with("HTTP/")) reply.headers.clear();  // after a 100, or a proxy's own answer
  const size_t colon = line.find(':');
  if (colon != std::string::npos)
    reply.headers[lower(line.substr(0, colon))] = trimmed(line.substr(colon + 1), kBlanks);
  return n;
}

size_t HttpClient::State::on_data(char* data, size_t, size_t n, void* self) {
  auto* state = static_cast<State*>(self);
  try {
    state->take({reinterpret_cast<const std::byte*>(data), n});
    return n;
  } catch (...) {  // not through libcurl's frames
    state->thrown = std::current_exception();
    return n + 1;
  }
}

void HttpClient::State::take(std::span<const std::byte> bytes) {
  long status = 0;
  lib.curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  const bool good = status >= 200 && status < 300;
  if (good && sink != nullptr && *sink) {
    if (!started) {
      started = true;
      reply.status = static_cast<int>(status);
      if (start != nullptr && *start) (*start)(reply);
    }
    (*sink)(bytes);
    return;
  }
  const size_t limit = good ? kWholeBody : kErrorBody;
  NEREUS_CHECK(kComm, !good || reply.body.size() + bytes.size() <= limit,
               "{}: its answer is longer than {} bytes", reply.host, limit);
  reply.body.append(reinterpret_cast<const char*>(bytes.data()),
                    std::min(bytes.size(), limit - reply.body.size()));
}

// One request and its answer, without following where it leads.
void HttpClient::State::hop(const std::string& url, int64_t from) {
  reply = {};
  reply.host = host_of(url);
  reply.origin = origin(url);
  started = false;
  thrown = nullptr;
  why[0] = '\0';
  lib.curl_easy_reset(curl);  // keeps its connections
  lib.curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  lib.curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
  lib.curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  lib.curl_easy_setopt(curl, CURLOPT_USERAGENT, "nereus");
  lib.curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, static_cast<long>(timeouts.connect_seconds));
  lib.curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  lib.curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(timeouts.stall_seconds));
  lib.curl_easy_setopt(curl, CURLOPT_TIMEOUT, static_cast<long>(timeouts.total_seconds));
  lib.curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &State::on_header);
  lib.curl_easy_setopt(curl, CURLOPT_HEADERDATA, this);
  lib.curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &State::on_data);
  lib.curl_easy_setopt(curl, CURLOPT_WRITEDATA, this);
  // Certificates where the distribution that libcurl came from does not have them.
  for (const char* name : {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"})
    if (const std::string file = variable(name); !file.empty()) {
      lib.curl_easy_setopt(curl, CURLOPT_CAINFO, file.c_str());
      break;
    }
  // What may go to this machine unencrypted may not go through a proxy.
  if (is_loopback(reply.host)) lib.curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  const std::string range = fmt::format("{}-", from);
  if (from > 0) lib.curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_slist* headers = nullptr;
  if (!settings.token.empty() && origin(url) == origin(settings.endpoint))
    headers = lib.curl_slist_append(headers, ("Authorization: Bearer " + settings.token).c_str());
  lib.curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);

  const CURLcode code = lib.curl_easy_perform(curl);
  lib.curl_easy_setopt(curl, CURLOPT_HTTPHEADER, nullptr);
  lib.curl_slist_free_all(headers);
  if (thrown) std::rethrow_exception(thrown);
  long status = 0;
  lib.curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  reply.status = static_cast<int>(status);
  if (code != CURLE_OK)
    reply.failure = fmt::format("{}: {}", reply.host, why[0] ? why : lib.curl_easy_strerror(code));
  reply.lasting = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE;
}

HttpClient::HttpClient(HubSettings settings, HttpTimeouts timeouts)
    : state_(std::make_unique<State>()) {
  state_->settings = std::move(settings);
  state_->timeouts = timeouts;
  state_->curl = state_->lib.curl_easy_init();
  NEREUS_CHECK(kIo, state_->curl != nullptr, "libcurl has no memory for a connection");
}

HttpClient::~HttpClient() { state_->lib.curl_easy_cleanup(state_->curl); }

HttpReply HttpClient::get(const std::string& url, int64_t from, const Start& start,
                          const Sink& sink) {
  State& s = *state_;
  s.start = &start;
  s.sink = &sink;
  std::string at = url;
  for (int i = 0; i <= kRedirects; ++i) {
    s.hop(at, from);
    char* next = nullptr;
    s.lib.curl_easy_getinfo(s.curl, CURLINFO_REDIRECT_URL, &next);
    if (next == nullptr || !s.reply.failure.empty()) return s.reply;
    const std::string to = next;
    if (at.starts_with("https:") && !to.starts_with("https:")) {
      s.reply.failure =
          fmt::format("{}: leads to {}, which is not encrypted", s.reply.host, host_of(to));
      s.reply.lasting = true;
      return s.reply;
    }
    if (!to.starts_with("https:") && !to.starts_with("http:")) {
      s.reply.failure = fmt::format("{}: leads to what is not HTTP", s.reply.host);
      s.reply.lasting = true;
      return s.reply;
    }
    at = to;
  }
  s.reply.failure = fmt::format("{}: more than {} redirects", host_of(url), kRedirects);
  s.reply.lasting = true;
  return s.reply;
}

bool worth_retrying(const HttpReply& r) {
  if (!r.failure.empty()) return !r.lasting;
  return r.status == 408 || r.status == 429 || r.status >= 500;
}

bool Retry::again(const HttpReply& reply) {
  if (!worth_retrying(reply) || ++failed_ >= policy_.attempts) return false;
  double seconds = std::min(policy_.longest_seconds,
                            policy_.first_seconds * static_cast<double>(1 << (failed_ - 1)));
  const std::string asked = reply.header("retry-after");
  if (!asked.empty() && asked.find_first_not_of("0123456789") == std::string::npos)
    seconds = std::min(policy_.longest_seconds, std::strtod(asked.c_str(), nullptr));
  if (seconds >= 1)
    log::warning("{}: retry {} of {} in {:.0f} s", reply.outcome(), failed_, policy_.attempts - 1,
                 seconds);
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  return true;
}

}  // namespace nereus::hub
