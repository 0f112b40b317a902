// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

module fmmap.exec;

import fmmap.core;
import :arena_state;

namespace fmmap {

namespace {

auto closed(std::string_view operation) -> std::unexpected<error> {
  return std::unexpected(error::make(errc::closed, operation));
}

} // namespace

auto to_string(code_strategy one) noexcept -> std::string_view {
  constexpr std::array<std::string_view, 4> names{"automatic", "no_alias", "dual", "toggle"};
  return names[static_cast<std::size_t>(one)];
}

auto code_arena::create(code_arena_options options) -> result<code_arena> {
  auto made = arena_state::make(options);
  return made ? result<code_arena>{code_arena{std::move(*made)}} : std::unexpected(std::move(made).error());
}

code_arena::code_arena() noexcept = default;
code_arena::code_arena(std::shared_ptr<arena_state> state) noexcept : state_{std::move(state)} {}
code_arena::code_arena(code_arena&& other) noexcept = default;
auto code_arena::operator=(code_arena&& other) noexcept -> code_arena& = default;
code_arena::~code_arena() = default;

auto code_arena::is_open() const noexcept -> bool { return state_ != nullptr; }

auto code_arena::strategy() const noexcept -> code_strategy {
  return state_ ? state_->memory().strategy() : code_strategy::automatic;
}

auto code_arena::security_level() const noexcept -> std::string_view {
  return state_ ? state_->memory().security_level() : "there is no code";
}

auto code_arena::allocate(std::size_t size, std::size_t alignment) -> result<code_span> {
  return state_ ? state_->allocate(size, alignment) : closed("allocate code");
}

auto code_arena::write(code_span to, std::span<std::byte const> code, std::string_view name) -> result<void> {
  return state_ ? state_->write(to, code, name) : closed("write code");
}

auto code_arena::publish() -> result<void> { return state_ ? state_->publish() : closed("publish code"); }

auto code_arena::retire(code_span function) -> result<void> {
  return state_ ? state_->retire(function) : closed("retire code");
}

auto code_arena::reclaim() -> result<std::size_t> { return state_ ? state_->reclaim() : closed("reclaim code"); }

auto code_arena::find(void const* address) const noexcept -> std::optional<code_span> {
  return state_ ? state_->find(address) : std::nullopt;
}

auto code_arena::seal() -> result<void> { return state_ ? state_->seal() : closed("seal code"); }

auto code_arena::is_sealed() const noexcept -> bool { return state_ && state_->is_sealed(); }

auto code_arena::stats() const -> code_stats { return state_ ? state_->stats() : code_stats{}; }

auto code_arena::storage() const noexcept -> std::span<std::byte const> {
  return state_ ? std::span{state_->memory().base(), state_->memory().reserve()} : std::span<std::byte const>{};
}

auto code_arena::close() -> result<void> {
  auto const state = std::exchange(state_, nullptr);
  return state ? state->close() : closed("close");
}

code_arena::guard::guard(code_arena const& of) noexcept : state_{of.state_.get()} {
  if (state_ != nullptr) {
    place_ = state_->guarding().begin();
  }
}

code_arena::guard::~guard() {
  if (state_ != nullptr) {
    state_->guarding().end(place_);
  }
}

} // namespace fmmap
