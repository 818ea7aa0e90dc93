#include "observe/prometheus_sink.h"

#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "test/child_process.h"
#include "test/viewers.h"

namespace nereus {
namespace {

using testing::HasSubstr;

// The body of GET /metrics on a port of this host.
std::string scrape(int port) {
  const int file = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(file, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(::write(file, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer(1 << 20, '\0');
  size_t size = 0;
  for (ssize_t n = 0; (n = ::read(file, answer.data() + size, answer.size() - size)) > 0;)
    size += static_cast<size_t>(n);
  ::close(file);
  answer.resize(size);
  const size_t body = answer.find("\r\n\r\n");
  return body == std::string::npos ? "" : answer.substr(body + 4);
}

StepMetrics example() {
  StepMetrics m{.step = 7, .time = 1764500000, .loss = 2.5};
  m.step_seconds = 0.125;
  m.memory_gib = 2;
  m.mfu_percent = 40;
  m.tokens_seen = 1000;
  m.experts = ExpertFigures{.p95 = 1.75, .bias_max = 0.5f};
  return m;
}

TEST(PrometheusSink, AnswersWithTheLastFiguresInBaseUnits) {
  const int port = test::free_port();
  PrometheusSink sink("127.0.0.1", port);
  StepMetrics m = example();
  sink.step(m);
  m.tokens_seen = 1500;
  sink.step(m);
  sink.validation({.loss = 6.5});
  sink.event({.kind = EventKind::warning});
  sink.event({.kind = EventKind::checkpoint, .facts = {{"seconds", 1.5}}});
  const std::string text = scrape(port);
  for (const char* line :
       {"nereus_step 7\n", "nereus_loss 2.5\n", "nereus_step_duration_seconds 0.125\n",
        "nereus_memory_bytes 2147483648\n", "nereus_mfu_ratio 0.4\n", "nereus_tokens_total 1500\n",
        "nereus_validation_loss 6.5\n", "nereus_events_total{kind=\"warning\"} 1\n",
        "nereus_checkpoint_duration_seconds_total 1.5\n", "nereus_expert_bias_max 0.5\n",
        "# TYPE nereus_tokens_total counter\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, testing::Not(HasSubstr("nereus_expert_bias_min "))) << "not known";
}

TEST(PrometheusSink, IsWhatPrometheusTakesWithoutAComplaint) {
  NEREUS_VIEWER(promtool, "promtool");
  const int port = test::free_port();
  PrometheusSink sink("127.0.0.1", port);
  sink.step(example());
  sink.event({.kind = EventKind::warning});
  const test::TemporaryFolder folder;
  const std::string said = test::output_of(promtool + " check metrics <" +
                                           folder.write("metrics", scrape(port)) + " 2>&1");
  EXPECT_EQ(said, "");
}

TEST(PrometheusSink, NamesAPortThatIsInUse) {
  const int port = test::free_port();
  const PrometheusSink first("127.0.0.1", port);
  EXPECT_THAT([&] { PrometheusSink("127.0.0.1", port); },
              testing::ThrowsMessage<Error>(HasSubstr(
                  "metrics.prometheus_port = " + std::to_string(port) +
                  ", metrics.prometheus_address = 127.0.0.1: cannot listen on 127.0.0.1:" +
                  std::to_string(port) + ": the port is in use")));
  EXPECT_THROW(PrometheusSink("203.0.113.7", port), Error);
}

}  // namespace
}  // namespace nereus
