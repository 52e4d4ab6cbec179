#include "client/cli/evaluation/evaluation_log.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/json_fields.h"
#include "common/mapped_file.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

constexpr char kKeyId[] = "key";
constexpr char kRemedy[] = "delete the file, it is measured again";
constexpr double kMostNats = 1e6;

std::string Line(const std::string& id, const Json& value) {
  return Json{{"id", id}, {"value", value}}.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// The whole lines of the text of a log.
std::map<std::string, Json> ReadPieces(const std::string& text, size_t* whole) {
  std::map<std::string, Json> pieces;
  *whole = 0;
  for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', *whole)) {
    Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(*whole),
                            text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("id") || !line["id"].is_string() || !line.contains("value")) {
      break;
    }
    pieces[line["id"].get<std::string>()] = std::move(line["value"]);
    *whole = end + 1;
  }
  return pieces;
}

std::string PlanDigits(const PrecisionPlan& plan) {
  std::string digits;
  for (const uint8_t bits : plan.bits) {
    digits.push_back(static_cast<char>('0' + bits));
  }
  return digits;
}

// Two arrays: the plans that occur, and of each token which one it is.
void PlansToJson(const std::vector<PrecisionPlan>& plans, Json& json) {
  std::map<std::string, size_t> places;
  json["plans"] = Json::array();
  json["plan"] = Json::array();
  for (const PrecisionPlan& plan : plans) {
    const auto [at, added] = places.emplace(PlanDigits(plan), places.size());
    if (added) {
      json["plans"].push_back({{"bits", at->first}});
    }
    json["plan"].push_back(at->second);
  }
}

absl::StatusOr<std::vector<PrecisionPlan>> PlansFromJson(const JsonFields& fields, size_t tokens) {
  FQ_ASSIGN_OR_RETURN(const auto objects, fields.Objects("plans"));
  std::vector<PrecisionPlan> known;
  for (const JsonFields& object : objects) {
    FQ_ASSIGN_OR_RETURN(const std::string digits, object.String("bits"));
    known.emplace_back();
    for (const char digit : digits) {
      if (!IsQuantizedPrecision(digit - '0')) {
        return object.Error("bits", "not a plan");
      }
      known.back().bits.push_back(static_cast<uint8_t>(digit - '0'));
    }
  }
  FQ_ASSIGN_OR_RETURN(const auto places, fields.Counts("plan", tokens));
  std::vector<PrecisionPlan> plans;
  for (const uint64_t place : places) {
    if (place >= known.size()) {
      return fields.Error("plan", "out of range");
    }
    plans.push_back(known[place]);
  }
  return plans;
}

absl::StatusOr<std::vector<uint8_t>> Booleans(const JsonFields& fields, const std::string& field, size_t size) {
  FQ_ASSIGN_OR_RETURN(const auto counts, fields.Counts(field, size));
  return std::vector<uint8_t>(counts.begin(), counts.end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<EvaluationLog>> EvaluationLog::Open(const std::string& path, const std::string& key) {
  auto log = std::unique_ptr<EvaluationLog>(new EvaluationLog);
  log->path_ = path;
  std::string kept;
  if (std::filesystem::exists(path)) {
    FQ_ASSIGN_OR_RETURN(kept, ReadFile(path));
    size_t whole = 0;
    log->pieces_ = ReadPieces(kept, &whole);
    kept.resize(whole);
    const Json* found = log->Find(kKeyId);
    if (found == nullptr || *found != Json(key)) {
      std::fprintf(stderr, "%s is of another model, text or other settings and is replaced\n", path.c_str());
      log->pieces_.clear();
      kept.clear();
    } else if (log->pieces_.size() > 1) {
      std::fprintf(stderr, "going on with %s\n", path.c_str());
    }
  }
  // Also drops a line that was cut off.
  FQ_RETURN_IF_ERROR(WriteFileAtomically(path, kept));
  log->file_.reset(std::fopen(path.c_str(), "a"));
  if (log->file_ == nullptr) {
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", path));
  }
  if (kept.empty()) {
    FQ_RETURN_IF_ERROR(log->Add(kKeyId, key));
  }
  return log;
}

absl::StatusOr<std::map<std::string, Json>> EvaluationLog::Read(const std::string& path) {
  FQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  size_t whole = 0;
  return ReadPieces(text, &whole);
}

const Json* EvaluationLog::Find(const std::string& id) const {
  const auto found = pieces_.find(id);
  return found == pieces_.end() ? nullptr : &found->second;
}

absl::Status EvaluationLog::Add(const std::string& id, Json value) {
  const std::string line = Line(id, value);
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot write ", path_, "; is the disk full?"));
  }
  pieces_[id] = std::move(value);
  return absl::OkStatus();
}

Json OutcomeToJson(const WindowOutcome& outcome) {
  Json json = {{"kl", outcome.kl}, {"nll", outcome.nll}, {"hits", outcome.hits}, {"agrees", outcome.agrees}};
  PlansToJson(outcome.plans, json);
  std::vector<double> entropies;
  std::vector<double> probabilities;
  std::vector<double> margins;
  for (const TokenSignals& signals : outcome.signals) {
    entropies.push_back(signals.entropy_nats);
    probabilities.push_back(signals.top1_probability);
    margins.push_back(signals.margin);
  }
  json["entropy"] = entropies;
  json["top1_probability"] = probabilities;
  json["margin"] = margins;
  json["predicted_kl"] = outcome.predicted_kl;
  return json;
}

absl::StatusOr<WindowOutcome> OutcomeFromJson(const Json& json, size_t tokens, const std::string& where) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, " is not an object; ", kRemedy));
  }
  const JsonFields fields(json, where, "", kRemedy);
  WindowOutcome outcome;
  FQ_ASSIGN_OR_RETURN(outcome.kl, fields.SignedNumbers("kl", tokens, kMostNats));
  FQ_ASSIGN_OR_RETURN(outcome.nll, fields.SignedNumbers("nll", tokens - 1, kMostNats));
  FQ_ASSIGN_OR_RETURN(outcome.hits, Booleans(fields, "hits", tokens - 1));
  FQ_ASSIGN_OR_RETURN(outcome.agrees, Booleans(fields, "agrees", tokens));
  FQ_ASSIGN_OR_RETURN(outcome.plans, PlansFromJson(fields, tokens));
  FQ_ASSIGN_OR_RETURN(const auto entropies, fields.SignedNumbers("entropy", tokens, kMostNats));
  FQ_ASSIGN_OR_RETURN(const auto probabilities, fields.SignedNumbers("top1_probability", tokens, kMostNats));
  FQ_ASSIGN_OR_RETURN(const auto margins, fields.SignedNumbers("margin", tokens, kMostNats));
  for (size_t i = 0; i < tokens; ++i) {
    outcome.signals.push_back({entropies[i], probabilities[i], margins[i]});
  }
  const bool predicted = json.contains("predicted_kl") && !json["predicted_kl"].empty();
  FQ_ASSIGN_OR_RETURN(outcome.predicted_kl, fields.SignedNumbers("predicted_kl", predicted ? tokens : 0, kMostNats));
  return outcome;
}

}  // namespace flexquant::cli
