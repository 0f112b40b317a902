// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <coroutine>
#include <cstddef>
#include <expected>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include <uv.h>

module fmmap.async.uv;

import fmmap.core;

namespace fmmap {

// What wakes the loop. Everything is done with the lock, calls of uv_async_send(3) too: the loop does not close the handle under
// one.
class uv_wakeup : public std::enable_shared_from_this<uv_wakeup> {
public:
  [[nodiscard]] auto open(uv_loop_t& loop) -> int {
    auto self = std::make_unique<std::shared_ptr<uv_wakeup>>(shared_from_this());
    auto const code = ::uv_async_init(&loop, &handle_, [](uv_async_t* handle) { of(handle)->run(); });
    if (code == 0) {
      handle_.data = self.release(); // until it is closed
      ::uv_unref(base());
    }
    return code;
  }

  void post(std::coroutine_handle<> next) {
    std::scoped_lock const lock{mutex_};
    ready_.push_back(next);
    ::uv_async_send(&handle_);
  }

  // On the loop's thread.
  void begin_awaiting() {
    std::scoped_lock const lock{mutex_};
    for (auto* const each : {&ready_, &running_}) { // so that posting takes no memory
      if (each->capacity() <= awaited_) {
        each->reserve(2 * (awaited_ + 1));
      }
    }
    ++awaited_;
    ::uv_ref(base());
  }

  void end_awaiting() noexcept {
    std::scoped_lock const lock{mutex_};
    if (--awaited_ == 0 && !is_running_) {
      ::uv_async_send(&handle_); // only the loop's thread may do what follows
    }
  }

  // On the loop's thread.
  void leave() noexcept {
    std::scoped_lock const lock{mutex_};
    is_left_ = true;
    if (!is_running_) {
      settle();
    }
  }

private:
  static auto of(uv_async_t* handle) -> std::shared_ptr<uv_wakeup> {
    return *static_cast<std::shared_ptr<uv_wakeup>*>(handle->data);
  }
  [[nodiscard]] auto base() noexcept -> uv_handle_t* { return reinterpret_cast<uv_handle_t*>(&handle_); }

  void run() noexcept {
    {
      std::scoped_lock const lock{mutex_};
      running_.swap(ready_);
      is_running_ = true;
    }
    for (std::size_t i = 0; i < running_.size(); ++i) { // NOLINT(modernize-loop-convert): it may be moved meanwhile
      running_[i].resume();
    }
    running_.clear();
    std::scoped_lock const lock{mutex_};
    is_running_ = false;
    settle();
  }

  // Whether the loop is to run for the handle, and whether it is needed at all.
  void settle() noexcept {
    if (is_left_ && awaited_ == 0 && ready_.empty()) {
      ::uv_close(base(), [](uv_handle_t* handle) { delete static_cast<std::shared_ptr<uv_wakeup>*>(handle->data); });
    } else if (is_left_ || awaited_ != 0) {
      ::uv_ref(base());
    } else {
      ::uv_unref(base());
    }
  }

  uv_async_t handle_{};
  std::mutex mutex_; // of what follows, but for `running_`
  std::vector<std::coroutine_handle<>> ready_;
  std::vector<std::coroutine_handle<>> running_; // of the loop's thread
  std::size_t awaited_ = 0;
  bool is_running_ = false;
  bool is_left_ = false;
};

auto uv_executor::create(uv_loop_t& loop) -> result<uv_executor> {
  auto wakeup = std::make_shared<uv_wakeup>();
  if (auto const code = wakeup->open(loop); code != 0) {
    return std::unexpected(error::make({-code, std::system_category()}, "wait for a loop"));
  }
  return uv_executor{std::move(wakeup)};
}

auto uv_executor::operator=(uv_executor&& other) noexcept -> uv_executor& {
  uv_executor const old{std::move(*this)};
  wakeup_ = std::move(other.wakeup_);
  return *this;
}

uv_executor::~uv_executor() {
  if (wakeup_) {
    wakeup_->leave();
  }
}

void uv_executor::post(std::coroutine_handle<> next) noexcept { wakeup_->post(next); }

uv_awaiting::uv_awaiting(uv_executor& on) : wakeup_{on.wakeup_} { wakeup_->begin_awaiting(); }

uv_awaiting::~uv_awaiting() {
  if (wakeup_) {
    wakeup_->end_awaiting();
  }
}

void uv_awaiting::post(std::coroutine_handle<> next) noexcept { wakeup_->post(next); }

} // namespace fmmap
