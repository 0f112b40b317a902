// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <condition_variable>
#include <coroutine>
#include <deque>
#include <mutex>

// A queue of coroutines that a test resumes by hand: the smallest executor.
class loop {
public:
  void post(std::coroutine_handle<> next) noexcept {
    std::scoped_lock const lock{mutex_};
    ready_.push_back(next);
    posted_.notify_one(); // with the lock: the queue may go as soon as somebody has what was posted
  }

  [[nodiscard]] auto is_posted() -> bool {
    std::scoped_lock const lock{mutex_};
    return !ready_.empty();
  }

  // Waits until there is one.
  void wait() {
    std::unique_lock lock{mutex_};
    posted_.wait(lock, [&] { return !ready_.empty(); });
  }

  // Resumes the next one, which is waited for.
  void run_one() {
    std::unique_lock lock{mutex_};
    posted_.wait(lock, [&] { return !ready_.empty(); });
    auto const next = ready_.front();
    ready_.pop_front();
    lock.unlock();
    next.resume();
  }

private:
  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::coroutine_handle<>> ready_;
};
