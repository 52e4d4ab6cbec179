#include "client/cli/evaluation/report_html.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/evaluation/report_cells.h"
#include "client/cli/evaluation/report_plots.h"
#include "client/cli/svg_plot.h"

namespace flexquant::cli {
namespace {

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>FlexQuant evaluation</title>
<style>
  :root { color-scheme: light dark; --page: #ffffff; --words: #1f2328; --rule: #d0d7de; --no: #cf222e; }
  @media (prefers-color-scheme: dark) {
    :root { --page: #0d1117; --words: #e6edf3; --rule: #30363d; --no: #ff7b72; }
  }
  body { background: var(--page); color: var(--words); font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em;
         padding: 0 1em; }
  table { border-collapse: collapse; font-size: 13px; margin: 1em 0; display: block; overflow-x: auto; }
  th, td { border-bottom: 1px solid var(--rule); padding: 3px 9px; text-align: right; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  .no { color: var(--no); font-weight: bold; }
  svg { max-width: 100%; height: auto; }
</style></head><body>
)";

using Row = std::vector<std::string>;

std::string Number(const Json& value, int digits) { return NumberCell(value, {.digits = digits}); }

std::string Range(const Json& figure, int digits, double factor = 1) {
  return IntervalCell(figure, {.digits = digits, .factor = factor}, "-");
}

std::string Table(const Row& head, const std::vector<Row>& rows) {
  std::string html = "<table><tr>";
  for (const std::string& cell : head) {
    absl::StrAppend(&html, "<th>", EscapeMarkup(cell), "</th>");
  }
  for (const Row& row : rows) {
    absl::StrAppend(&html, "</tr>\n<tr>");
    for (const std::string& cell : row) {
      absl::StrAppend(&html, cell == "NO" ? "<td class=\"no\">" : "<td>", EscapeMarkup(cell), "</td>");
    }
  }
  return html + "</tr></table>\n";
}

std::string Section(const std::string& title, const std::string& words) {
  return absl::StrCat("<h2>", EscapeMarkup(title), "</h2>\n<p>", EscapeMarkup(words), "</p>\n");
}

std::string Facts(const Json& report) {
  std::vector<Row> rows;
  for (const auto& [name, value] : report.items()) {
    if (value.is_string() || value.is_number()) {
      rows.push_back({name, value.is_string() ? value.get<std::string>() : value.dump()});
    }
  }
  return Table({"what", "value"}, rows);
}

std::string Claims(const Json& report) {
  std::vector<Row> rows;
  for (const Json& claim : report["claims"]) {
    rows.push_back({claim["policy"].get<std::string>(), claim["claim"].get<std::string>(),
                    claim["holds"].get<bool>() ? "yes" : "NO"});
  }
  return Section(
             "Claims",
             "Each is put to the random controls too, which draw their plans from those of a policy's run and ought to "
             "fail the first. One that beats static mixed plans shows that hopping between rungs does, whatever the "
             "signals. A claim about KL holds if the whole 99 % interval of the paired ratio lies below 1, on at least "
             "20 windows. Plans are dealt to other tokens twice, and the mean of both is what a policy has to beat.") +
         Table({"policy", "claim", "holds"}, rows);
}

std::string Policies(const Json& report) {
  std::vector<Row> rows;
  for (const Json& p : report["policies"]) {
    rows.push_back({p["policy"].get<std::string>(), p["tokens"].dump(), Range(p["mean_bits"], 4),
                    Range(p["weight_bytes_a_token"], 4, 1e-6), Range(p["kl_mean"], 3), Range(p["kl_median"], 3),
                    Range(p["kl_p99"], 3), Number(p["kl_max"], 3), Range(p["top1_agreement"], 4, 100),
                    Range(p["perplexity"], 5),
                    p.contains("requests_within") ? Range(p["requests_within"], 3, 100) : ""});
  }
  return Section("Policies",
                 "Tokens after each window's prompt, decoded one at a time with known answers. KL(8 bits everywhere || "
                 "policy) in nats. Bits are bytes read, as a share of those at 8 bits, times 8: planes and scales of "
                 "every layer group. In brackets 95 % of bootstrap draws of the windows, the same draws for all "
                 "policies. Within: requests whose mean KL keeps the budget.") +
         Table({"policy", "tokens", "bits", "MB a token", "mean KL", "median KL", "99 % KL", "largest", "same top-1, %",
                "perplexity", "within, %"},
               rows);
}

std::string Comparisons(const Json& comparisons) {
  std::vector<Row> rows;
  for (const Json& c : comparisons) {
    rows.push_back({c["policy"].get<std::string>(), c["against"].get<std::string>(), c["windows"].dump(),
                    Number(c["against_kl"], 4), Range(c["kl_ratio"], 4), Range(c["bytes_ratio"], 4)});
  }
  return Table({"policy", "against", "windows", "its KL at the same bytes", "KL, ratio", "bytes, ratio"}, rows);
}

std::string Tasks(const Json& report) {
  std::string html = Section("Tasks",
                             "Accuracy in percent by log-likelihood, decoded token by token: the option most likely a "
                             "byte, where options continue one context; the most likely one, where they are contexts; "
                             "or whether greedy decoding gives the answer. Against 8 bits: points gained, and answers "
                             "that changed, paired over items.");
  for (const Json& task : report["tasks"]) {
    std::vector<Row> rows;
    for (const Json& p : task["policies"]) {
      rows.push_back({p["policy"].get<std::string>(), Number(p["mean_bits"], 4), Range(p["accuracy"], 3, 100),
                      Range(p["against_8_bits"], 3, 100), Range(p["changed"], 3, 100)});
    }
    html += absl::StrCat("<h3>", EscapeMarkup(task["task"].get<std::string>()), ", ", task["items"].dump(),
                         " items</h3>\n") +
            Table({"policy", "bits", "accuracy, %", "against 8 bits", "changed, %"}, rows);
  }
  return html;
}

std::string Answers(const Json& answers) {
  std::vector<Row> rows;
  for (const Json& p : answers["policies"]) {
    rows.push_back({p["policy"].get<std::string>(), Range(p["mean_bits"], 3), Range(p["tokens"], 4),
                    Range(p["repeated_4grams"], 3, 100), Range(p["rouge_l"], 3), Range(p["equal"], 3, 100)});
  }
  return Section("Free answers",
                 absl::StrCat("Greedy answers to ", answers["prompts"].dump(), " prompts, at most ",
                              answers["max_tokens"].dump(), " tokens, ",
                              answers["chat_template"].get<bool>() ? "through the chat template"
                                                                   : "as plain text without a chat template",
                              ". ROUGE-L and equality are to the answers at ", answers["reference"].get<std::string>(),
                              " bits; repeated: part of the runs of four words that occurred before.")) +
         Table({"policy", "mean bits a weight", "tokens", "repeated, %", "ROUGE-L", "equal, %"}, rows);
}

}  // namespace

std::string ReportHtml(const Json& report) {
  std::string html = absl::StrCat(kHead, "<h1>", EscapeMarkup(report["model"].get<std::string>()), "</h1>\n",
                                  Facts(report), Claims(report));
  html += Section("KL against bytes", "The oracle saw only some of the windows.") + KlAgainstBytesSvg(report);
  html += Policies(report);
  html += Section("At equal bytes",
                  "Against static plans: KL between two neighbouring plans, geometrically interpolated on bytes "
                  "(straight where one has no KL), and bytes at which they come to the policy's KL. Ratios below 1 "
                  "speak for the policy; brackets are paired bootstrap intervals.") +
          Comparisons(report["comparisons"]);
  if (report.contains("oracle_comparisons")) {
    html +=
        Section("The oracle",
                "It knows each token's KL on every rung and takes the one that minimises bytes + price * KL, at the "
                "price that the model has for a budget. On its windows, beside the policies that cannot know:") +
        Comparisons(report["oracle_comparisons"]);
  }
  html += Section("Predicted and measured KL", "On the dashed line predictions are right.") + PredictionSvg(report);
  html += Section("Bits along a generation",
                  absl::StrCat("The first window under ", report["trace"]["policy"].get<std::string>(), ".")) +
          TraceSvg(report);
  if (report.contains("ablations")) {
    for (const Json& ablation : report["ablations"]) {
      html += Section(absl::StrCat("Ablation: ", ablation["name"].get<std::string>()),
                      ablation["words"].get<std::string>()) +
              Comparisons(ablation["comparisons"]);
    }
  }
  if (report.contains("tasks")) {
    html += Tasks(report);
  }
  if (report.contains("answers")) {
    html += Answers(report["answers"]);
  }
  return html + "</body></html>\n";
}

}  // namespace flexquant::cli
