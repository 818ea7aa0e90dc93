#include "doctor/doctor.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "doctor/network_checks.h"

namespace nereus::doctor {
namespace {

using testing::HasSubstr;
using testing::Not;

const Report kReport{
    .host = "n0",
    .time = "2026-01-31 12:00:00Z",
    .findings = {{"GPU 0", Verdict::ok, "well", ""},
                 {"GPU 1 memory", Verdict::failed, "3 errors", "Reset it."},
                 {"clock", Verdict::warning, "9.0 s behind", "Let a time service keep it."},
                 {"peer bandwidth", Verdict::skipped, "not asked for", ""}}};

TEST(Report, ATableSaysWhatIsWrongAndWhatToDo) {
  EXPECT_EQ(table(kReport, false),
            "n0, 2026-01-31 12:00:00Z\n"
            "  ok       GPU 0           well\n"
            "  FAILED   GPU 1 memory    3 errors\n"
            "                           -> Reset it.\n"
            "  warning  clock           9.0 s behind\n"
            "                           -> Let a time service keep it.\n"
            "  skipped  peer bandwidth  not asked for\n"
            "  4 checks: 1 failed, 1 warning, 1 skipped\n");
}

TEST(Report, TheBriefOneHasOnlyWhatIsWrongAndTheHost) {
  EXPECT_EQ(table(kReport, true),
            "n0: FAILED   GPU 1 memory  3 errors\n"
            "n0:                        -> Reset it.\n"
            "n0: warning  clock         9.0 s behind\n"
            "n0:                        -> Let a time service keep it.\n"
            "n0: 4 checks: 1 failed, 1 warning, 1 skipped\n");
  EXPECT_EQ(
      table({.host = "n1", .time = "", .findings = {{"GPU 0", Verdict::ok, "well", ""}}}, true),
      "n1: 1 check, nothing wrong, 0 skipped\n");
}

TEST(Report, AsJsonItHasTheSame) {
  const auto j = nlohmann::json::parse(json(kReport));
  EXPECT_EQ(j["host"], "n0");
  EXPECT_EQ(j["failed"], 1);
  EXPECT_EQ(j["warnings"], 1);
  EXPECT_EQ(j["findings"][1]["verdict"], "failed");
  EXPECT_EQ(j["findings"][1]["remedy"], "Reset it.");
  // Bytes that are no UTF-8, as a file system's name may be, do not end it.
  const Report odd{.host = "\xff", .time = "", .findings = {}};
  EXPECT_NO_THROW(nlohmann::json::parse(json(odd)));
}

TEST(Doctor, ExaminesThisMachineWithoutAGpu) {
  Options o;
  o.nvml = "libno-such-nvml.so.1";
  o.folders = {testing::TempDir(), "/no/such/folder"};
  o.write_bytes = 1 << 20;
  o.peers = false;
  const Report r = examine(o);
  const std::string text = table(r, false);
  EXPECT_THAT(text, HasSubstr("warning  GPUs"));
  EXPECT_THAT(text, HasSubstr("FAILED   /no/such/folder"));
  for (const char* check :
       {"cuDNN", "NCCL", "InfiniBand", "ulimit -l", "/dev/shm", "clock service"})
    EXPECT_THAT(text, HasSubstr(check));
  EXPECT_THAT(text, Not(HasSubstr("hub")));  // not asked for
}

TEST(Doctor, ReadsADriversLibrary) {
  Options o;
  o.nvml = NEREUS_FAKE_NVML;
  o.gpus = 8;
  o.peers = false;
  EXPECT_THAT(table(examine(o), true), HasSubstr("3 x NVIDIA H100 80GB HBM3, 8 are expected"));
}

TEST(Clock, ADateHeaderIsReadAsHttpWritesIt) {
  EXPECT_EQ(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), 784111777.0);
  EXPECT_EQ(http_date("yesterday"), std::nullopt);
  EXPECT_EQ(http_date(""), std::nullopt);
}

TEST(Hub, OneThatDoesNotAnswerIsAWarningWithAWayOut) {
  const auto findings = check_hub({.endpoint = "http://127.0.0.1:1"},
                                  {.connect_seconds = 1, .total_seconds = 1}, true);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].verdict, Verdict::warning);
  EXPECT_THAT(findings[0].found, HasSubstr("http://127.0.0.1:1 does not answer: "));
  EXPECT_THAT(findings[0].remedy, HasSubstr("nereus download"));
}

// Answers one HTTP request with a date `ahead` seconds from now.
void serve_date(int listener, int ahead) {
  const int fd = accept(listener, nullptr, nullptr);
  std::array<char, 4096> buffer{};
  recv(fd, buffer.data(), buffer.size(), 0);
  const std::time_t t = std::time(nullptr) + ahead;
  std::array<char, 64> date{};
  std::strftime(date.data(), date.size(), "%a, %d %b %Y %H:%M:%S GMT", std::gmtime(&t));
  const std::string answer = std::string("HTTP/1.1 200 OK\r\nDate: ") + date.data() +
                             "\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]";
  send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
  close(fd);
}

// A socket of `type` on loopback, and its port.
int bound(int type, int* port) {
  const int fd = socket(AF_INET, type, 0);
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t n = sizeof a;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&a), n), 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&a), &n);
  *port = ntohs(a.sin_port);
  return fd;
}

TEST(Clock, IsComparedWithTheHubs) {
  for (const int ahead : {0, 60}) {
    int port = 0;
    const int listener = bound(SOCK_STREAM, &port);
    ASSERT_EQ(listen(listener, 1), 0);
    std::thread server(serve_date, listener, ahead);
    const auto findings =
        check_hub({.endpoint = "http://127.0.0.1:" + std::to_string(port)}, {}, true);
    server.join();
    close(listener);
    ASSERT_EQ(findings.size(), 2u);
    EXPECT_EQ(findings[0].verdict, Verdict::ok);
    EXPECT_EQ(findings[1].verdict, ahead == 0 ? Verdict::ok : Verdict::warning);
    EXPECT_THAT(findings[1].found,
                HasSubstr(ahead == 0 ? "within 2.0 s of 127.0.0.1" : "s behind of 127.0.0.1"));
  }
}

// An NTP server whose clock is `ahead` seconds from ours.
void serve_ntp(int fd, double ahead) {
  std::array<unsigned char, 48> p{};
  sockaddr_in from{};
  socklen_t n = sizeof from;
  recvfrom(fd, p.data(), p.size(), 0, reinterpret_cast<sockaddr*>(&from), &n);
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count() +
      ahead + 2208988800.0;
  const auto seconds = static_cast<uint32_t>(static_cast<uint64_t>(now));
  const auto part = static_cast<uint32_t>((now - static_cast<double>(seconds)) * 4294967296.0);
  for (size_t i = 0; i < 4; ++i)
    for (const size_t at : {size_t{32}, size_t{40}}) {
      p[at + i] = static_cast<unsigned char>(seconds >> (24 - 8 * i));
      p[at + 4 + i] = static_cast<unsigned char>(part >> (24 - 8 * i));
    }
  sendto(fd, p.data(), p.size(), 0, reinterpret_cast<sockaddr*>(&from), n);
}

TEST(Clock, IsComparedWithATimeServers) {
  for (const double ahead : {0.0, -7.0}) {
    int port = 0;
    const int fd = bound(SOCK_DGRAM, &port);
    std::thread server(serve_ntp, fd, ahead);
    const Finding f = check_time_server("127.0.0.1:" + std::to_string(port));
    server.join();
    close(fd);
    EXPECT_EQ(f.found, ahead == 0 ? "within 0.5 s of 127.0.0.1:" + std::to_string(port)
                                  : "7.0 s ahead of 127.0.0.1:" + std::to_string(port));
    EXPECT_EQ(f.verdict, ahead == 0 ? Verdict::ok : Verdict::warning);
  }
  const Finding none = check_time_server("no-such-host.invalid");
  EXPECT_EQ(none.verdict, Verdict::warning);
  EXPECT_THAT(none.found, HasSubstr("no-such-host.invalid does not answer: "));
}

}  // namespace
}  // namespace nereus::doctor
