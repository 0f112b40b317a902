// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace fmmap::tool {

// As it is written: keys in the order in which they were put in, and names of any bytes made text.
inline auto written(nlohmann::ordered_json const& value) -> std::string {
  return value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

} // namespace fmmap::tool
