// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <expected>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

export module fmmap.async:io_engine;

import fmmap.core;

namespace fmmap {
class engine_state; // defined in src/async/engine_state.cppm
class operation_access;
} // namespace fmmap

export namespace fmmap {

/// By what an engine does its work.
enum class engine_kind : unsigned char {
  /// The best of the others that the system has.
  automatic,
  /// Threads that block in the engine's stead.
  threads,
  /// The same, and the kernel's own where it has them: flushes of files and of mappings of files are made by io_uring, and take
  /// no thread from other operations. Where the kernel, or who administers it, refuses that, creation fails, and `automatic`
  /// becomes `threads`.
  io_uring,
};

/// "automatic", "threads", "io_uring".
[[nodiscard]] auto to_string(engine_kind kind) noexcept -> std::string_view;

struct engine_options {
  engine_kind kind = engine_kind::automatic;
  /// How many operations may block at a time, locks apart, and flushes by io_uring; 0 for twice as many as there are processors, and at least 4. Others
  /// wait for their turn, first come, first served. A thread is started when it is needed, and stays.
  unsigned threads = 0;
  /// How many waits for locks may block at a time, each in a thread that ends with it. These take nothing from the others: a
  /// flush on which the end of a lock depends is never behind those who wait for that.
  unsigned lock_threads = 256;
};

/// Does what blocks in the stead of coroutines, and resumes them.
///
/// It has one thread on which it resumes whoever waits, one at a time: coroutines that use one engine, and nothing else to
/// resume them, need no locks among themselves, and must not block there. `resume_on` takes a coroutine elsewhere.
///
/// Thread safety: all but moves and destruction may be called from any thread. Signals: its threads run no handlers of
/// the program's. Fork: a child's operations are `errc::forked`; its engine may be destroyed. Exec, exit: operations that have
/// begun are left as they are.
class io_engine {
public:
  /// Errors: `errc::invalid_options` for no `lock_threads`, or more than 65 536 `threads`; `std::errc::resource_unavailable_try_again` when there can be no thread;
  /// for `engine_kind::io_uring`, what it is refused with: `std::errc::operation_not_permitted`, `std::errc::function_not_supported`.
  [[nodiscard]] static auto create(engine_options options = {}) -> result<io_engine>;

  /// An engine of nothing, as is one that was moved from or closed: its operations are `errc::closed`.
  io_engine() noexcept = default;
  io_engine(io_engine&& other) noexcept = default;
  auto operator=(io_engine&& other) noexcept -> io_engine&;
  /// As `close`.
  ~io_engine();

  [[nodiscard]] auto is_open() const noexcept -> bool;

  /// What it works by: `engine_kind::automatic` for an engine of nothing alone.
  [[nodiscard]] auto kind() const noexcept -> engine_kind;

  /// Why an `automatic` engine does not work by io_uring, where it does not.
  [[nodiscard]] auto ring_error() const -> std::optional<error>;

  /// Ends what has not begun with `std::errc::operation_canceled`, and waits for locks likewise; waits for what has begun; resumes
  /// all who waited, whose further operations are `errc::closed`; then ends its threads. What is called on one of them does not wait.
  ///
  /// Errors: `errc::closed` where that was begun before, for which it waits all the same.
  auto close() -> result<void>;

private:
  friend operation_access;
  explicit io_engine(std::shared_ptr<engine_state> state) noexcept : state_{std::move(state)} {}

  std::shared_ptr<engine_state> state_;
};

} // namespace fmmap
