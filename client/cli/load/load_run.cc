#include "client/cli/load/load_run.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/interrupt.h"

namespace flexquant::cli {
namespace {

// The requests under way: their results, and how to stop them.
class Player {
 public:
  Player(const client::Client& client, const LoadOptions& options, absl::Time start)
      : client_(client), options_(options), start_(start) {}

  void Send(const TraceRequest& traced, size_t index) {
    auto call = std::make_unique<Call>();
    call->result.index = index;
    call->result.arrival = traced.arrival * options_.time_scale;
    const uint32_t answer_tokens = ScaledTokens(traced.answer_tokens, options_.token_scale, options_.max_answer_tokens);
    call->request = Request(traced, index, answer_tokens);
    call->result.prompt_tokens = static_cast<uint32_t>(call->request.token_ids().ids_size());
    std::mt19937_64 random(options_.seed + index);
    if (std::uniform_real_distribution<double>(0, 1)(random) < options_.cancel_share) {
      call->cancel_after = 1 + static_cast<uint32_t>(random() % answer_tokens);
    }
    const std::lock_guard lock(mutex_);
    if (running_ >= options_.max_concurrent) {
      call->result.status = absl::ResourceExhaustedError("not sent: too many requests run already");
      ++done_;
      calls_.push_back(std::move(call));
      return;
    }
    ++running_;
    Call& started = *calls_.emplace_back(std::move(call));
    started.thread = std::thread([this, &started] { Run(started); });
  }

  // True once all that were sent have ended, or at `deadline`.
  bool Wait(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    return ended_.wait_until(lock, absl::ToChronoTime(deadline), [this] { return running_ == 0; });
  }
  size_t done() {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  void CancelAll() {
    const std::lock_guard lock(mutex_);
    for (const auto& call : calls_) {
      call->cancel.Cancel();
    }
  }
  std::vector<LoadResult> Results() {
    std::vector<LoadResult> results;
    for (const auto& call : calls_) {
      if (call->thread.joinable()) {
        call->thread.join();
      }
      results.push_back(std::move(call->result));
    }
    return results;
  }

 private:
  struct Call {
    v1::GenerateRequest request;
    uint32_t cancel_after = 0;  // tokens; 0 = never
    client::CancelToken cancel;
    LoadResult result;
    std::thread thread;
  };

  v1::GenerateRequest Request(const TraceRequest& traced, size_t index, uint32_t answer_tokens) const {
    v1::GenerateRequest request = options_.request;
    TraceRequest scaled = traced;
    scaled.prompt_tokens = ScaledTokens(traced.prompt_tokens, options_.token_scale, options_.max_prompt_tokens);
    const std::vector<uint32_t> prompt = PromptOf(scaled, index, options_.seed, options_.vocab_size);
    request.mutable_token_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
    request.mutable_stop()->set_max_tokens(answer_tokens);
    request.mutable_stop()->set_ignore_eos(true);
    request.mutable_sampling()->set_seed(options_.seed + index);
    request.set_request_id(absl::StrCat("load-", options_.seed, "-", index, "-", absl::ToUnixNanos(start_)));
    return request;
  }

  void Run(Call& call) {
    LoadResult& result = call.result;
    const absl::Time sent = absl::Now();
    result.late = sent - (start_ + result.arrival);
    absl::Time first;
    absl::Time last;
    result.status =
        client_.GenerateStream(call.request,
                               [&](const v1::GenerateStreamResponse& event) {
                                 if (event.has_finished()) {
                                   const v1::PrecisionReport& precision = event.finished().precision();
                                   result.mean_bits = precision.mean_bits();
                                   result.weight_bytes_read = static_cast<double>(precision.weight_bytes_read());
                                   result.weight_bytes_top = static_cast<double>(precision.weight_bytes_top());
                                 }
                                 if (event.delta().token_ids_size() == 0) {
                                   return;
                                 }
                                 const absl::Time now = absl::Now();
                                 if (result.token_ids.empty()) {
                                   first = now;
                                 } else {
                                   result.longest_gap = std::max(result.longest_gap, now - last);
                                 }
                                 last = now;
                                 result.token_ids.insert(result.token_ids.end(), event.delta().token_ids().begin(),
                                                         event.delta().token_ids().end());
                                 if (call.cancel_after > 0 && result.token_ids.size() >= call.cancel_after) {
                                   result.cancelled = true;
                                   call.cancel.Cancel();
                                 }
                               },
                               {.timeout = absl::InfiniteDuration(), .cancel = &call.cancel});
    if (!result.token_ids.empty()) {
      result.time_to_first_token = first - sent;
    }
    if (result.token_ids.size() > 1) {
      result.time_per_output_token = (last - first) / (result.token_ids.size() - 1);
    }
    result.end = absl::Now() - start_;
    const std::lock_guard lock(mutex_);
    --running_;
    ++done_;
    ended_.notify_all();
  }

  const client::Client& client_;
  const LoadOptions& options_;
  const absl::Time start_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<std::unique_ptr<Call>> calls_;
  size_t running_ = 0;
  size_t done_ = 0;
};

}  // namespace

absl::Status PlayTrace(const client::Client& client, const std::vector<TraceRequest>& trace, const LoadOptions& options,
                       absl::FunctionRef<void(size_t done)> progress, std::vector<LoadResult>* results) {
  constexpr absl::Duration kTick = absl::Milliseconds(50);
  const absl::Time start = absl::Now();
  Player player(client, options, start);
  for (size_t i = 0; i < trace.size() && Interrupt::Check().ok(); ++i) {
    const absl::Time due = start + trace[i].arrival * options.time_scale;
    while (absl::Now() < due && Interrupt::Check().ok()) {
      absl::SleepFor(std::min(due - absl::Now(), kTick));
      progress(player.done());
    }
    if (Interrupt::Check().ok()) {
      player.Send(trace[i], i);
    }
  }
  while (!player.Wait(absl::Now() + kTick)) {
    progress(player.done());
    if (!Interrupt::Check().ok()) {
      player.CancelAll();
    }
  }
  progress(player.done());
  *results = player.Results();
  return Interrupt::Check();
}

}  // namespace flexquant::cli
