// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

export module fmmap.core:error;

import :range;

namespace fmmap {
struct error_details; // defined in src/core/error.cpp
} // namespace fmmap

export namespace fmmap {

/// What fmmap itself finds wrong. What the system finds wrong keeps the system's own code.
enum class errc : int {
  /// The range reaches past the end of the file or mapping, or past what its numbers can hold.
  out_of_range = 1,
  /// Only regular files are opened unless asked otherwise.
  not_a_regular_file,
  /// The operation would reach the file, and a copy-on-write mapping never does.
  copy_on_write,
  /// The file or mapping was opened for reading only.
  read_only,
  /// The mapping cannot grow past the address space it has reserved.
  reservation_exceeded,
  /// There is no file behind the memory that could outlive the process.
  not_durable,
  /// Memory that is writable and executable at once is refused.
  writable_and_executable,
  /// The advice would change bytes; `discard` does that by name.
  destructive_advice,
  /// The address asked for is already in use.
  address_in_use,
  /// The name now belongs to another file.
  path_reused,
  /// The name is a symbolic link.
  symbolic_link,
  /// The options contradict each other.
  invalid_options,
  /// The handle was closed, released, or moved from.
  closed,
  /// The handle is shared with a mapping, a view or a staged flush, and cannot be given up alone.
  in_use,
  /// The job has already run.
  already_run,
  /// The bytes do not lie where an object of the type may.
  misaligned,
  /// Another process has made the file shorter than what is mapped of it.
  truncated,
  /// The device, or the memory itself, cannot give the bytes.
  device_fault,
  /// The lock is not held, or not in the mode that the operation begins with.
  lock_not_held,
  /// The object stayed with the process that made it; this is a forked child of that.
  forked,
  /// Somebody else has had the lock for as long as it could be waited for. Equals `std::errc::timed_out`.
  lock_timed_out,
  /// There is nothing of that name.
  not_found,
  /// There is something of that name already.
  already_exists,
  /// What has that name is of another type.
  type_mismatch,
  /// The file is not one of a persistent heap.
  not_a_heap,
  /// The heap was made by a program whose objects are laid out in another way.
  incompatible,
  /// What the file says of itself contradicts itself.
  damaged,
  /// Something that is to be committed points to memory that ends with the process.
  escaped_pointer,
  /// What is to be committed was changed by a thread while the commit was made.
  data_race,
  /// The code is published, and does not change any more.
  already_published,
  /// It was not allocated there, or has been given up since.
  not_allocated,
  /// The arena is sealed: its code is final.
  sealed,
};

/// The category of `errc`, named "fmmap".
[[nodiscard]] auto errc_category() noexcept -> std::error_category const&;

[[nodiscard]] auto make_error_code(errc code) noexcept -> std::error_code;

class system_error;

/// Why an operation failed, with what it was doing and to what.
///
/// Two words wide, so that a `result` stays cheap to return; what only a person needs is kept behind a pointer that
/// copies share.
///
/// Thread safety: distinct objects may be used from different threads, copies of one error included.
class [[nodiscard]] error {
public:
  /// Describes a failure of `operation` ("open", "map") on `path`, as fmmap's own functions do.
  ///
  /// `hint`, when given, ends the message: what the reader can do about it. When memory for the details runs out, the
  /// error keeps its code and loses them.
  [[nodiscard]] static auto make(std::error_code code, std::string_view operation, std::string_view path = {},
                                 std::optional<byte_range> range = {}, std::string_view hint = {}) noexcept -> error;

  error(error const& other) noexcept;
  inline error(error&& other) noexcept
      : value_{other.value_}, kind_{other.kind_}, details_{std::exchange(other.details_, nullptr)} {}
  auto operator=(error const& other) noexcept -> error&;
  auto operator=(error&& other) noexcept -> error&;

  inline ~error() {
    if (details_ != nullptr) {
      release();
    }
  }

  /// The system's code, or one of `errc`. One of another category goes with the details when the error is moved from,
  /// and `errc::closed` is left.
  [[nodiscard]] auto code() const noexcept -> std::error_code;

  /// What was being done, as one word: "open", "map", "flush". Lives as long as the error.
  [[nodiscard]] auto operation() const noexcept -> std::string_view;

  /// The file, as it was named when opened; empty when there is none. Lives as long as the error.
  [[nodiscard]] auto path() const noexcept -> std::string_view;

  /// The bytes concerned, where the operation has a range.
  [[nodiscard]] auto range() const noexcept -> std::optional<byte_range>;

  /// One sentence: what failed, on what, why, and what can be done where that is known.
  [[nodiscard]] auto message() const -> std::string;

  [[nodiscard]] inline auto operator==(std::errc other) const noexcept -> bool {
    return code() == std::make_error_condition(other);
  }
  [[nodiscard]] inline auto operator==(errc other) const noexcept -> bool { return code() == make_error_code(other); }

private:
  friend system_error;
  enum class kind : unsigned char { system, generic, fmmap, other };

  [[nodiscard]] auto text() const noexcept -> char const*; // null when memory for the message ran out

  explicit error(std::error_code code) noexcept;
  void release() noexcept;

  int value_ = 0;
  kind kind_ = kind::system;
  error_details* details_ = nullptr;
};

static_assert(sizeof(error) <= 16);

/// A value, or why there is none.
template <class T>
using result = std::expected<T, error>;

/// Thrown by `or_throw`: a `std::system_error` that carries the whole `error`.
class system_error : public std::system_error {
public:
  explicit system_error(error why);

  /// The same sentence as `why().message()`.
  [[nodiscard]] auto what() const noexcept -> char const* override;

  [[nodiscard]] inline auto why() const noexcept -> error const& { return why_; }

private:
  error why_;
};

/// Throws `system_error`.
[[noreturn]] void throw_error(error why);

/// Unwraps a result: its value, or `system_error` with its error.
template <class T>
auto or_throw(result<T> outcome) -> T {
  if (!outcome) [[unlikely]] {
    throw_error(std::move(outcome).error());
  }
  if constexpr (!std::is_void_v<T>) {
    return *std::move(outcome);
  }
}

/// What goes wrong where nobody can be told, in destructors, goes here.
using dropped_error_handler = void (*)(error const& why) noexcept;

/// Sets the handler for errors in destructors and returns the one before; null, the default, ignores them.
///
/// Thread safety: may be called from any thread; the handler may be called from any thread that destroys a handle. Fork: the
/// child's too. Exec: null. Exit without destruction: not called.
auto set_dropped_error_handler(dropped_error_handler handler) noexcept -> dropped_error_handler;

/// Gives an error to the handler of `set_dropped_error_handler`, as fmmap's destructors do: for those of what is built on
/// fmmap.
///
/// Thread safety: may be called from any thread.
void report_dropped_error(error const& why) noexcept;

} // namespace fmmap

template <>
struct std::is_error_code_enum<fmmap::errc> : std::true_type {};
