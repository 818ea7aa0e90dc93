// GET over HTTP, with libcurl. Failures of a server or of the network are values, since callers
// retry; only errors on this side throw.
//
// The token goes to the hub's own origin (scheme, host and port) and nowhere else: redirects are
// followed by this code, and a request to another origin has no token. It is never sent
// unencrypted, except to this machine itself, and then without a proxy.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

namespace nereus::hub {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";
  std::string token;  // empty: none. In no message, file or command line

  // HF_ENDPOINT and HF_TOKEN. Throws Error{kConfig} when they cannot be used.
  static HubSettings from_environment();
};

struct HttpReply {
  int status = 0;                              // of the last answer; 0 when none came
  std::map<std::string, std::string> headers;  // of the last answer; names in small letters
  std::string body;      // of an answer outside 2xx (its first 64 KiB), or without a sink
  std::string failure;   // why the transfer did not end well; empty when it did
  bool lasting = false;  // another try would fail in the same way
  std::string host;      // that answered last
  std::string origin;    // its scheme://host:port

  bool ok() const { return failure.empty() && status >= 200 && status < 300; }
  std::string header(const std::string& name) const;
  // "HTTP 503 of huggingface.co", or the failure.
  std::string outcome() const;
};

struct HttpTimeouts {
  int connect_seconds = 15;
  int stall_seconds = 30;  // without a byte
  int total_seconds = 0;   // 0: no limit
};

// One connection's worth: for one thread at a time; connections are kept between calls.
class HttpClient {
 public:
  explicit HttpClient(HubSettings settings, HttpTimeouts timeouts = {});
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Called once before the first byte of a 2xx answer, and for each piece of it. What they throw
  // ends the transfer and comes out of get().
  using Start = std::function<void(const HttpReply&)>;
  using Sink = std::function<void(std::span<const std::byte>)>;

  // `from`: the first byte wanted (a Range header when it is not 0).
  HttpReply get(const std::string& url, int64_t from = 0, const Start& start = {},
                const Sink& sink = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct RetryPolicy {
  int attempts = 8;          // in a row without a byte
  double first_seconds = 1;  // doubles each time
  double longest_seconds = 60;
};

// When to retry: after transport failures, 408, 429 and 5xx, with a pause that doubles or that the
// server names (Retry-After). A long pause is a warning in the log.
class Retry {
 public:
  explicit Retry(const RetryPolicy& policy) : policy_(policy) {}
  // Waits and returns true, or returns false when a retry is useless or there were enough.
  bool again(const HttpReply&);
  void progressed() { failed_ = 0; }
  int failed() const { return failed_; }

 private:
  RetryPolicy policy_;
  int failed_ = 0;
};

bool worth_retrying(const HttpReply&);
// scheme://host:port of a URL, in small letters, the default ports written out.
std::string origin(const std::string& url);
// The host alone of a URL.
std::string host_of(const std::string& url);
// Whether a host, as host_of() gives it, is this machine: 127.0.0.0/8, [::1] or localhost.
bool is_loopback(const std::string& host);

}  // namespace nereus::hub
