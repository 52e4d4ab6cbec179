#include "client/cli/evaluation/report_markdown.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/cli/evaluation/report_cells.h"

namespace flexquant::cli {
namespace {

using Row = std::vector<std::string>;

constexpr NumberFormat kBits = {.digits = 3, .fixed = true};
constexpr NumberFormat kKl = {.digits = 3};
constexpr NumberFormat kRatio = {.digits = 3, .fixed = true};
constexpr NumberFormat kPercent = {.digits = 1, .fixed = true, .factor = 100};
constexpr NumberFormat kPerplexity = {.digits = 2, .fixed = true};

std::string Interval(const Json& figure, const NumberFormat& format) { return IntervalCell(figure, format, " to "); }

std::string Text(const Json& text) { return text.get<std::string>(); }

// A cell must not end its column or its row.
std::string Line(const Row& row) {
  std::string line = "|";
  for (const std::string& cell : row) {
    absl::StrAppend(&line, " ", absl::StrReplaceAll(cell, {{"|", "\\|"}, {"\n", " "}, {"\r", " "}}), " |");
  }
  return line + "\n";
}

std::string Section(const std::string& title, const Row& head, const std::vector<Row>& rows) {
  std::string section =
      absl::StrCat("## ", title, "\n", Line(head), "|", absl::StrJoin(Row(head.size(), "---"), "|"), "|\n");
  for (const Row& row : rows) {
    section += Line(row);
  }
  return section + "\n";
}

std::string Facts(const Json& report) {
  std::vector<Row> rows;
  for (const auto& [name, value] : report.items()) {
    if (value.is_string() || value.is_number()) {
      rows.push_back({name, value.is_string() ? Text(value) : value.dump()});
    }
  }
  return Section("What was measured", {"what", "value"}, rows);
}

std::string Claims(const Json& report) {
  std::vector<Row> rows;
  for (const Json& claim : report["claims"]) {
    rows.push_back({Text(claim["policy"]), Text(claim["claim"]), claim["holds"].get<bool>() ? "yes" : "NO"});
  }
  return Section("Claims", {"policy", "claim", "holds"}, rows);
}

std::string Policies(const Json& report) {
  std::vector<Row> rows;
  for (const Json& p : report["policies"]) {
    rows.push_back({Text(p["policy"]), p["tokens"].dump(), NumberCell(p["mean_bits"]["value"], kBits),
                    Interval(p["kl_mean"], kKl), Interval(p["kl_median"], kKl), Interval(p["kl_p99"], kKl),
                    NumberCell(p["kl_max"], kKl), Interval(p["top1_agreement"], kPercent),
                    Interval(p["perplexity"], kPerplexity)});
  }
  return Section("All policies",
                 {"policy", "tokens", "bits", "mean KL", "median", "99 %", "largest", "same top-1, %", "perplexity"},
                 rows);
}

const Json* ComparisonOf(const Json& comparisons, const std::string& policy, const std::string& against) {
  for (const Json& c : comparisons) {
    if (c["policy"] == policy && c["against"] == against) {
      return &c;
    }
  }
  return nullptr;
}

Row AgainstStaticCells(const Json& comparisons, const std::string& policy) {
  Row cells;
  for (const char* against : {"static mixed plans", "static uniform"}) {
    const Json* c = ComparisonOf(comparisons, policy, against);
    cells.push_back(c == nullptr ? "-" : Interval((*c)["kl_ratio"], kRatio));
    cells.push_back(c == nullptr ? "-" : Interval((*c)["bytes_ratio"], kRatio));
  }
  return cells;
}

// The comparison that a policy has with its own plans is the one with neither kind of static plans.
std::string EqualBytes(const Json& report) {
  std::vector<Row> rows;
  for (const Json& c : report["comparisons"]) {
    const std::string policy = Text(c["policy"]);
    if (Text(c["against"]).rfind("static ", 0) == 0) {
      continue;
    }
    rows.push_back({policy, Interval(c["kl_ratio"], kRatio)});
    const Row cells = AgainstStaticCells(report["comparisons"], policy);
    rows.back().insert(rows.back().end(), cells.begin(), cells.end());
  }
  return Section("At equal bytes",
                 {"policy", "KL against its plans at other tokens", "KL against static mixed plans",
                  "bytes at the same KL", "KL against static uniform", "bytes at the same KL"},
                 rows);
}

// Bits and KL are of the oracles alone: the others' are of all windows.
std::string Oracle(const Json& report) {
  const Json& comparisons = report["oracle_comparisons"];
  std::vector<Row> rows;
  for (const Json& c : comparisons) {
    if (c["against"] != comparisons[0]["against"]) {
      continue;
    }
    const std::string policy = Text(c["policy"]);
    Row row = {policy, c["windows"].dump(), "", ""};
    for (const Json& p : report["policies"]) {
      if (p["policy"] == policy && p["kind"] == "oracle") {
        row[2] = NumberCell(p["mean_bits"]["value"], kBits);
        row[3] = Interval(p["kl_mean"], kKl);
      }
    }
    const Row cells = AgainstStaticCells(comparisons, policy);
    row.insert(row.end(), cells.begin(), cells.end());
    rows.push_back(std::move(row));
  }
  return Section("The oracle",
                 {"policy", "windows", "bits", "KL", "KL against static mixed plans", "bytes at the same KL",
                  "KL against static uniform", "bytes at the same KL"},
                 rows);
}

std::string Predictions(const Json& report) {
  std::vector<Row> rows;
  for (const Json& prediction : report["prediction"]) {
    for (const Json& p : report["policies"]) {
      if (p["policy"] == prediction["policy"]) {
        rows.push_back({NumberCell(p["max_mean_kl"], kKl), NumberCell(prediction["predicted"], kKl),
                        Interval(p["kl_mean"], kKl),
                        p.contains("requests_within") ? Interval(p["requests_within"], kPercent) : "-"});
      }
    }
  }
  return Section("Expected and measured", {"budget", "mean KL expected", "measured", "requests within, %"}, rows);
}

// All tasks have the same policies, in one order.
std::string Tasks(const Json& tasks) {
  Row head = {"policy"};
  std::vector<Row> rows;
  for (const Json& task : tasks) {
    head.push_back(absl::StrCat(Text(task["task"]), ", ", task["items"].dump(), " items"));
    for (size_t i = 0; i < task["policies"].size(); ++i) {
      const Json& p = task["policies"][i];
      if (rows.size() <= i) {
        rows.push_back({Text(p["policy"])});
      }
      rows[i].push_back(absl::StrCat(NumberCell(p["accuracy"]["value"], kPercent), ", ",
                                     NumberCell(p["mean_bits"], {.digits = 2, .fixed = true}), " bits, ",
                                     Interval(p["against_8_bits"], kPercent)));
    }
  }
  return Section("Tasks", head, rows);
}

std::string Answers(const Json& answers) {
  std::vector<Row> rows;
  for (const Json& p : answers["policies"]) {
    rows.push_back({Text(p["policy"]), NumberCell(p["mean_bits"]["value"], {.digits = 2, .fixed = true}),
                    Interval(p["tokens"], {.digits = 1, .fixed = true}), Interval(p["repeated_4grams"], kPercent),
                    Interval(p["rouge_l"], kRatio), NumberCell(p["equal"]["value"], kPercent)});
  }
  return Section("Free answers",
                 {"policy", "mean bits a weight", "tokens", "repeated, %",
                  absl::StrCat("ROUGE-L to ", Text(answers["reference"]), " bits"), "equal, %"},
                 rows);
}

std::string Ablation(const Json& ablation) {
  std::vector<Row> rows;
  for (const Json& c : ablation["comparisons"]) {
    rows.push_back(
        {Text(c["policy"]), Text(c["against"]), Interval(c["kl_ratio"], kRatio), Interval(c["bytes_ratio"], kRatio)});
  }
  return Section(absl::StrCat("Ablation: ", Text(ablation["name"])), {"policy", "against", "KL, ratio", "bytes, ratio"},
                 rows);
}

}  // namespace

std::string ReportMarkdown(const Json& report) {
  std::string words = Facts(report) + Claims(report) + Policies(report) + EqualBytes(report);
  if (report.contains("oracle_comparisons")) {
    words += Oracle(report);
  }
  words += Predictions(report);
  if (report.contains("tasks")) {
    words += Tasks(report["tasks"]);
  }
  if (report.contains("answers")) {
    words += Answers(report["answers"]);
  }
  if (report.contains("ablations")) {
    for (const Json& ablation : report["ablations"]) {
      words += Ablation(ablation);
    }
  }
  words.pop_back();
  return words;
}

}  // namespace flexquant::cli
