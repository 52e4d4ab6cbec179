#include "controller/metrics.h"

#include "absl/strings/str_cat.h"

#ifdef FLEXQUANT_HAVE_PROMETHEUS
#include <array>
#include <exception>
#include <utility>

#include "absl/strings/ascii.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "proto/grpc_status.h"
#endif

namespace flexquant::controller {

std::unique_ptr<Metrics> Metrics::Silent() { return std::make_unique<Metrics>(); }

#ifndef FLEXQUANT_HAVE_PROMETHEUS

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Serve(const std::string& listen, const std::string& /*model_name*/,
                                                        std::function<SchedulerFigures()> /*read*/) {
  return absl::UnimplementedError(
      absl::StrCat("this build has no metrics endpoint, so nothing listens on ", listen,
                   "; use one that is built with prometheus-cpp, or leave the address out"));
}

#else

namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Histogram;
using prometheus::Registry;
using Buckets = Histogram::BucketBoundaries;

const Buckets kLatency = {0.001, 0.0025, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1,
                          0.2,   0.3,    0.5,   0.75,   1,    2.5,  5,    10,   20,   60,    300};
const Buckets kGaps = {0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 5};
const Buckets kTokens = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10'000, 20'000, 50'000, 100'000};
const Buckets kBits = {3.25, 3.5, 3.75, 4, 4.25, 4.5, 4.75, 5, 5.25, 5.5, 5.75, 6, 6.25, 6.5, 7, 7.5, 8};
const Buckets kKl = {0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1};

// A metric under our name and, if there is one, vLLM's.
class Twin {
 public:
  Twin(Registry& registry, const prometheus::Labels& labels, const std::string& name, const std::string& alias,
       const std::string& help, const Buckets& buckets) {
    Add(registry, labels, name, help, buckets);
    if (!alias.empty()) {
      Add(registry, labels, alias, help, buckets);
    }
  }
  void Observe(double value) {
    for (Histogram* histogram : histograms_) {
      histogram->Observe(value);
    }
  }

 private:
  void Add(Registry& registry, const prometheus::Labels& labels, const std::string& name, const std::string& help,
           const Buckets& buckets) {
    auto& family = prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
    histograms_.push_back(&family.Add(labels, buckets));
  }
  std::vector<Histogram*> histograms_;
};

// Reads the scheduler at each scrape, so that nothing is counted twice on the way of a token.
class SchedulerCollector final : public prometheus::Collectable {
 public:
  SchedulerCollector(std::string model_name, std::function<SchedulerFigures()> read)
      : model_name_(std::move(model_name)), read_(std::move(read)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    const SchedulerFigures figures = read_();
    std::vector<prometheus::MetricFamily> families;
    AddQueue(figures, families);
    AddExecutors(figures, families);
    AddTotals(figures, families);
    AddGroups(figures, families);
    return families;
  }

 private:
  using Families = std::vector<prometheus::MetricFamily>;
  using Labels = std::vector<prometheus::ClientMetric::Label>;
  using Member = ExecutorFigures::Number ExecutorFigures::*;

  Labels With(Labels labels) const {
    labels.push_back({"model_name", model_name_});
    return labels;
  }
  static prometheus::MetricFamily& Add(Families& families, const std::string& name, const std::string& help,
                                       prometheus::MetricType type) {
    prometheus::MetricFamily& family = families.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    return family;
  }
  static void Append(prometheus::MetricFamily& family, Labels labels, double value) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    metric.label = std::move(labels);
    if (family.type == prometheus::MetricType::Gauge) {
      metric.gauge.value = value;
    } else {
      metric.counter.value = value;
    }
  }
  void AddGauge(Families& families, const std::string& name, const std::string& help, double value) const {
    Append(Add(families, name, help, prometheus::MetricType::Gauge), With({}), value);
  }
  static double Sum(const SchedulerFigures& figures, Member member) {
    double sum = 0;
    for (const auto& executor : figures.executors) {
      sum += static_cast<double>(((*executor.figures).*member).load(std::memory_order_relaxed));
    }
    // A sum must not fall when an executor goes: a fall looks like a restart.
    return figures.departed == nullptr ? sum : sum + static_cast<double>(((*figures.departed).*member).load());
  }

  void AddQueue(const SchedulerFigures& figures, Families& families) const {
    const double running = Sum(figures, &ExecutorFigures::running);
    const double blocks = Sum(figures, &ExecutorFigures::kv_blocks);
    const double usage = blocks > 0 ? Sum(figures, &ExecutorFigures::kv_blocks_used) / blocks : 0;
    const auto waiting = static_cast<double>(figures.waiting);
    AddGauge(families, "flexquant_requests_running", "Requests that executors work on", running);
    AddGauge(families, "vllm:num_requests_running", "Requests that executors work on", running);
    AddGauge(families, "flexquant_requests_waiting", "Requests in the queue", waiting);
    AddGauge(families, "vllm:num_requests_waiting", "Requests in the queue", waiting);
    AddGauge(families, "flexquant_waiting_tokens", "Prompt and most answer tokens of the requests in the queue",
             static_cast<double>(figures.waiting_tokens));
    AddGauge(families, "flexquant_kv_cache_usage_ratio", "Share of all KV blocks that running requests use", usage);
    AddGauge(families, "vllm:kv_cache_usage_perc", "Share of all KV blocks that running requests use, 0 to 1", usage);
  }

  void AddExecutors(const SchedulerFigures& figures, Families& families) const {
    const auto add = [&](const std::string& name, const std::string& help, prometheus::MetricType type,
                         const std::function<double(const SchedulerFigures::Executor&)>& value) {
      prometheus::MetricFamily& family = Add(families, name, help, type);
      for (const auto& executor : figures.executors) {
        Append(family, With({{"executor", executor.address}}), value(executor));
      }
    };
    const auto number = [](Member member, double scale = 1) {
      return [member, scale](const SchedulerFigures::Executor& executor) {
        return scale * static_cast<double>(((*executor.figures).*member).load(std::memory_order_relaxed));
      };
    };
    constexpr auto kGauge = prometheus::MetricType::Gauge;
    constexpr auto kCounter = prometheus::MetricType::Counter;
    constexpr double kSeconds = 1e-9;
    add("flexquant_executor_ready", "1 if the executor takes requests", kGauge,
        [](const SchedulerFigures::Executor& executor) { return executor.ready ? 1.0 : 0.0; });
    add("flexquant_executor_kv_blocks", "KV blocks of the executor", kGauge, number(&ExecutorFigures::kv_blocks));
    add("flexquant_executor_kv_blocks_used", "KV blocks that running requests use", kGauge,
        number(&ExecutorFigures::kv_blocks_used));
    add("flexquant_steps_total", "Steps with results", kCounter, number(&ExecutorFigures::steps));
    add("flexquant_step_tokens_total", "Tokens computed, of prompts and answers", kCounter,
        number(&ExecutorFigures::step_tokens));
    add("flexquant_executor_losses_total", "Streams to the executor that broke", kCounter,
        number(&ExecutorFigures::losses));
    add("flexquant_failovers_total", "Requests that moved because their executor was lost or shut down", kCounter,
        number(&ExecutorFigures::moved));
    add("flexquant_weight_bytes_read_total", "Bytes of weights read", kCounter, number(&ExecutorFigures::weight_bytes));
    add("flexquant_plan_seconds_total", "Time spent on making steps, plans included", kCounter,
        number(&ExecutorFigures::plan_ns, kSeconds));
    add("flexquant_wire_seconds_total", "Time of steps that neither waited nor was computed", kCounter,
        number(&ExecutorFigures::wire_ns, kSeconds));
    add("flexquant_executor_queue_seconds_total", "Time that steps waited on the executor", kCounter,
        number(&ExecutorFigures::queue_ns, kSeconds));
    add("flexquant_device_seconds_total", "Time that steps were computed", kCounter,
        number(&ExecutorFigures::compute_ns, kSeconds));
  }

  void AddTotals(const SchedulerFigures& figures, Families& families) const {
    const auto add = [&](const std::string& name, const std::string& alias, const std::string& help, Member member,
                         double scale) {
      for (const std::string& either : {name, alias}) {
        if (!either.empty()) {
          Append(Add(families, either, help, prometheus::MetricType::Counter), With({}), scale * Sum(figures, member));
        }
      }
    };
    add("flexquant_preemptions_total", "vllm:num_preemptions_total", "Requests that left for want of KV blocks",
        &ExecutorFigures::preemptions, 1);
    add("flexquant_prefix_cache_queries_total", "vllm:prefix_cache_queries_total", "Prompt tokens looked up",
        &ExecutorFigures::prefix_tokens, 1);
    add("flexquant_prefix_cache_hits_total", "vllm:prefix_cache_hits_total", "Prompt tokens found computed",
        &ExecutorFigures::prefix_hits, 1);
    add("flexquant_audited_tokens_total", "", "Answer tokens that were computed at 8 bits, too",
        &ExecutorFigures::audits, 1);
    add("flexquant_audited_kl_nats_total", "",
        "KL of the audited tokens, in nats, without what settings of the executor lose",
        &ExecutorFigures::audit_kl_nnats, 1e-9);
  }

  void AddGroups(const SchedulerFigures& figures, Families& families) const {
    prometheus::MetricFamily& family =
        Add(families, "flexquant_layer_group_tokens_total",
            "Answer tokens times layers by kind of layer group and bits", prometheus::MetricType::Counter);
    for (size_t kind = 0; kind < kLayerGroupKindNames.size(); ++kind) {
      for (size_t bits = 0; bits <= kReferencePrecision; ++bits) {
        double tokens =
            figures.departed == nullptr ? 0 : static_cast<double>(figures.departed->group_tokens[kind][bits].load());
        for (const auto& executor : figures.executors) {
          tokens += static_cast<double>(executor.figures->group_tokens[kind][bits].load(std::memory_order_relaxed));
        }
        if (tokens > 0) {
          Append(family, With({{"layer_group", kLayerGroupKindNames[kind]}, {"bits", absl::StrCat(bits)}}), tokens);
        }
      }
    }
  }

  const std::string model_name_;
  const std::function<SchedulerFigures()> read_;
};

class ServedMetrics final : public Metrics {
 public:
  ServedMetrics(std::unique_ptr<prometheus::Exposer> exposer, const std::string& model_name,
                std::function<SchedulerFigures()> read)
      : labels_{{"model_name", model_name}},
        ttft_(*registry_, labels_, "flexquant_time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
              "From a request's arrival to its first token", kLatency),
        gap_(*registry_, labels_, "flexquant_inter_token_latency_seconds", "vllm:inter_token_latency_seconds",
             "Between two tokens of an answer", kGaps),
        end_to_end_(*registry_, labels_, "flexquant_request_seconds", "vllm:e2e_request_latency_seconds",
                    "From a request's arrival to its last token", kLatency),
        queue_(*registry_, labels_, "flexquant_queue_seconds", "vllm:request_queue_time_seconds",
               "From a request's arrival until an executor took it", kLatency),
        prefill_(*registry_, labels_, "flexquant_prefill_seconds", "vllm:request_prefill_time_seconds",
                 "From the executor's taking a request to its first token", kLatency),
        decode_(*registry_, labels_, "flexquant_decode_seconds", "vllm:request_decode_time_seconds",
                "From a request's first token to its last one", kLatency),
        prompt_(*registry_, labels_, "flexquant_prompt_tokens", "vllm:request_prompt_tokens", "Tokens of a prompt",
                kTokens),
        answer_(*registry_, labels_, "flexquant_answer_tokens", "vllm:request_generation_tokens", "Tokens of an answer",
                kTokens),
        bits_(*registry_, labels_, "flexquant_answer_bits", "", "Mean bits a weight of an answer", kBits),
        predicted_kl_(*registry_, labels_, "flexquant_answer_predicted_kl_nats", "", "Mean KL expected of an answer",
                      kKl),
        audited_kl_(*registry_, labels_, "flexquant_answer_audited_kl_nats", "", "Mean KL measured of an answer", kKl),
        success_{Counters("flexquant_answers_total", "Answers that ended well"),
                 Counters("vllm:request_success_total", "Answers that ended well")},
        failures_(Counters("flexquant_request_failures_total", "Requests that ended in an error, by code and reason")),
        prompt_tokens_{Counters("flexquant_prompt_tokens_total", "Prompt tokens of answers that ended well"),
                       Counters("vllm:prompt_tokens_total", "Prompt tokens of answers that ended well")},
        answer_tokens_{Counters("flexquant_answer_tokens_total", "Tokens of answers that ended well"),
                       Counters("vllm:generation_tokens_total", "Tokens of answers that ended well")},
        collector_(std::make_shared<SchedulerCollector>(model_name, std::move(read))),
        exposer_(std::move(exposer)) {
    exposer_->RegisterCollectable(registry_);
    exposer_->RegisterCollectable(collector_);
  }

  int port() const override { return exposer_->GetListeningPorts().front(); }

  void Finished(const AnswerEnd& end) override {
    const double prefill = absl::ToDoubleSeconds(end.time_to_first_token - end.queue_time);
    const double decode =
        absl::ToDoubleSeconds(end.time_per_output_token) * (end.generated_tokens > 0 ? end.generated_tokens - 1 : 0);
    ttft_.Observe(absl::ToDoubleSeconds(end.time_to_first_token));
    queue_.Observe(absl::ToDoubleSeconds(end.queue_time));
    prefill_.Observe(prefill);
    decode_.Observe(decode);
    end_to_end_.Observe(absl::ToDoubleSeconds(end.time_to_first_token) + decode);
    prompt_.Observe(end.prompt_tokens);
    answer_.Observe(end.generated_tokens);
    bits_.Observe(end.precision.mean_bits);
    if (end.precision.predicted_mean_kl.has_value()) {
      predicted_kl_.Observe(*end.precision.predicted_mean_kl);
    }
    if (end.precision.audit.has_value()) {
      audited_kl_.Observe(end.precision.audit->mean_kl);
    }
    Increment(success_, With({{"finished_reason", end.stopped ? "stop" : "length"}}), 1);
    Increment(prompt_tokens_, labels_, end.prompt_tokens);
    Increment(answer_tokens_, labels_, end.generated_tokens);
  }

  void Failed(const absl::Status& status) override {
    const std::string code = absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
    failures_->Add(With({{"code", code}, {"reason", ErrorReason(status)}})).Increment();
  }

  void TokenGap(absl::Duration gap) override { gap_.Observe(absl::ToDoubleSeconds(gap)); }

 private:
  prometheus::Labels With(prometheus::Labels labels) const {
    labels.insert(labels_.begin(), labels_.end());
    return labels;
  }
  Family<Counter>* Counters(const std::string& name, const std::string& help) {
    return &prometheus::BuildCounter().Name(name).Help(help).Register(*registry_);
  }
  // Under our name and vLLM's.
  using TwinCounters = std::array<Family<Counter>*, 2>;
  static void Increment(const TwinCounters& twins, const prometheus::Labels& labels, double count) {
    for (Family<Counter>* family : twins) {
      family->Add(labels).Increment(count);
    }
  }

  const prometheus::Labels labels_;
  const std::shared_ptr<Registry> registry_ = std::make_shared<Registry>();
  Twin ttft_, gap_, end_to_end_, queue_, prefill_, decode_, prompt_, answer_, bits_, predicted_kl_, audited_kl_;
  const TwinCounters success_;
  Family<Counter>* const failures_;
  const TwinCounters prompt_tokens_, answer_tokens_;
  const std::shared_ptr<SchedulerCollector> collector_;
  const std::unique_ptr<prometheus::Exposer> exposer_;  // the first to go: it reads the others
};

}  // namespace

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Serve(const std::string& listen, const std::string& model_name,
                                                        std::function<SchedulerFigures()> read) {
  constexpr size_t kThreads = 1;
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(listen, kThreads);
    return std::make_unique<ServedMetrics>(std::move(exposer), model_name, std::move(read));
  } catch (const std::exception& error) {  // civetweb's: the library's only way to fail
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", listen, ": ", error.what(),
                                               "; the port is taken, or this is no HOST:PORT of this machine"));
  }
}

#endif

}  // namespace flexquant::controller
