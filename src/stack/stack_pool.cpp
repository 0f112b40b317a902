// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

module fmmap.stack;

import fmmap.core;
import fmmap.os;
import :pool_state;

namespace fmmap {

namespace {

auto closed(std::string_view operation) -> std::unexpected<error> {
  return std::unexpected(error::make(errc::closed, operation));
}

} // namespace

void stack::give_back_slowly() noexcept { pool_->give_back(slot_); }

auto stack::high_water() const noexcept -> std::size_t {
  auto const page = os::page_size();
  std::array<unsigned char, 512> pages{};
  for (std::size_t begin = 0; begin < size_;) {
    auto const length = std::min(size_ - begin, pages.size() * page);
    if (!os::resident_pages(bottom_ + begin, length, pages.data())) {
      return size_; // as deep as it may have been
    }
    auto const here = std::span{pages}.first(length / page);
    auto const lowest = std::ranges::find_if(here, [](unsigned char one) { return (one & 1U) != 0; });
    if (lowest != here.end()) {
      return size_ - begin - (static_cast<std::size_t>(lowest - here.begin()) * page);
    }
    begin += length;
  }
  return 0;
}

auto stack_pool::create(stack_options options) -> result<stack_pool> {
  auto made = pool_state::make(options);
  return made ? result<stack_pool>{stack_pool{made->release()}} : std::unexpected(std::move(made).error());
}

auto stack_pool::operator=(stack_pool&& other) noexcept -> stack_pool& {
  stack_pool const old{std::move(*this)};
  state_ = std::exchange(other.state_, nullptr);
  return *this;
}

stack_pool::~stack_pool() {
  if (state_ == nullptr) {
    return;
  }
  if (auto const done = close(); !done) {
    report_dropped_error(done.error());
  }
}

auto stack_pool::allocate_slowly() -> result<stack> {
  if (state_ == nullptr) {
    return closed("allocate a stack");
  }
  auto const slot = state_->take();
  if (!slot) {
    return std::unexpected(slot.error());
  }
  return stack{state_, state_->bottom_of(*slot), state_->stack_size(), *slot};
}

auto stack_pool::slot_of(void const* address) const noexcept -> std::optional<std::size_t> {
  return state_ != nullptr ? state_->slot_of(address) : std::nullopt;
}

auto stack_pool::bytes_of(std::size_t slot) const noexcept -> std::span<std::byte> {
  if (state_ == nullptr || slot >= state_->slots()) {
    return {};
  }
  return {state_->bottom_of(static_cast<std::uint32_t>(slot)), state_->stack_size()};
}

auto stack_pool::trim() -> result<void> { return state_ != nullptr ? state_->trim() : closed("trim a pool of stacks"); }

auto stack_pool::stats() const -> stack_stats { return state_ != nullptr ? state_->stats() : stack_stats{}; }

// Stacks that are alive keep the state, for good when nobody has the pool any more.
auto stack_pool::close() -> result<void> {
  if (state_ == nullptr) {
    return closed("close a pool of stacks");
  }
  auto done = state_->close();
  if (done || done.error() != errc::in_use) {
    delete std::exchange(state_, nullptr);
  }
  return done;
}

auto stack_lender::size_in(pool_state const* pool) noexcept -> std::size_t {
  return pool != nullptr ? pool->stack_size() : 0;
}

auto stack_lender::lend_slowly(pool_state* pool) -> std::byte* {
  auto const slot = pool != nullptr ? pool->take() : closed("allocate a stack");
  if (!slot) {
    throw std::bad_alloc{};
  }
  return pool->bottom_of(*slot) + pool->stack_size();
}

void stack_lender::take_back_slowly(pool_state* pool, void* top) noexcept { pool->give_back(top); }

} // namespace fmmap
