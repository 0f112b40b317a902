// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>

// A folder of its own for a test, gone with it. Below FMMAP_SCRATCH when set, else below the working directory, which
// CTest makes one in the build folder: on a real file system, where memory is not.
class scratch {
public:
  scratch() : scratch{std::getenv("FMMAP_SCRATCH") == nullptr ? "." : std::getenv("FMMAP_SCRATCH")} {}

  explicit scratch(std::filesystem::path const& base) {
    auto pattern = (base / "scratch-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("cannot create " + pattern);
    }
    folder_ = std::filesystem::absolute(pattern);
  }

  scratch(scratch const&) = delete;
  auto operator=(scratch const&) -> scratch& = delete;

  ~scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  [[nodiscard]] auto folder() const -> std::filesystem::path const& { return folder_; }
  [[nodiscard]] auto operator/(std::string_view name) const -> std::filesystem::path { return folder_ / name; }

  // Creates a file with this content and returns its path.
  [[nodiscard]] auto file(std::string_view name, std::string_view content) const -> std::filesystem::path {
    auto const path = folder_ / name;
    std::ofstream{path, std::ios::binary}.write(content.data(), static_cast<std::streamsize>(content.size()));
    return path;
  }

private:
  std::filesystem::path folder_;
};

// Where files lie in memory, for what is about many operations and not about disks; a folder like any other without it.
inline auto memory_folder() -> std::filesystem::path {
  return std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : ".";
}

inline auto read_back(std::filesystem::path const& path) -> std::string {
  std::ifstream in{path, std::ios::binary};
  std::ostringstream text; // and not byte by byte, which tests of thousands of files would feel
  text << in.rdbuf();
  return std::move(text).str();
}

// The bytes of the blocks that a file has on its disk.
inline auto blocks_of(std::filesystem::path const& path) -> std::uint64_t {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    throw std::runtime_error("cannot stat " + path.string());
  }
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

inline auto text_of(std::span<std::byte const> bytes) -> std::string_view {
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

inline auto bytes_of(std::string_view text) -> std::span<std::byte const> {
  return {reinterpret_cast<std::byte const*>(text.data()), text.size()};
}

// Bytes that differ by position, so that a wrong offset shows.
inline auto pattern(std::size_t size, std::uint64_t seed = 0) -> std::string {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    auto const mixed = (i + seed + 1) * 0x9e37'79b9'7f4a'7c15;
    bytes[i] = static_cast<char>(mixed >> 56);
  }
  return bytes;
}
