#include "client/gateway/server_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"

namespace flexquant::gateway {
namespace {

using Json = nlohmann::ordered_json;

std::string Text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

Json Model(const v1::ServerInfo& info, int64_t created) {
  return {{"id", info.model()}, {"object", "model"}, {"created", created}, {"owned_by", "flexquant"}};
}

}  // namespace

std::string ModelJson(const v1::ServerInfo& info, int64_t created) { return Text(Model(info, created)); }

std::string ModelListJson(const v1::ServerInfo& info, int64_t created) {
  return Text({{"object", "list"}, {"data", Json::array({Model(info, created)})}});
}

std::string ServerJson(const v1::ServerInfo& info) {
  Json json = {{"model", info.model()},
               {"model_revision", info.model_revision()},
               {"server_version", info.server_version()},
               {"context_tokens", info.context_tokens()},
               {"chat", info.has_chat_template()},
               {"precisions", std::vector<uint32_t>(info.precisions().begin(), info.precisions().end())}};
  Json plans = Json::array();
  bool calibrated = false;
  for (const v1::NamedPlan& plan : info.named_plans()) {
    plans.push_back({{"name", plan.name()}, {"mean_bits", plan.mean_bits()}});
    // Calibration is what makes rungs.
    calibrated = calibrated || absl::StartsWith(plan.name(), "rung-");
  }
  Json executors = Json::array();
  for (const v1::ExecutorInfo& executor : info.executors()) {
    executors.push_back({{"address", executor.address()},
                         {"device", executor.device()},
                         {"ready", executor.ready()},
                         {"kv_blocks", executor.num_kv_blocks()},
                         {"kv_blocks_used", executor.kv_blocks_used()},
                         {"running", executor.running_sequences()}});
  }
  json["calibrated"] = calibrated;
  json["named_plans"] = std::move(plans);
  json["layer_groups"] = info.layer_groups_size();
  json["load"] = {{"running", info.running_requests()}, {"waiting", info.waiting_requests()}};
  json["executors"] = std::move(executors);
  return Text(json);
}

}  // namespace flexquant::gateway
