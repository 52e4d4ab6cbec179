// A calibration as text: the round trip, and every kind of damage.

#include "common/calibration/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/calibration/made_up.h"

namespace flexquant {
namespace {

using Json = nlohmann::ordered_json;
using namespace nlohmann::literals;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CalibrationTest, EntropyBucketsMeetAtTheirEdges) {
  EXPECT_EQ(EntropyBucket(0), 0U);
  EXPECT_EQ(EntropyBucket(0.2499), 0U);
  EXPECT_EQ(EntropyBucket(0.25), 1U);
  EXPECT_EQ(EntropyBucket(3.9), 3U);
  EXPECT_EQ(EntropyBucket(4), 4U);
  EXPECT_EQ(EntropyBucket(11), 4U);
}

TEST(CalibrationTest, RoundTripLosesNothing) {
  const Calibration calibration = MadeUpCalibration();
  const auto read = Calibration::FromJson(calibration.ToJson(), "flexquant.json");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->ToJson(), calibration.ToJson());
  EXPECT_EQ(read->rungs, calibration.rungs);
  EXPECT_EQ(read->requirements, calibration.requirements);
  EXPECT_EQ(read->backend_loss, calibration.backend_loss);
  EXPECT_EQ(read->model_revision, calibration.model_revision);
  EXPECT_EQ(read->text_name, calibration.text_name);
  EXPECT_EQ(read->text_checksum, calibration.text_checksum);
  EXPECT_EQ(read->positions, calibration.positions);
  EXPECT_EQ(read->holdout_positions, calibration.holdout_positions);
  EXPECT_EQ(read->bucket_positions, calibration.bucket_positions);
  ASSERT_EQ(read->sensitivities.size(), calibration.sensitivities.size());
  for (size_t group = 0; group < read->sensitivities.size(); ++group) {
    for (size_t w = 0; w < kLowerPrecisions.size(); ++w) {
      EXPECT_EQ(read->sensitivities[group][w].mean_kl, calibration.sensitivities[group][w].mean_kl);
      EXPECT_EQ(read->sensitivities[group][w].bucket_kl, calibration.sensitivities[group][w].bucket_kl);
    }
  }
}

TEST(CalibrationTest, EveryMissingFieldIsNamed) {
  const auto expect_named = [](const Json& json, const std::string& field) {
    const auto read = Calibration::FromJson(json.dump(), "somewhere/flexquant.json");
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(read.status().message()),
                AllOf(HasSubstr("somewhere/flexquant.json"), HasSubstr(field), HasSubstr("flexquant calibrate")));
  };
  const Json whole = Json::parse(MadeUpCalibration().ToJson());
  for (const auto& [field, value] : whole.items()) {
    Json damaged = whole;
    damaged.erase(field);
    if (field != "backend_kl") {  // which older calibrations do not have
      expect_named(damaged, "calibration." + field);
    }
    damaged[field] = true;
    expect_named(damaged, "calibration." + field);
  }
  const std::vector<std::pair<std::string, Json::json_pointer>> objects = {
      {"sensitivity[1].", "/sensitivity/1"_json_pointer},
      {"ladder[1].", "/ladder/1"_json_pointer},
      {"requirements[1].", "/requirements/1"_json_pointer},
      {"requirements[0].rungs[2].", "/requirements/0/rungs/2"_json_pointer},
      {"requirements[0].curve[1].", "/requirements/0/curve/1"_json_pointer},
      {"requirements[1].aims[0].", "/requirements/1/aims/0"_json_pointer}};
  for (const auto& [name, pointer] : objects) {
    for (const auto& [field, value] : whole[pointer].items()) {
      Json damaged = whole;
      damaged[pointer].erase(field);
      expect_named(damaged, "calibration." + name + field);
      damaged[pointer][field] = Json::object();
      expect_named(damaged, "calibration." + name + field);
    }
  }
}

TEST(CalibrationTest, WhatABackendLosesMayNotBeKnown) {
  Json json = Json::parse(MadeUpCalibration().ToJson());
  json["backend_kl"].erase("prompt_activations_8");
  const auto half = Calibration::FromJson(json.dump(), "p");
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_EQ(half->backend_loss, (BackendLoss{std::nullopt, 1.0 / 1400}));
  EXPECT_TRUE(half->backend_loss.Knows({false, 8}));
  EXPECT_FALSE(half->backend_loss.Knows({true, 8}));
  EXPECT_EQ(half->backend_loss.Of({true, 8}), 1.0 / 1400);
  EXPECT_EQ(half->backend_loss.Of({true, 16}), 0);
  json.erase("backend_kl");
  const auto none = Calibration::FromJson(json.dump(), "p");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->backend_loss, BackendLoss());
  EXPECT_TRUE(none->backend_loss.Knows({false, 16}));
  const BackendLoss both = MadeUpCalibration().backend_loss;
  EXPECT_EQ(both.Of({true, 8}), 1.0 / 2500 + 1.0 / 1400);
}

TEST(CalibrationTest, DamagedValuesAreRefused) {
  struct Damage {
    std::string part;
    std::function<void(Json&)> make;
  };
  const std::vector<Damage> damages = {
      {"format_version\" is 3, this program reads up to 2", [](Json& j) { j["format_version"] = 3; }},
      {"format_version\" is 1, this program reads 2: an older FlexQuant wrote it; calibrate the package again",
       [](Json& j) { j["format_version"] = 1; }},
      {"precisions\" is not [3, 4, 5, 6]",
       [](Json& j) {
         j["precisions"] = {3, 4, 5, 7};
       }},
      {"entropy_bucket_edges", [](Json& j) { j["entropy_bucket_edges"][0] = 0.5; }},
      {"text_checksum\" is \"abc\"", [](Json& j) { j["text_checksum"] = "abc"; }},
      {"positions", [](Json& j) { j["positions"] = -5; }},
      {"does not add up to positions, 1500", [](Json& j) { j["bucket_positions"][0] = 101; }},
      {"bucket_positions[2]", [](Json& j) { j["bucket_positions"][2] = 1.5; }},
      {"has 4 layer groups", [](Json& j) { j["sensitivity"].erase(4); }},
      {"group\" is \"lm_head\", expected \"layers.0.o\"", [](Json& j) { j["sensitivity"][1]["group"] = "lm_head"; }},
      {"sensitivity[2]\" is not an object", [](Json& j) { j["sensitivity"][2] = 3; }},
      {"sensitivity[2].mean_kl\" is missing or not a list of 4",
       [](Json& j) { j["sensitivity"][2]["mean_kl"].erase(0); }},
      {"mean_kl[3]\" is not a number >= 0", [](Json& j) { j["sensitivity"][2]["mean_kl"][3] = -1e-9; }},
      {"bucket_kl_5[0]\" is not a number", [](Json& j) { j["sensitivity"][0]["bucket_kl_5"][0] = nullptr; }},
      {"4 layer groups", [](Json& j) { j["ladder"][0]["bits"] = "3333"; }},
      {"7 bits for layer group 2", [](Json& j) { j["ladder"][0]["bits"] = "33733"; }},
      {"is not a plan", [](Json& j) { j["ladder"][0]["bits"] = "33 33"; }},
      {"bytes", [](Json& j) { j["ladder"][0]["bytes"] = 1e3; }},
      {"top1_agreement\" is missing or not a number from 0 to 1",
       [](Json& j) { j["ladder"][0]["top1_agreement"] = 1.01; }},
      {"perplexity", [](Json& j) { j["ladder"][0]["perplexity"] = "20"; }},
      {"ladder[1]\" does not cost more bytes", [](Json& j) { j["ladder"][1]["bytes"] = 1000; }},
      {"ladder[2]\" does not cost more bytes", [](Json& j) { j["ladder"][2]["mean_kl"] = 0.2; }},
      {"ladder[2].bits\" has fewer bits", [](Json& j) { j["ladder"][2]["bits"] = "68636"; }},
      {"ladder[1].bits\" has fewer bits", [](Json& j) { j["ladder"][1]["bits"] = "33333"; }},
      {"ladder\" does not end with the top", [](Json& j) { j["ladder"].erase(3); }},
      {"requirements\" has 1 entries, expected 2", [](Json& j) { j["requirements"].erase(1); }},
      {"requirements[0].lookahead\" is 1", [](Json& j) { j["requirements"][0]["lookahead"] = 1; }},
      {"requirements[0].rungs\" has 2 entries; a ladder of 4 needs 3",
       [](Json& j) { j["requirements"][0]["rungs"].erase(0); }},
      {"log_kl[2]\" is not a number", [](Json& j) { j["requirements"][0]["rungs"][1]["log_kl"][2] = 1e9; }},
      {"feature_mean[0]\" is not a number", [](Json& j) { j["requirements"][1]["feature_mean"][0] = "x"; }},
      {"feature_scale\" is not positive", [](Json& j) { j["requirements"][1]["feature_scale"][4] = 0; }},
      {"curve\" is empty", [](Json& j) { j["requirements"][0]["curve"] = Json::array(); }},
      {"curve[0].lambda\" is not above 0", [](Json& j) { j["requirements"][0]["curve"][0]["lambda"] = 0; }},
      {"curve[1].lambda\" is not above", [](Json& j) { j["requirements"][0]["curve"][1]["lambda"] = 1; }},
      {"curve[2].lambda\" buys fewer", [](Json& j) { j["requirements"][0]["curve"][2]["mean_bytes"] = 1399; }},
      {"curve[1].lambda\" buys fewer", [](Json& j) { j["requirements"][1]["curve"][1]["predicted_kl"] = 0.71; }},
      {"curve[1].measured_kl", [](Json& j) { j["requirements"][1]["curve"][1]["measured_kl"] = -0.1; }},
      {"aims\" is empty", [](Json& j) { j["requirements"][0]["aims"] = Json::array(); }},
      {"aims[1].aim_kl\" is not above", [](Json& j) { j["requirements"][0]["aims"][1]["aim_kl"] = 0.001; }},
      {"ladder\" does not end with the top", [](Json& j) { j["ladder"] = Json::array(); }},
      {"backend_kl.kv_cache_8\" is missing or not a number", [](Json& j) { j["backend_kl"]["kv_cache_8"] = -1; }},
  };
  for (const Damage& damage : damages) {
    Json json = Json::parse(MadeUpCalibration().ToJson());
    damage.make(json);
    const auto read = Calibration::FromJson(json.dump(), "flexquant.json");
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << damage.part;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(damage.part));
  }
  for (const std::string text : {"", "[]", "null", "{", "7"}) {
    EXPECT_EQ(Calibration::FromJson(text, "p").status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(CalibrationTest, OneOfAnotherModelIsRefused) {
  const Calibration calibration = MadeUpCalibration();
  const std::string manifest = "{\"model_name\": \"m\", \"calibration\": " + calibration.ToJson() + "}";
  const auto fits = CalibrationOfManifest(manifest, "p", calibration.model_revision, 5);
  ASSERT_TRUE(fits.ok()) << fits.status();
  EXPECT_TRUE(fits->has_value());

  const auto other = CalibrationOfManifest(manifest, "p/flexquant.json", "beef", 5).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.message()),
              AllOf(HasSubstr("p/flexquant.json"), HasSubstr("beef"), HasSubstr(calibration.model_revision),
                    HasSubstr("flexquant calibrate")));
  const auto groups = CalibrationOfManifest(manifest, "p", calibration.model_revision, 9).status();
  EXPECT_EQ(groups.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(groups.message()), HasSubstr("has 5 layer groups, the model 9"));
}

TEST(CalibrationTest, APackageMayHaveNone) {
  for (const std::string manifest : {"{}", "{\"calibration\": null}"}) {
    const auto none = CalibrationOfManifest(manifest, "p", "r", 5);
    ASSERT_TRUE(none.ok()) << none.status();
    EXPECT_FALSE(none->has_value());
  }
  EXPECT_FALSE(CalibrationOfManifest("{\"calibration\": 3}", "p", "r", 5).ok());
  EXPECT_FALSE(CalibrationOfManifest("nonsense", "p", "r", 5).ok());
}

}  // namespace
}  // namespace flexquant
