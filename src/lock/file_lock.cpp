// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <expected>
#include <memory>
#include <optional>
#include <stop_token>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.lock;

import :state;
import fmmap.os;

namespace fmmap {

auto file_lock::create(file const& of, byte_range range, lock_kind kind) -> result<file_lock> {
  auto state = lock_state::open(of, range, kind);
  if (!state) {
    return std::unexpected(std::move(state).error());
  }
  return file_lock{owned_state{state->release()}};
}

auto file_lock::acquire(lock_mode mode) -> result<void> {
  if (!state_) [[unlikely]] {
    return failure(errc::closed, "lock");
  }
  auto const acquired = state_->acquire(mode, {.deadline = never});
  return acquired ? result<void>{} : std::unexpected(acquired.error());
}

auto file_lock::try_acquire(lock_mode mode) -> result<bool> { return acquire_for(mode, no_wait); }

auto file_lock::acquire_for(lock_mode mode, wait_for limit) -> result<bool> {
  if (!state_) [[unlikely]] {
    return failure(errc::closed, "lock");
  }
  return state_->acquire(mode, {.deadline = deadline_of(limit)});
}

auto file_lock::acquire_for(lock_mode mode, wait_for limit, std::stop_token stop) -> result<bool> {
  if (!state_) [[unlikely]] {
    return failure(errc::closed, "lock");
  }
  wait_end const end{.deadline = deadline_of(limit), .stop = stop.stop_possible() ? &stop : nullptr};
  return end.is_stopped() ? state_->given_up(end) : state_->acquire(mode, end);
}

auto file_lock::try_upgrade() -> result<bool> { return upgrade_for(no_wait); }

auto file_lock::upgrade_for(wait_for limit) -> result<bool> {
  if (!state_) {
    return failure(errc::closed, "upgrade a lock");
  }
  return state_->upgrade({.deadline = deadline_of(limit)});
}

auto file_lock::downgrade() -> result<void> {
  if (!state_) {
    return failure(errc::closed, "downgrade a lock");
  }
  return state_->downgrade();
}

auto file_lock::release() -> result<void> {
  if (!state_) {
    return failure(errc::closed, "unlock");
  }
  return state_->release(false);
}

void file_lock::unlock() noexcept {
  if (!state_ || state_->is_forked()) [[unlikely]] {
    return;
  }
  if (auto const released = state_->release(true); !released) [[unlikely]] {
    report_dropped_error(released.error());
  }
}

void file_lock::disown() noexcept {
  if (state_) {
    state_->disown();
  }
}

auto file_lock::held() const noexcept -> std::optional<lock_mode> { return state_ ? state_->held() : std::nullopt; }

auto file_lock::kind() const noexcept -> lock_kind {
  return state_ ? state_->kind() : lock_kind::open_file_description;
}

auto file_lock::range() const noexcept -> byte_range {
  return state_ ? state_->range() : byte_range{.offset = 0, .length = 0};
}

auto file_lock::path() const noexcept -> std::string_view { return state_ ? state_->path() : std::string_view{}; }

auto file_lock::method() const noexcept -> wait_method { return state_ ? state_->method() : wait_method::kernel; }

auto file_lock::close() -> result<void> {
  if (!state_) {
    return failure(errc::closed, "close a lock");
  }
  auto const closing = std::exchange(state_, nullptr);
  if (auto const closed = closing->close(); !closed) {
    return failure(closed.error(), "close the lock of", closing->path());
  }
  return {};
}

} // namespace fmmap
