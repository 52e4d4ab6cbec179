#include "client/cli/evaluation/task_report.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/evaluation/measurement.h"
#include "common/status_macros.h"
#include "common/store/manifest.h"
#include "common/tokenizer/tokenizer.h"

namespace flexquant::cli {
namespace {

constexpr size_t kMostOptions = 64;  // of an item; keeps windows' indices apart

// What a policy made of a task's items.
struct Answers {
  std::vector<size_t> chosen;  // [items]; of an exact score 0 = given, 1 = not
  std::vector<uint8_t> right;  // [items]
  double bytes = 0;            // a token, mean over all
};

absl::StatusOr<PolicyWindow> MakeWindow(const Tokenizer& tokenizer, const ModelStore& store, const TaskItem& item,
                                        size_t option) {
  const TaskOption& of = item.options[option];
  PolicyWindow window;
  window.index = item.index * kMostOptions + option;
  if (tokenizer.adds_bos()) {
    window.tokens.push_back(static_cast<uint32_t>(tokenizer.bos_id()));
  }
  const size_t begin = window.tokens.size();
  FQ_ASSIGN_OR_RETURN(const auto context, tokenizer.Encode(of.context, {}));
  FQ_ASSIGN_OR_RETURN(const auto all, tokenizer.Encode(of.context + of.continuation, {}));
  window.tokens.insert(window.tokens.end(), all.begin(), all.end());
  // The context's last token gives the continuation's first, so it is decoded too.
  const size_t shared = std::min(context.size(), all.size() - std::min<size_t>(all.size(), 1));
  if (begin + shared < 2 || window.tokens.size() > static_cast<size_t>(store.config().max_context)) {
    return absl::InvalidArgumentError(absl::StrCat("item ", item.index + 1, " has ", window.tokens.size(), " tokens, ",
                                                   begin + shared, " of them context; the model allows ",
                                                   store.config().max_context, ", and 2 must be context"));
  }
  window.prompt_tokens = begin + shared - 1;
  return window;
}

Answers Judge(const Task& task, const PolicyOutcome& outcome, const controller::LayerGroups& groups) {
  Answers answers;
  size_t next = 0;
  uint64_t tokens = 0;
  for (const TaskItem& item : task.items) {
    size_t best = 0;
    double most = 0;
    for (size_t i = 0; i < item.options.size(); ++i) {
      const WindowOutcome& window = outcome[next++];
      double score = -std::accumulate(window.nll.begin(), window.nll.end(), 0.0);
      if (task.score == TaskScore::kByBytes) {
        score /= static_cast<double>(item.options[i].continuation.size() - 1);
      }
      if (i == 0 || score > most) {
        most = score;
        best = i;
      }
      if (task.score == TaskScore::kExact) {
        best = std::all_of(window.hits.begin(), window.hits.end(), [](uint8_t hit) { return hit == 1; }) ? 0 : 1;
      }
      for (const PrecisionPlan& plan : window.plans) {
        answers.bytes += static_cast<double>(groups.BytesRead(plan));
        ++tokens;
      }
    }
    answers.chosen.push_back(best);
    answers.right.push_back(best == item.gold ? 1 : 0);
  }
  answers.bytes /= static_cast<double>(tokens);
  return answers;
}

Json Describe(const Task& task, const std::vector<PolicyCase>& cases, const std::vector<Answers>& answers,
              const ReportContext& context) {
  const size_t items = task.items.size();
  const Resampler resampler(items, context.flags.seed);
  const auto top = std::find_if(cases.begin(), cases.end(),
                                [](const PolicyCase& c) { return c.name == absl::StrCat(kTopPrecision); });
  const Answers& at_top = answers[static_cast<size_t>(top - cases.begin())];
  const double top_bytes =
      static_cast<double>(context.groups.BytesRead(PrecisionPlan::Uniform(kTopPrecision, context.groups.count())));
  const auto mean = [&](const std::function<double(size_t)>& value) {
    std::vector<double> values;
    for (size_t i = 0; i < items; ++i) {
      values.push_back(value(i));
    }
    return MeanWithInterval(values, resampler);
  };
  Json json = {{"task", task.name}, {"items", items}, {"policies", Json::array()}};
  for (size_t c = 0; c < cases.size(); ++c) {
    const Answers& of = answers[c];
    json["policies"].push_back({{"policy", cases[c].name},
                                {"mean_bits", kTopPrecision * of.bytes / top_bytes},
                                {"accuracy", mean([&](size_t i) { return of.right[i]; })},
                                {"against_8_bits", mean([&](size_t i) { return of.right[i] - at_top.right[i]; })},
                                {"changed", mean([&](size_t i) { return of.chosen[i] != at_top.chosen[i] ? 1 : 0; })}});
  }
  return json;
}

absl::StatusOr<TaskWindows> ReadOne(const std::string& name, const std::string& path, size_t limit,
                                    const ModelStore& store, const Tokenizer& tokenizer) {
  TaskWindows made;
  FQ_ASSIGN_OR_RETURN(made.task, ReadTask(name, path, limit));
  FQ_ASSIGN_OR_RETURN(made.checksum, FileChecksum(path));
  for (const TaskItem& item : made.task.items) {
    if (item.options.size() > kMostOptions) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", kMostOptions, " options"));
    }
    for (size_t option = 0; option < item.options.size(); ++option) {
      auto window = MakeWindow(tokenizer, store, item, option);
      if (!window.ok()) {
        return absl::Status(window.status().code(), absl::StrCat(path, ": ", std::string(window.status().message())));
      }
      made.windows.push_back(*std::move(window));
    }
  }
  return made;
}

}  // namespace

absl::StatusOr<std::vector<TaskWindows>> ReadTasks(const std::vector<std::string>& words, size_t limit,
                                                   const ModelStore& store) {
  FQ_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(store.folder()));
  std::vector<TaskWindows> tasks;
  for (const std::string& word : words) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
    FQ_ASSIGN_OR_RETURN(auto task, ReadOne(parts.first, parts.second, limit, store, *tokenizer));
    tasks.push_back(std::move(task));
  }
  return tasks;
}

absl::StatusOr<Json> ReportTasks(const ReportContext& context, const std::vector<TaskWindows>& tasks) {
  const auto policies = controller::MakePolicyContext(context.groups, /*has_reference=*/false, context.calibration,
                                                      context.flags.lookahead);
  std::vector<PolicyCase> cases;
  std::vector<std::string> names;
  for (const int bits : kPrecisions) {
    names.push_back(absl::StrCat(bits));
  }
  for (const double budget : context.budgets) {
    names.push_back(absl::StrCat("kl:", budget));
  }
  for (const std::string& name : names) {
    FQ_ASSIGN_OR_RETURN(auto c, MakePolicyCase(context.flags, name, policies));
    cases.push_back(std::move(c));
  }
  Json json = Json::array();
  for (const TaskWindows& task : tasks) {
    FQ_ASSIGN_OR_RETURN(const auto outcomes, Measure(absl::StrCat(task.task.name, " ", task.checksum), cases,
                                                     task.windows, context.runners, context.log));
    std::vector<Answers> answers;
    for (const PolicyOutcome& outcome : outcomes) {
      answers.push_back(Judge(task.task, outcome, context.groups));
    }
    json.push_back(Describe(task.task, cases, answers, context));
  }
  return json;
}

}  // namespace flexquant::cli
