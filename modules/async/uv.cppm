// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <coroutine>
#include <expected>
#include <memory>
#include <utility>

#include <uv.h>

/// Going on with coroutines on the thread that runs a loop of libuv.
export module fmmap.async.uv;

import fmmap.core;
import fmmap.async;

namespace fmmap {
class uv_wakeup; // defined in src/async/uv.cpp
} // namespace fmmap

export namespace fmmap {

class uv_awaiting;

/// Resumes coroutines on the thread that runs a loop.
///
/// It has a handle of the loop, which does not keep the loop running but while something is awaited by `resume_on`, and is
/// closed when the executor has gone and nothing is awaited any more: at once, or by the loop. Then, as with any handle, the loop
/// has to run once more before uv_loop_close(3).
///
/// Thread safety: `post` may be called from any thread; all else is for the loop's.
class uv_executor {
public:
  /// Errors: what uv_async_init(3) reports.
  [[nodiscard]] static auto create(uv_loop_t& loop) -> result<uv_executor>;

  uv_executor(uv_executor&& other) noexcept = default;
  auto operator=(uv_executor&& other) noexcept -> uv_executor&;
  ~uv_executor();

  /// The handle is resumed when the loop runs, for which this gives it no reason: in one go with others that were posted before.
  void post(std::coroutine_handle<> next) noexcept;

private:
  friend uv_awaiting;
  explicit uv_executor(std::shared_ptr<uv_wakeup> wakeup) noexcept : wakeup_{std::move(wakeup)} {}

  std::shared_ptr<uv_wakeup> wakeup_;
};

/// The executor as something that is awaited has it, which keeps the loop running. It may go on any thread.
class uv_awaiting {
public:
  explicit uv_awaiting(uv_executor& on);
  uv_awaiting(uv_awaiting&& other) noexcept = default;
  auto operator=(uv_awaiting&&) -> uv_awaiting& = delete;
  ~uv_awaiting();

  void post(std::coroutine_handle<> next) noexcept;

private:
  std::shared_ptr<uv_wakeup> wakeup_;
};

/// As `resume_on` of any executor, and keeps the loop running until the coroutine has been resumed or dropped. The executor may go
/// before. Called on the loop's thread, or before the loop runs.
template <class T>
[[nodiscard]] auto resume_on(uv_executor& on, operation<T> awaited) -> resumed_operation<uv_awaiting, T> {
  return {uv_awaiting{on}, std::move(awaited)};
}
template <class T>
void resume_on(uv_executor&& on, operation<T> awaited) = delete; // it would go where it must not

} // namespace fmmap
