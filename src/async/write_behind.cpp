// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.async;

import fmmap.core;
import fmmap.os;
import :engine_state;

namespace fmmap {

namespace {

// Bytes that are looked at, and written, at a time.
constexpr std::uint64_t window = std::uint64_t{8} << 20;

// Where no file has bytes, or ever will.
constexpr std::uint64_t nowhere = std::uint64_t{1} << 62;

} // namespace

// A file that is written behind, by a descriptor of its own: a failed write is told once for each open file, and so to its
// flushes as well.
class dirty_watch {
public:
  dirty_watch(std::shared_ptr<engine_state> engine, mutable_mapped_file const& file, write_behind_options options)
      : engine_{std::move(engine)}, options_{options}, path_{file.path()} {
    if (options.dirty_budget == 0 || options.interval <= std::chrono::milliseconds::zero()) {
      note(error::make(errc::invalid_options, "write behind", path_, {}, "no budget, or no interval"));
      return;
    }
    if (!file.is_open()) {
      note(error::make(errc::closed, "write behind"));
      return;
    }
    auto const opened = os::retry([&] { return os::reopen(file.as_file().native_handle(), {.write = true}); });
    if (!opened) {
      note(failure(opened.error()));
      return;
    }
    descriptor_ = *opened;
  }
  dirty_watch(dirty_watch const&) = delete;
  auto operator=(dirty_watch const&) -> dirty_watch& = delete;
  ~dirty_watch() {
    if (descriptor_ != os::no_descriptor) {
      if (auto const closed = os::close(descriptor_); !closed) {
        report_dropped_error(error::make({closed.error(), std::system_category()}, "close", path_));
      }
    }
  }

  [[nodiscard]] auto is_possible() const noexcept -> bool { return descriptor_ != os::no_descriptor; }
  [[nodiscard]] auto interval() const noexcept -> std::chrono::milliseconds {
    return std::min<std::chrono::milliseconds>(options_.interval, std::chrono::years{1}); // which nanoseconds can count
  }
  [[nodiscard]] auto engine() const noexcept -> std::shared_ptr<engine_state> const& { return engine_; }

  // Begins writing where more than half of the budget is dirty.
  void look() { (void)write_and_check(options_.dirty_budget / 2, false); }
  // Writes until no more than that is.
  [[nodiscard]] auto make_room() -> result<void> { return write_and_check(options_.dirty_budget, true); }

  void note(error why) {
    std::scoped_lock const held{mutex_};
    if (!first_error_) {
      first_error_ = std::move(why);
    }
  }
  [[nodiscard]] auto take_error() -> std::optional<error> {
    std::scoped_lock const held{mutex_};
    return std::exchange(first_error_, std::nullopt);
  }
  [[nodiscard]] auto stats() const -> write_behind_stats {
    std::scoped_lock const held{mutex_};
    return stats_;
  }

  std::stop_source stop;

private:
  [[nodiscard]] auto failure(int code) const -> error {
    return error::make({code, std::system_category()}, "write behind", path_);
  }

  // What fails is noted too.
  [[nodiscard]] auto write_and_check(std::uint64_t allowed, bool wait) -> result<void> {
    auto written = write(allowed, wait);
    if (written) {
      // What the system has failed to write meanwhile it tells whoever waits, for whichever part. There is nothing to wait
      // for in this one.
      written = sync_part(nowhere, os::page_size(), true);
    }
    if (!written) {
      note(written.error());
    }
    return written;
  }

  [[nodiscard]] auto write(std::uint64_t allowed, bool wait) -> result<void> {
    auto const status = os::status(descriptor_);
    if (!status) {
      return std::unexpected(failure(status.error()));
    }
    // Who does not wait leaves alone what is being written.
    auto const to_write = [&](os::cache_status const& seen) { return seen.dirty + (wait ? seen.writeback : 0); };
    auto const all = os::cache(descriptor_, 0, status->size);
    std::uint64_t next = 0; // one window after the other, from where the last look ended
    {
      std::scoped_lock const held{mutex_};
      ++stats_.looks;
      stats_.dirty_known = all.has_value();
      stats_.dirty_bytes = all ? all->dirty + all->writeback : 0;
      next = next_;
    }
    auto left = all ? to_write(*all) : status->size; // without a count, all of it
    for (std::uint64_t seen = 0; seen < status->size && (!all || left > allowed); seen += window) {
      auto const at = next < status->size ? next : 0;
      next = at + window;
      auto here = std::min(window, status->size - at);
      if (all) {
        auto const counted = os::cache(descriptor_, at, window);
        here = counted ? to_write(*counted) : 0;
      }
      if (here == 0) {
        continue;
      }
      if (auto const done = write_window(at, here, wait); !done) {
        return done;
      }
      left -= std::min(left, here);
    }
    std::scoped_lock const held{mutex_};
    next_ = next;
    return {};
  }

  [[nodiscard]] auto write_window(std::uint64_t at, std::uint64_t bytes, bool wait) -> result<void> {
    auto done = sync_part(at, window, wait);
    if (done) {
      std::scoped_lock const held{mutex_};
      stats_.begun_bytes += bytes;
    }
    return done;
  }

  // Or all of it, where the system knows no parts.
  [[nodiscard]] auto sync_part(std::uint64_t at, std::uint64_t length, bool wait) -> result<void> {
    auto done = os::retry([&] { return os::sync_range(descriptor_, at, length, wait); });
    if (!done && os::is_range_sync_missing(done.error())) {
      done = os::retry([&] { return os::sync_data(descriptor_); });
    }
    if (!done) {
      return std::unexpected(failure(done.error()));
    }
    return {};
  }

  std::shared_ptr<engine_state> const engine_;
  write_behind_options const options_;
  std::string const path_;
  os::descriptor descriptor_ = os::no_descriptor;

  mutable std::mutex mutex_; // of all that follows
  write_behind_stats stats_;
  std::optional<error> first_error_;
  std::uint64_t next_ = 0; // where to look next
};

namespace {

template <class Function>
auto call_on(std::shared_ptr<engine_state> engine, Function function, std::stop_token stop) -> operation<void> {
  return operation<void>{
      std::make_shared<request_by<void, Function>>(std::move(engine), std::move(stop), false, std::move(function))};
}

// Until it is stopped, or the engine closed, or there is no memory to go on.
auto keep_looking(std::shared_ptr<dirty_watch> watch) -> unawaited {
  auto const engine = watch->engine();
  auto const note = [&](error why) { // but for what ends this for good, which is no failure
    if (why != errc::closed && why != std::errc::operation_canceled) {
      watch->note(std::move(why));
    }
  };
  try {
    auto const stop = watch->stop.get_token();
    while (!stop.stop_requested()) {
      if (auto slept = co_await sleep_on(engine, watch->interval(), stop); !slept) {
        note(std::move(slept).error());
        break;
      }
      auto looked = co_await call_on(
          engine,
          [watch]() -> result<void> {
            watch->look();
            return {};
          },
          stop);
      if (!looked) { // it could not begin
        note(std::move(looked).error());
      }
    }
  } catch (std::bad_alloc const&) {
    note(error::make({ENOMEM, std::system_category()}, "write behind"));
  }
  try {
    (void)co_await call_on(engine, [last = std::move(watch)]() -> result<void> { return {}; }, {}); // closes there
  } catch (std::bad_alloc const&) { // NOLINT(bugprone-empty-catch): and so it is closed here
  }
}

} // namespace

write_behind::write_behind(io_engine const& engine, mutable_mapped_file const& file, write_behind_options options)
    : watch_{std::make_shared<dirty_watch>(operation_access::state_of(engine), file, options)} {
  if (!engine.is_open()) {
    watch_->note(error::make(errc::closed, "write behind", file.path(), {}, "the engine is closed"));
  } else if (watch_->is_possible()) {
    keep_looking(watch_).frame().resume();
  }
}

write_behind::~write_behind() {
  auto stop = watch_->stop;
  watch_.reset(); // before its coroutine gives it up, which has it closed elsewhere
  stop.request_stop();
}

auto write_behind::room(std::stop_token stop) const -> operation<void> {
  if (!watch_->is_possible()) {
    return operation<void>{error::make(errc::closed, "write behind", {}, {}, "it watches nothing: see check()")};
  }
  return call_on(watch_->engine(), [watch = watch_] { return watch->make_room(); }, std::move(stop));
}

auto write_behind::check() -> result<void> {
  auto first = watch_->take_error();
  return first ? result<void>{std::unexpected(*std::move(first))} : result<void>{};
}

auto write_behind::stats() const -> write_behind_stats { return watch_->stats(); }

} // namespace fmmap
