// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

import fmmap.os;

// With the table armed: which calls that may block some threads make, and how many the others do.
class watched_calls {
public:
  explicit watched_calls(std::set<std::thread::id> threads) : threads_{std::move(threads)} {
    fmmap::os::seam::observe([this](fmmap::os::seam::observation const& one) {
      std::scoped_lock const lock{mutex_};
      if (!threads_.contains(std::this_thread::get_id())) {
        ++elsewhere_;
      } else if (!one.over && fmmap::os::may_block(one.which)) {
        blocking_.emplace_back(name_of(one.which));
      }
    });
  }
  watched_calls(watched_calls const&) = delete;
  auto operator=(watched_calls const&) -> watched_calls& = delete;
  ~watched_calls() = default;

  [[nodiscard]] auto blocking() -> std::vector<std::string> {
    std::scoped_lock const lock{mutex_};
    return blocking_;
  }
  // Their beginnings and their ends.
  [[nodiscard]] auto elsewhere() -> std::size_t {
    std::scoped_lock const lock{mutex_};
    return elsewhere_;
  }

private:
  std::set<std::thread::id> const threads_;
  std::mutex mutex_;
  std::vector<std::string> blocking_;
  std::size_t elsewhere_ = 0;
  fmmap::os::seam::armed const table_; // before the observer, and until it goes
};
