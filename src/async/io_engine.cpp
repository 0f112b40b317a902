// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

module fmmap.async;

import fmmap.core;
import :engine_state;

namespace fmmap {

auto to_string(engine_kind kind) noexcept -> std::string_view {
  switch (kind) {
  case engine_kind::automatic:
    return "automatic";
  case engine_kind::threads:
    return "threads";
  case engine_kind::io_uring:
    return "io_uring";
  }
  return "unknown";
}

auto io_engine::create(engine_options options) -> result<io_engine> {
  auto made = engine_state::make(options);
  return made ? result<io_engine>{io_engine{*std::move(made)}} : std::unexpected(std::move(made).error());
}

auto io_engine::operator=(io_engine&& other) noexcept -> io_engine& {
  io_engine const old{std::move(*this)};
  state_ = std::move(other.state_);
  return *this;
}

io_engine::~io_engine() {
  if (state_) {
    (void)close();
  }
}

auto io_engine::is_open() const noexcept -> bool { return state_ && !state_->is_closed(); }

auto io_engine::kind() const noexcept -> engine_kind { return state_ ? state_->kind() : engine_kind::automatic; }

auto io_engine::ring_error() const -> std::optional<error> { return state_ ? state_->ring_error() : std::nullopt; }

auto io_engine::close() -> result<void> {
  auto const is_child = state_ && state_->is_forked();
  if (is_child && is_open()) {
    (void)new std::shared_ptr<engine_state>{std::move(state_)}; // its threads are not here to be ended
    return {};
  }
  if (!state_ || is_child || !state_->close()) {
    return std::unexpected(error::make(errc::closed, "close an engine"));
  }
  return {};
}

} // namespace fmmap
