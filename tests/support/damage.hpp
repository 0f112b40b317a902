// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <string_view>

// Changes of a file's bytes that nobody else knows of.

inline void write_at(std::filesystem::path const& path, std::uint64_t at, std::string_view bytes) {
  std::fstream file{path, std::ios::in | std::ios::out | std::ios::binary};
  file.seekp(static_cast<std::streamoff>(at));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline auto byte_at(std::filesystem::path const& path, std::uint64_t at) -> char {
  std::ifstream file{path, std::ios::binary};
  file.seekg(static_cast<std::streamoff>(at));
  return static_cast<char>(file.get());
}

inline void flip(std::filesystem::path const& path, std::uint64_t at) {
  write_at(path, at, std::string(1, static_cast<char>(~byte_at(path, at))));
}
