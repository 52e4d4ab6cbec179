#include "client/cli/evaluation/answer_report.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/evaluation/text_overlap.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "client/cpp/client.h"
#include "common/json_fields.h"
#include "common/mapped_file.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::cli {
namespace {

constexpr size_t kAtOnce = 8;  // answers
constexpr double kMostBits = 16;

struct TextAnswer {
  std::string text;
  uint64_t tokens = 0;
  double mean_bits = 0;
};

absl::StatusOr<v1::GenerateRequest> MakeRequest(const ReportContext& context, const std::string& policy,
                                                uint32_t max_tokens, const std::string& prompt, bool chat) {
  RequestFlags flags = context.flags.parameters;
  FQ_RETURN_IF_ERROR(NamePolicy(policy, flags));
  flags.temperature = 0;
  flags.max_tokens = max_tokens;
  flags.batch_mode = "isolated";
  v1::GenerateRequest request;
  FQ_RETURN_IF_ERROR(FillRequest(flags, request));
  if (chat) {
    auto* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(prompt);
  } else {
    request.set_text(prompt);
  }
  return request;
}

absl::StatusOr<TextAnswer> Generate(const client::Client& client, const v1::GenerateRequest& request,
                                    client::CancelToken& cancel) {
  TextAnswer answer;
  FQ_RETURN_IF_ERROR(client.GenerateStream(request,
                                           [&answer](const v1::GenerateStreamResponse& event) {
                                             answer.text += event.delta().text();
                                             if (event.has_finished()) {
                                               answer.tokens = event.finished().usage().generated_tokens();
                                               answer.mean_bits = event.finished().precision().mean_bits();
                                             }
                                           },
                                           {.cancel = &cancel}));
  return answer;
}

// One answer that the log does not have yet.
struct Job {
  std::string id;
  v1::GenerateRequest request;
};

// Several at once; each is kept as it is finished.
absl::Status RunJobs(const client::Client& client, const std::vector<Job>& jobs, size_t total, EvaluationLog& log) {
  Progress progress("answers");
  std::mutex mutex;
  absl::Status status;
  size_t done = total - jobs.size();
  std::atomic<size_t> next = 0;
  std::array<client::CancelToken, kAtOnce> cancels;
  const auto cancel_all = [&cancels] {
    for (client::CancelToken& cancel : cancels) {
      cancel.Cancel();
    }
  };
  const Interrupt::Action on_interrupt(cancel_all);
  const auto work = [&](client::CancelToken& cancel) {
    for (size_t i = next++; i < jobs.size() && !cancel.cancelled(); i = next++) {
      const auto answer = Generate(client, jobs[i].request, cancel);
      const std::lock_guard lock(mutex);
      absl::Status now = answer.status();
      if (now.ok()) {
        now = log.Add(jobs[i].id, {{"text", answer->text}, {"tokens", answer->tokens}, {"bits", answer->mean_bits}});
        progress.Update(++done, total, "answers");
      }
      if (!now.ok()) {
        status.Update(now);
        cancel_all();
      }
    }
  };
  std::vector<std::thread> threads;
  for (client::CancelToken& cancel : cancels) {
    threads.emplace_back(work, std::ref(cancel));
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  FQ_RETURN_IF_ERROR(Interrupt::Check());
  return status;
}

absl::StatusOr<TextAnswer> ReadAnswer(const EvaluationLog& log, const std::string& id) {
  const JsonFields fields(*log.Find(id), id, "", "delete the file, it is measured again");
  TextAnswer answer;
  FQ_ASSIGN_OR_RETURN(answer.text, fields.String("text"));
  FQ_ASSIGN_OR_RETURN(answer.tokens, fields.Count("tokens"));
  FQ_ASSIGN_OR_RETURN(answer.mean_bits, fields.Number("bits", kMostBits));
  return answer;
}

Json Describe(const std::vector<std::string>& policies, const std::vector<std::vector<TextAnswer>>& answers,
              uint64_t seed) {
  const size_t count = answers.front().size();
  const Resampler resampler(count, seed);
  const auto mean = [&](const std::function<double(size_t)>& value) {
    std::vector<double> values;
    for (size_t i = 0; i < count; ++i) {
      values.push_back(value(i));
    }
    return MeanWithInterval(values, resampler);
  };
  Json json = Json::array();
  for (size_t p = 0; p < policies.size(); ++p) {
    const std::vector<TextAnswer>& of = answers[p];
    json.push_back({{"policy", policies[p]},
                    {"mean_bits", mean([&](size_t i) { return of[i].mean_bits; })},
                    {"tokens", mean([&](size_t i) { return static_cast<double>(of[i].tokens); })},
                    {"repeated_4grams", mean([&](size_t i) { return RepeatedShare(Words(of[i].text)); })},
                    {"rouge_l", mean([&](size_t i) { return RougeL(Words(of[i].text), Words(answers[0][i].text)); })},
                    {"equal", mean([&](size_t i) { return of[i].text == answers[0][i].text ? 1.0 : 0.0; })}});
  }
  return json;
}

}  // namespace

absl::StatusOr<Prompts> ReadPrompts(const std::string& path, size_t limit) {
  Prompts read;
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  read.checksum = Checksum(text.data(), text.size());
  std::vector<Prompts::Prompt> all;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const Json* prompt = nullptr;
    if (json.is_object() && json.contains("turns") && json["turns"].is_array() && !json["turns"].empty()) {
      prompt = &json["turns"][0];
    } else if (json.is_object() && json.contains("prompt")) {
      prompt = &json["prompt"];
    }
    if (prompt == nullptr || !prompt->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", all.size() + 1, ": is no object with text `turns` or `prompt`"));
    }
    all.push_back({all.size(), prompt->get<std::string>()});
  }
  if (all.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
  }
  const size_t count = limit > 0 ? std::min(limit, all.size()) : all.size();
  for (size_t i = 0; i < count; ++i) {
    read.prompts.push_back(all[i * all.size() / count]);
  }
  return read;
}

absl::StatusOr<Json> ReportAnswers(const ReportContext& context, const Prompts& prompts, uint32_t max_tokens,
                                   const EmbeddedFlags& embedded, const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(store.folder()));
  const bool chat = ChatTemplate::Recognize(*tokenizer).ok();
  // What the others are compared with comes first.
  std::vector<std::string> policies = {absl::StrCat(store.has_reference() ? kReferencePrecision : kTopPrecision)};
  for (auto bits = kPrecisions.rbegin(); bits != kPrecisions.rend(); ++bits) {
    if (policies.front() != absl::StrCat(*bits)) {
      policies.push_back(absl::StrCat(*bits));
    }
  }
  policies.emplace_back("dynamic");
  for (const double budget : context.budgets) {
    policies.push_back(absl::StrCat("kl:", budget));
  }
  const auto id = [&](const std::string& policy, const Prompts::Prompt& prompt) {
    return absl::StrCat("answers ", prompts.checksum, " ", max_tokens, "/", policy, "/", prompt.index);
  };
  std::vector<Job> jobs;
  for (const std::string& policy : policies) {
    for (const Prompts::Prompt& prompt : prompts.prompts) {
      if (context.log.Find(id(policy, prompt)) == nullptr) {
        FQ_ASSIGN_OR_RETURN(auto request, MakeRequest(context, policy, max_tokens, prompt.text, chat));
        jobs.push_back({id(policy, prompt), std::move(request)});
      }
    }
  }
  if (!jobs.empty()) {
    FQ_ASSIGN_OR_RETURN(const auto connection, Connection::Open({.embedded = embedded, .server = ""}));
    FQ_RETURN_IF_ERROR(RunJobs(connection->client(), jobs, prompts.prompts.size() * policies.size(), context.log));
  }
  std::vector<std::vector<TextAnswer>> answers;
  for (const std::string& policy : policies) {
    answers.emplace_back();
    for (const Prompts::Prompt& prompt : prompts.prompts) {
      FQ_ASSIGN_OR_RETURN(auto answer, ReadAnswer(context.log, id(policy, prompt)));
      answers.back().push_back(std::move(answer));
    }
  }
  return Json{{"prompts", prompts.prompts.size()},
              {"max_tokens", max_tokens},
              {"chat_template", chat},
              {"reference", policies.front()},
              {"policies", Describe(policies, answers, context.flags.seed)}};
}

}  // namespace flexquant::cli
