// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#include <liburing.h>

#include <fcntl.h>

module fmmap.async;

import fmmap.core;
import fmmap.os;
import :ring;

namespace fmmap {

namespace {

// Bytes of a file that one call may be about; more are not taken.
constexpr std::uint64_t most_bytes = std::uint64_t{1} << 31;

// liburing gives errors as negative numbers, where system calls set errno.
auto as_system_call(int value) noexcept -> int {
  if (value < 0) {
    errno = -value;
    return -1;
  }
  return value;
}

class kernel_ring final : public ring {
public:
  kernel_ring() noexcept = default;
  ~kernel_ring() override {
    if (is_set_up_) {
      io_uring_queue_exit(&ring_);
    }
  }

  [[nodiscard]] auto set_up() noexcept -> int {
    auto const made =
        os::invoke(os::call::io_uring_setup, [&] { return as_system_call(io_uring_queue_init(capacity, &ring_, 0)); });
    is_set_up_ = made.has_value();
    return made ? 0 : made.error();
  }

  [[nodiscard]] auto ask(sync_call const& what, void* tag) noexcept -> asked override {
    bool is_to_be_made = false; // unless the table of the tests has it otherwise
    auto const allowed = os::invoke(call_of(what),
                                    [&] {
                                      is_to_be_made = true;
                                      return 0;
                                    },
                                    {.descriptor = what.descriptor, .offset = what.offset, .length = what.length});
    if (!is_to_be_made) {
      return {.is_made = false, .code = allowed ? 0 : allowed.error()};
    }
    std::scoped_lock const held{mutex_};
    if (under_way_ == capacity || what.length > most_bytes) {
      return {};
    }
    auto* entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr && submit()) { // of voided ones
      entry = io_uring_get_sqe(&ring_);
    }
    if (entry == nullptr) {
      return {};
    }
    prepare(*entry, what);
    io_uring_sqe_set_data(entry, tag);
    if (!submit()) {
      io_uring_prep_nop(entry); // the kernel has not seen it yet
      io_uring_sqe_set_data(entry, nullptr);
      return {};
    }
    ++under_way_;
    changed_.notify_one();
    return {.is_made = true, .code = {}};
  }

  [[nodiscard]] auto wait() noexcept -> std::optional<completed> override {
    std::unique_lock held{mutex_};
    while (true) {
      changed_.wait(held, [&] { return under_way_ != 0 || is_closed_; });
      if (under_way_ == 0) {
        return std::nullopt;
      }
      held.unlock();
      auto const waited = os::invoke(os::call::io_uring_enter, [&] {
        io_uring_cqe* first = nullptr;
        return as_system_call(io_uring_wait_cqe(&ring_, &first));
      });
      if (!waited && waited.error() != EINTR) {
        std::this_thread::sleep_for(
            std::chrono::milliseconds{1}); // and look: what is over is there without being waited for
      }
      held.lock(); // after whoever has asked for it
      io_uring_cqe* entry = nullptr;
      while (io_uring_peek_cqe(&ring_, &entry) == 0) {
        auto over = completed{.tag = io_uring_cqe_get_data(entry), .code = entry->res < 0 ? -entry->res : 0};
        if (over.code == ECANCELED) { // it had no thread for it
          over.code.reset();
        }
        io_uring_cqe_seen(&ring_, entry);
        if (over.tag != nullptr) {
          --under_way_;
          return over;
        }
      }
    }
  }

  void close() noexcept override {
    std::scoped_lock const held{mutex_};
    is_closed_ = true;
    changed_.notify_all();
  }

private:
  [[nodiscard]] auto submit() noexcept -> bool {
    auto const submitted = os::retry(
        [&] { return os::invoke(os::call::io_uring_enter, [&] { return as_system_call(io_uring_submit(&ring_)); }); });
    return submitted && io_uring_sq_ready(&ring_) == 0;
  }

  [[nodiscard]] static auto call_of(sync_call const& what) noexcept -> os::call {
    return what.level == durability::all    ? os::call::fsync
           : what.level == durability::data ? os::call::fdatasync
                                            : os::call::sync_file_range;
  }

  static void prepare(io_uring_sqe& entry, sync_call const& what) noexcept {
    if (what.level == durability::data || what.level == durability::all) {
      io_uring_prep_fsync(&entry, what.descriptor, what.level == durability::data ? IORING_FSYNC_DATASYNC : 0U);
      if (what.length !=
          0) { // to the last byte of a page, which is never the one at 0: that would be to the end of the file
        auto const page = os::page_size();
        entry.off = os::round_down(what.offset, page);
        auto const end = os::round_up(what.offset + what.length, page).value_or(what.offset + what.length);
        entry.len = static_cast<std::uint32_t>(end - entry.off - 1);
      }
      return;
    }
    auto flags = SYNC_FILE_RANGE_WRITE;
    if (what.level == durability::written) {
      flags |= SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
    }
    io_uring_prep_sync_file_range(&entry, what.descriptor, static_cast<unsigned>(what.length), what.offset, flags);
  }

  std::mutex mutex_; // of who asks; and of who waits, for what is over was written by who asked for it
  std::condition_variable changed_;
  io_uring ring_{};
  bool is_set_up_ = false;
  bool is_closed_ = false;
  unsigned under_way_ = 0;
};

} // namespace

auto ring::make() -> result<std::unique_ptr<ring>> {
  auto made = std::make_unique<kernel_ring>();
  if (auto const code = made->set_up(); code != 0) {
    return std::unexpected(error::make({code, std::system_category()}, "set up io_uring"));
  }
  return made;
}

} // namespace fmmap
