#include "tools/simulate/measure.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/load/trace.h"
#include "common/status_macros.h"
#include "controller/balancer.h"
#include "controller/executor_client.h"
#include "controller/executor_rounds.h"
#include "controller/policy/policy_factory.h"
#include "controller/wakeup.h"

namespace flexquant::simulate {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(30);
constexpr uint32_t kAnswerTokens = 12;
constexpr uint32_t kPromptTokens = 512;  // of a batch's prompts together, or 4 each

// An executor's link that notes what steps took.
class RecordingLink final : public controller::ExecutorLink {
 public:
  RecordingLink(controller::ExecutorClient& client, const controller::LayerGroups& groups)
      : client_(client), groups_(groups) {}

  const std::string& address() const override { return client_.address(); }
  absl::Status StreamStatus() const override { return client_.StreamStatus(); }
  bool draining() const override { return client_.draining(); }
  uint64_t SendStep(const std::vector<controller::SequenceStep>& sequences) override {
    shapes_.push_back(ShapeOf(sequences, groups_));
    return client_.SendStep(sequences);
  }
  void SendRelease(const std::vector<uint64_t>& ids) override { client_.SendRelease(ids); }
  std::vector<controller::StepResult> TakeResults() override {
    std::vector<controller::StepResult> results = client_.TakeResults();
    for (const controller::StepResult& result : results) {
      if (!shapes_.empty()) {
        steps_.push_back({shapes_.front(), result.compute_time});
        shapes_.pop_front();
      }
    }
    return results;
  }
  const std::vector<MeasuredStep>& steps() const { return steps_; }

 private:
  controller::ExecutorClient& client_;
  const controller::LayerGroups& groups_;
  std::deque<StepShape> shapes_;  // of the steps without a result
  std::vector<MeasuredStep> steps_;
};

class Sink final : public controller::GenerationSink {
 public:
  void OnStarted(double /*backend_kl*/) override {}
  void OnDelta(controller::AnswerDelta /*delta*/) override {}
  void OnFinished(controller::AnswerEnd /*end*/) override {}
  void OnFailed(absl::Status status) override { failure.Update(status); }
  absl::Status failure;
};

cli::TraceRequest PromptRequest(uint32_t tokens) {
  cli::TraceRequest request;
  request.prompt_tokens = tokens;
  return request;
}

}  // namespace

absl::StatusOr<std::vector<MeasuredStep>> MeasureExecutor(const controller::ModelPackage& model,
                                                          const std::string& address) {
  controller::Wakeup wakeup;
  controller::ExecutorClient client({address, nullptr},
                                    {model.revision, model.layer_groups->count(), model.policies.has_reference},
                                    "flexquant_simulate", [&] { wakeup.Notify(); });
  FQ_RETURN_IF_ERROR(client.Connect(kConnectTimeout));
  const controller::ExecutorDescription& description = client.description();
  RecordingLink link(client, *model.layer_groups);
  controller::RequestQueue queue({.max_requests = UINT32_MAX, .max_tokens = UINT64_MAX});
  controller::Balancer balancer;
  controller::ExecutorFigures figures;
  const controller::WorkerOptions options;
  controller::ExecutorRounds rounds(
      description, options, link, queue, balancer, figures,
      {[&] { wakeup.Notify(); }, [] {}, [] { return false; }, [](bool, const absl::Status&) {}});
  const auto active = std::make_shared<controller::ActiveRequests>();
  const auto sink = std::make_shared<Sink>();
  const uint64_t most = uint64_t{description.num_kv_blocks} * description.kv_block_tokens;
  uint64_t id = 0;
  absl::Status status;
  for (const uint32_t bits : {8U, 4U, 3U}) {
    for (uint32_t width = 1; width <= description.max_sequences && status.ok();
         width = std::min(2 * width, width + 16)) {
      const auto prompt = static_cast<uint32_t>(
          std::min<uint64_t>({16 + 97 * (id % 3), std::max(kPromptTokens / width, 4U), most / 2 / width,
                              static_cast<uint64_t>(model.config.max_context) / 2}));
      for (uint32_t i = 0; i < width && prompt > 0; ++i) {
        auto spec = std::make_unique<controller::GenerationSpec>();
        spec->request_id = absl::StrCat(++id);
        spec->prompt = cli::PromptOf(PromptRequest(prompt), id, 1, model.tokenizer->vocab_size());
        spec->max_tokens = kAnswerTokens;
        v1::PrecisionPolicy policy;
        policy.set_fixed_bits(bits);
        FQ_ASSIGN_OR_RETURN(auto resolved, controller::MakePolicy(policy, model.policies, id));
        spec->policy = std::move(resolved.policy);
        spec->prefill_plan = std::move(resolved.prefill_plan);
        auto request = active->Add(id, "", spec->request_id);
        auto sequence = std::make_unique<controller::Sequence>(
            std::move(spec), sink, controller::Sequence::Shared{*model.tokenizer, *model.layer_groups, 1}, request);
        FQ_RETURN_IF_ERROR(queue.Push(sequence));
      }
      while (status.ok() && (queue.size() > 0 || !rounds.empty())) {
        status = rounds.Round(/*listed=*/true, absl::Now());
        if (status.ok() && (queue.size() > 0 || !rounds.empty())) {
          wakeup.WaitUntil(rounds.NextTimeout());
        }
      }
    }
  }
  rounds.GiveBack(absl::UnavailableError("measured"), /*stopping=*/true);
  client.Disconnect();
  FQ_RETURN_IF_ERROR(status);
  FQ_RETURN_IF_ERROR(sink->failure);
  return link.steps();
}

}  // namespace flexquant::simulate
