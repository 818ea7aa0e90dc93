#include "doctor/network_checks.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>

namespace nereus::doctor {
namespace {

constexpr double kSkewSeconds = 2;  // a Date header counts whole seconds
constexpr int kAnswerSeconds = 5;
constexpr double k1900To1970 = 2208988800.0;

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

constexpr const char* kKeepTime =
    "Start chronyd or systemd-timesyncd: certificates, and the order of several nodes' log lines, "
    "depend on the clock.";

Finding judge_skew(double skew, double limit, const std::string& against) {
  const bool off = std::abs(skew) > limit;
  return {
      "clock", off ? Verdict::warning : Verdict::ok,
      off ? fmt::format("{:.1f} s {} of {}", std::abs(skew), skew > 0 ? "ahead" : "behind", against)
          : fmt::format("within {:.1f} s of {}", limit, against),
      off ? kKeepTime : ""};
}

// The time of an NTP server minus ours, half the way there and back taken off.
std::optional<double> ask_time(const std::string& host, const std::string& port, std::string* why) {
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_DGRAM;
  if (const int r = getaddrinfo(host.c_str(), port.c_str(), &hints, &list); r != 0) {
    *why = gai_strerror(r);
    return std::nullopt;
  }
  *why = "it does not answer";
  std::optional<double> offset;
  const int fd = ::socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const timeval timeout{.tv_sec = kAnswerSeconds, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  std::array<unsigned char, 48> packet{};
  packet[0] = 0x23;  // version 4, a client
  const double sent = now();
  if (::connect(fd, list->ai_addr, list->ai_addrlen) == 0 &&
      ::send(fd, packet.data(), packet.size(), 0) == static_cast<ssize_t>(packet.size()) &&
      ::recv(fd, packet.data(), packet.size(), 0) == static_cast<ssize_t>(packet.size())) {
    const double received = now();
    const auto stamp = [&](size_t at) {  // 32.32 fixed point, big-endian, since 1900
      double seconds = 0;
      for (size_t i = 0; i < 8; ++i) seconds = seconds * 256 + packet[at + i];
      return seconds / 4294967296.0 - k1900To1970;
    };
    offset = ((stamp(32) - sent) + (stamp(40) - received)) / 2;
  }
  ::close(fd);
  freeaddrinfo(list);
  return offset;
}

}  // namespace

std::optional<double> http_date(const std::string& text) {
  std::tm t{};
  const char* end = strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &t);
  if (end == nullptr || *end != '\0') return std::nullopt;
  return static_cast<double>(timegm(&t));
}

std::vector<Finding> check_hub(const hub::HubSettings& settings, const hub::HttpTimeouts& timeouts,
                               bool clock) {
  hub::HttpClient client(settings, timeouts);
  const double sent = now();
  const hub::HttpReply reply = client.get(settings.endpoint + "/api/models?limit=1");
  const double received = now();
  std::vector<Finding> out;
  if (!reply.ok()) {
    out.push_back({"hub", Verdict::warning,
                   fmt::format("{} does not answer: {}", settings.endpoint, reply.outcome()),
                   "Runs do not need it. Download on a node that can reach the internet (nereus "
                   "download), or "
                   "set https_proxy or HF_ENDPOINT."});
  } else {
    out.push_back(
        {"hub", Verdict::ok,
         fmt::format("{} answers in {:.0f} ms", settings.endpoint, (received - sent) * 1e3), ""});
  }
  if (!clock) return out;
  const std::optional<double> date = http_date(reply.header("date"));
  if (!date) return out;
  // The header's time lies between both readings and is truncated to whole seconds.
  out.push_back(judge_skew((sent + received) / 2 - (*date + 0.5), kSkewSeconds,
                           hub::host_of(settings.endpoint)));
  return out;
}

Finding check_time_server(const std::string& server) {
  const size_t colon = server.rfind(':');
  const bool has_port = colon != std::string::npos && server.find(':') == colon;
  std::string why;
  const auto offset = ask_time(has_port ? server.substr(0, colon) : server,
                               has_port ? server.substr(colon + 1) : "123", &why);
  if (!offset)
    return {"clock", Verdict::warning, fmt::format("{} does not answer: {}", server, why),
            "Name another time server with --time-server (chronyc sources shows this node's)."};
  return judge_skew(-*offset, 0.5, server);
}

Finding check_kernel_clock() {
  timex t{};
  const int state = adjtimex(&t);
  if (state == -1) return {"clock service", Verdict::skipped, std::strerror(errno), ""};
  const bool loose = state == TIME_ERROR || (t.status & STA_UNSYNC) != 0;
  return {"clock service", loose ? Verdict::warning : Verdict::ok,
          loose ? "system clock not synchronised" : "synchronised", loose ? kKeepTime : ""};
}

}  // namespace nereus::doctor
