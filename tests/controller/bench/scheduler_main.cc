// What the controller itself costs: flexquant_scheduler_bench MODEL.
//
// Own path: making a step and taking its results, without any wire. Public stream: whole answers over in-process
// channels with an executor that computes nothing; the CPU time is the whole process's, so clients' and the null
// executor's as well.

#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "controller/batch.h"
#include "controller/model_package.h"
#include "controller/policy/policy_factory.h"
#include "controller/server.h"
#include "flexquant/v1/inference.grpc.pb.h"
#include "tests/controller/bench/null_executor.h"
#include "tests/controller/null_sink.h"

namespace flexquant::controller {
namespace {

constexpr int kSteps = 2000;
constexpr int kRepetitions = 5;
constexpr uint32_t kPromptTokens = 64;

std::unique_ptr<Sequence> MakeSequence(const ModelPackage& model, ActiveRequests& active, uint64_t id) {
  auto spec = std::make_unique<GenerationSpec>();
  spec->request_id = std::to_string(id);
  spec->prompt.assign(kPromptTokens, 5);
  spec->prompt[0] = static_cast<uint32_t>(id);
  spec->max_tokens = kSteps + 1;
  auto resolved = MakePolicy({}, model.policies, 1);
  if (!resolved.ok()) {
    std::fprintf(stderr, "%s\n", resolved.status().ToString().c_str());
    std::exit(1);
  }
  spec->policy = std::move(resolved->policy);
  spec->prefill_plan = std::move(resolved->prefill_plan);
  auto request = active.Add(id, "", spec->request_id);
  return std::make_unique<Sequence>(std::move(spec), std::make_shared<NullSink>(),
                                    Sequence::Shared{*model.tokenizer, *model.layer_groups, 1}, std::move(request));
}

// Of this thread: other work on the machine does not count.
double ThreadCpuMicroseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

// Microseconds of CPU time a step.
double TimeOwnPath(const ModelPackage& model, uint32_t sequences) {
  const auto active = std::make_shared<ActiveRequests>();
  RequestQueue queue({.max_requests = sequences, .max_tokens = UINT64_MAX});
  for (uint64_t id = 1; id <= sequences; ++id) {
    auto sequence = MakeSequence(model, *active, id);
    if (!queue.Push(sequence).ok()) {
      std::exit(1);
    }
  }
  Batch batch(1U << 20U, 16, {sequences, 1U << 20U, 1U << 20U, 0});
  const absl::Time now = absl::Now();
  batch.Admit(queue, now);
  const auto accept = [&](const std::vector<SequenceStep>& step) {
    for (const SequenceStep& part : step) {
      const double entropy = 1.5 + 1.5 * std::sin(0.7 * part.position);
      Sequence* sequence = batch.Find(part.sequence_id);
      sequence->Accept({100 + part.position % 100, {entropy, std::exp(-entropy), 1}, 0, {}}, std::nullopt, now);
      batch.Accepted(*sequence);
    }
  };
  accept(batch.Compose(now));  // the prompts
  const double start = ThreadCpuMicroseconds();
  for (int step = 1; step < kSteps; ++step) {
    batch.Admit(queue, now);
    accept(batch.Compose(now));
    batch.RemoveEnded();
  }
  const double time = ThreadCpuMicroseconds() - start;
  for (auto& sequence : batch.TakeAll()) {
    sequence->Discard();
  }
  return time / (kSteps - 1);
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

struct Throughput {
  double tokens_per_second = 0;
  double tokens_per_cpu_second = 0;
};

Throughput TimeStreams(ControllerServer& server, int streams, uint32_t tokens) {
  const auto channel = server.InProcessChannel();
  std::vector<std::thread> clients;
  std::vector<uint64_t> received(static_cast<size_t>(streams));
  const auto start = std::chrono::steady_clock::now();
  const double cpu = CpuSeconds();
  for (int i = 0; i < streams; ++i) {
    clients.emplace_back([&, i] {
      const auto stub = v1::InferenceService::NewStub(channel);
      v1::GenerateStreamRequest request;
      request.mutable_request()->set_text("Once upon a time number " + std::to_string(i));
      request.mutable_request()->mutable_stop()->set_max_tokens(tokens);
      request.mutable_request()->mutable_stop()->set_ignore_eos(true);
      grpc::ClientContext context;
      const auto reader = stub->GenerateStream(&context, request);
      v1::GenerateStreamResponse event;
      while (reader->Read(&event)) {
        received[static_cast<size_t>(i)] += static_cast<uint64_t>(event.delta().token_ids_size());
      }
      reader->Finish();
    });
  }
  for (std::thread& client : clients) {
    client.join();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  double sum = 0;
  for (const uint64_t count : received) {
    sum += static_cast<double>(count);
  }
  return {sum / seconds.count(), sum / (CpuSeconds() - cpu)};
}

void PrintSpread(std::vector<double> values, const char* format) {
  std::sort(values.begin(), values.end());
  std::printf(format, values[values.size() / 2], values.front(), values.back());
}

int Run(const char* folder) {
  const auto model = LoadModelPackage(folder, 1);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
    return 1;
  }
  std::printf("own path, us of CPU time a step: median (least to most) of %d runs of %d steps\n", kRepetitions, kSteps);
  for (const uint32_t sequences : {1U, 16U, 64U, 256U}) {
    std::vector<double> times;
    for (int i = 0; i < kRepetitions; ++i) {
      times.push_back(TimeOwnPath(*model, sequences));
    }
    std::printf("  %3u sequences  ", sequences);
    PrintSpread(times, "%7.1f (%.1f to %.1f)\n");
  }
  const auto executor = NullExecutor::Start(model->revision, model->layer_groups->count(), 256);
  ControllerOptions options;
  options.model_dir = folder;
  options.executors = {{"null", executor->channel()}};
  options.audit_rate = 0;
  auto server = ControllerServer::Create(options);
  if (!server.ok() || !(*server)->WaitReady(absl::Seconds(30)).ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  std::printf("public stream, tokens/s: of the wall clock; of a core (CPU time of the whole process)\n");
  for (const int streams : {1, 16, 64, 256}) {
    std::vector<double> wall;
    std::vector<double> core;
    for (int i = 0; i < kRepetitions; ++i) {
      const Throughput throughput = TimeStreams(**server, streams, 200);
      wall.push_back(throughput.tokens_per_second);
      core.push_back(throughput.tokens_per_cpu_second);
    }
    std::printf("  %3d streams    ", streams);
    PrintSpread(wall, "%9.0f (%.0f to %.0f)   ");
    PrintSpread(core, "%9.0f (%.0f to %.0f)\n");
  }
  (*server)->Shutdown(absl::ZeroDuration());
  server->reset();
  return 0;
}

}  // namespace
}  // namespace flexquant::controller

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s MODEL\n", argv[0]);
    return 2;
  }
  return flexquant::controller::Run(argv[1]);
}
