// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <memory>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.exec;

import fmmap.core;
import fmmap.os;
import :code_memory;

namespace fmmap {

auto code_buffer::make(std::span<std::byte const> code, code_strategy strategy) -> result<code_buffer> {
  constexpr std::string_view operation = "make code";
  auto const reserve = os::round_up(code.size(), os::page_size());
  if (code.empty() || !reserve) {
    return std::unexpected(error::make(errc::invalid_options, operation, {}, {}, "there have to be bytes"));
  }
  auto memory =
      code_memory::make({.reserve = static_cast<std::size_t>(*reserve), .strategy = strategy, .near_text = true});
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  auto done = (*memory)->grow_to(static_cast<std::size_t>(*reserve));
  done = done ? (*memory)->put(0, code) : done;
  done = done ? (*memory)->seal() : done;
  done = done ? code_barrier() : done;
  if (!done) {
    return std::unexpected(error::make({done.error(), std::system_category()}, operation));
  }
  std::span const bytes{(*memory)->base(), code.size()};
  return code_buffer{std::move(*memory), bytes};
}

code_buffer::code_buffer(std::unique_ptr<code_memory> memory, std::span<std::byte const> code) noexcept
    : memory_{std::move(memory)}, code_{code} {}
code_buffer::code_buffer(code_buffer&& other) noexcept
    : memory_{std::move(other.memory_)}, code_{std::exchange(other.code_, {})} {}
auto code_buffer::operator=(code_buffer&& other) noexcept -> code_buffer& {
  memory_ = std::move(other.memory_);
  code_ = std::exchange(other.code_, {});
  return *this;
}
code_buffer::~code_buffer() = default;

} // namespace fmmap
