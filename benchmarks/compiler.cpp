// SPDX-License-Identifier: MIT OR Apache-2.0
#include "compiler.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace bench {

auto front_end_command(std::string_view source) -> std::string {
  std::ifstream file{FMMAP_COMPILE_COMMANDS};
  for (auto const& entry : nlohmann::json::parse(file)) {
    if (std::filesystem::path{entry.at("file").get<std::string>()}.filename() == source) {
      return "cd '" + entry.at("directory").get<std::string>() + "' && exec " + entry.at("command").get<std::string>() +
             " -fsyntax-only";
    }
  }
  throw std::runtime_error{"the build has no command for " + std::string{source}};
}

void run_command(std::string const& command) {
  if (std::system(command.c_str()) != 0) {
    throw std::runtime_error{"failed: " + command};
  }
}

} // namespace bench
