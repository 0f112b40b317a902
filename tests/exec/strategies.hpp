// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

// What tests of code have in common. The importing file imports fmmap.exec after this.

// mov eax, value; ret
inline auto returning(std::uint32_t value) -> std::array<std::byte, 6> {
  std::array<std::byte, 6> code{std::byte{0xb8}, {}, {}, {}, {}, std::byte{0xc3}};
  std::memcpy(&code[1], &value, sizeof value);
  return code;
}

// The mappings of this process that are writable and executable at once, as the system lists them.
inline auto writable_code() -> std::vector<std::string> {
  std::vector<std::string> found;
  std::ifstream maps{"/proc/self/maps"};
  for (std::string line; std::getline(maps, line);) {
    auto const access = line.find(' ') + 1;
    if (line[access + 1] == 'w' && line[access + 2] == 'x') {
      found.push_back(line);
    }
  }
  return found;
}
