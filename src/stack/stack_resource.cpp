// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <memory_resource>
#include <new>
#include <utility>

module fmmap.stack;

import fmmap.core;

namespace fmmap {

namespace {

// Below each object: where the one allocated before begins, and in the last bit whether this one is deallocated.
using mark = std::uintptr_t;
constexpr std::size_t mark_bytes = sizeof(mark);
constexpr mark is_free = 1;

auto read(std::byte const* at) noexcept -> mark {
  mark value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

void write(std::byte* at, mark value) noexcept { std::memcpy(at, &value, sizeof value); }

} // namespace

auto stack_resource::create(stack_pool& pool) -> result<std::unique_ptr<stack_resource>> {
  auto memory = pool.allocate();
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  return std::unique_ptr<stack_resource>{new stack_resource{std::move(*memory)}};
}

stack_resource::stack_resource(stack memory) noexcept
    : memory_{std::move(memory)}, top_{memory_.top()}, lowest_{memory_.top()} {}

stack_resource::~stack_resource() = default;

auto stack_resource::available() const noexcept -> std::size_t {
  constexpr std::size_t alignment = 16;
  auto const room = static_cast<std::size_t>(top_ - memory_.bottom());
  return room < 2 * alignment ? 0 : (room / alignment * alignment) - alignment;
}

auto stack_resource::do_allocate(std::size_t size, std::size_t alignment) -> void* {
  auto const room = static_cast<std::size_t>(top_ - memory_.bottom());
  if (size > room) {
    throw std::bad_alloc{};
  }
  auto const wanted = reinterpret_cast<std::uintptr_t>(top_) - size;
  auto const slack = wanted & (std::max(alignment, mark_bytes) - 1);
  if (size + slack + mark_bytes > room) {
    throw std::bad_alloc{};
  }
  auto* const object = top_ - size - slack;
  auto* const below = object - mark_bytes;
  write(below, reinterpret_cast<std::uintptr_t>(top_));
  top_ = below;
  lowest_ = std::min(lowest_, top_);
  return object;
}

void stack_resource::do_deallocate(void* pointer, std::size_t /*size*/, std::size_t /*alignment*/) {
  auto* const below = static_cast<std::byte*>(pointer) - mark_bytes;
  if (below != top_) {
    write(below, read(below) | is_free);
    return;
  }
  do {
    top_ = reinterpret_cast<std::byte*>(read(top_) & ~is_free);
  } while (top_ != memory_.top() && (read(top_) & is_free) != 0);
}

auto stack_resource::do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool {
  return this == &other;
}

} // namespace fmmap
