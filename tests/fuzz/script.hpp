// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <source_location>
#include <span>

// An input as numbers, one after the other; past its end everything is zero.
class script {
public:
  explicit script(std::span<std::uint8_t const> bytes) : rest_{bytes} {}

  [[nodiscard]] auto done() const -> bool { return rest_.empty(); }

  template <class T>
  auto number() -> T {
    T value{};
    auto const taken = take(sizeof value);
    std::memcpy(&value, taken.data(), taken.size());
    return value;
  }
  auto byte() -> std::uint8_t { return number<std::uint8_t>(); }

  // At most so many bytes.
  auto take(std::size_t count) -> std::span<std::uint8_t const> {
    auto const taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

private:
  std::span<std::uint8_t const> rest_;
};

inline void require(bool good, std::source_location where = std::source_location::current()) {
  if (!good) {
    std::cerr << where.file_name() << ':' << where.line() << ": what has to hold does not\n";
    std::abort();
  }
}
