// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <string_view>

module fmmap.core;

namespace fmmap {

auto to_string(durability level) noexcept -> std::string_view {
  switch (level) {
  case durability::none:
    return "none";
  case durability::started:
    return "started";
  case durability::written:
    return "written";
  case durability::data:
    return "data";
  case durability::all:
    return "all";
  }
  return "unknown";
}

} // namespace fmmap
