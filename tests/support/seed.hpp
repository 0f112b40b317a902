// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstdlib>
#include <iostream>
#include <random>

// The seed of a test's random choices: FMMAP_SEED, or a new one each time. It is printed.
inline auto seed() -> unsigned {
  static auto const chosen = [] {
    auto const* const given = std::getenv("FMMAP_SEED");
    auto const value =
        given == nullptr ? std::random_device{}() : static_cast<unsigned>(std::strtoul(given, nullptr, 10));
    std::cout << "FMMAP_SEED=" << value << std::endl;
    return value;
  }();
  return chosen;
}
