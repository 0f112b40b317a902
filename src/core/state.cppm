// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What the handles of fmmap.core share: the open file and the run of address space, each alive as long as anything needs
// it. Implementation units only.
module fmmap.core:state;

import :counted;
import :durability;
import :error;
import :file;
import :flush_job;
import :mapping;
import :range;
import fmmap.os;

namespace fmmap {

inline constexpr std::size_t transfer_size = std::size_t{1} << 20; // bytes that go through memory at a time

// An error of the system, by errno, or of fmmap itself, ready to return.
[[nodiscard, gnu::cold]] auto failure(int code, std::string_view operation, std::string_view path = {},
                                      std::optional<byte_range> range = {}, std::string_view hint = {})
    -> std::unexpected<error>;
[[nodiscard, gnu::cold]] auto failure(errc code, std::string_view operation, std::string_view path = {},
                                      std::optional<byte_range> range = {}, std::string_view hint = {})
    -> std::unexpected<error>;

// What is called on a closed handle.
[[nodiscard, gnu::cold]] inline auto closed_handle(std::string_view operation) -> std::unexpected<error> {
  return failure(errc::closed, operation);
}

// A path that the system would take for a shorter one.
[[nodiscard]] inline auto has_nul(std::string_view path) -> bool { return path.find('\0') != std::string_view::npos; }
[[nodiscard, gnu::cold]] inline auto refuse_nul(std::string_view operation, std::string_view path)
    -> std::unexpected<error> {
  return failure(EINVAL, operation, path, {}, "the path holds a NUL character");
}

// Reports a step that undoes or releases something as dropped, where another error, or none, is to be returned.
[[gnu::cold]] void drop(int code, std::string_view operation, std::string_view path) noexcept;
inline void drop_failure(os::outcome<void> const& done, std::string_view operation,
                         std::string_view path = {}) noexcept {
  if (!done) [[unlikely]] {
    drop(done.error(), operation, path);
  }
}

// Of two outcomes the first error; a second one is dropped.
[[nodiscard]] auto first_error(result<void> first, result<void> second) -> result<void>;

// The bytes that `range` names in something `size` bytes long; empty when it reaches outside.
[[nodiscard]] inline auto resolve(byte_range range, std::uint64_t size) noexcept -> std::optional<os::interval> {
  if (range.length == to_end) {
    return range.offset <= size ? std::optional{os::interval{.begin = range.offset, .end = size}} : std::nullopt;
  }
  if (!os::fits(range.offset, range.length, size)) {
    return std::nullopt;
  }
  return os::interval{.begin = range.offset, .end = range.offset + range.length};
}

inline constexpr os::interval everything{.begin = 0, .end = UINT64_MAX};

[[nodiscard]] constexpr auto as_range(os::interval bytes) noexcept -> byte_range {
  auto const open_ended = bytes.end == everything.end;
  return {.offset = bytes.begin, .length = open_ended ? to_end : static_cast<std::size_t>(bytes.length())};
}

// Undoes something at the end of the scope, whatever ends it, unless it is told to keep it.
template <class Undo>
class rollback {
public:
  inline explicit rollback(Undo undo) noexcept : undo_{std::move(undo)} {}
  rollback(rollback const&) = delete;
  auto operator=(rollback const&) -> rollback& = delete;
  inline ~rollback() {
    if (armed_) {
      undo_();
    }
  }

  inline void keep() noexcept { armed_ = false; }

private:
  Undo undo_;
  bool armed_ = true;
};

// A descriptor that closes itself; a failure of that goes to the dropped-error handler.
class unique_descriptor {
public:
  unique_descriptor() noexcept = default;
  inline explicit unique_descriptor(os::descriptor value) noexcept : value_{value} {}
  inline unique_descriptor(unique_descriptor&& other) noexcept : value_{other.release()} {}
  inline auto operator=(unique_descriptor&& other) noexcept -> unique_descriptor& {
    unique_descriptor const old{std::exchange(value_, other.release())};
    return *this;
  }
  inline ~unique_descriptor() {
    if (value_ != os::no_descriptor) {
      drop_failure(os::close(value_), "close");
    }
  }

  [[nodiscard]] inline auto get() const noexcept -> os::descriptor { return value_; }
  [[nodiscard]] inline auto release() noexcept -> os::descriptor { return std::exchange(value_, os::no_descriptor); }

private:
  os::descriptor value_ = os::no_descriptor;
};

class file_memory;
class flush_steps;

// One open file description, shared by a file, its mappings and their staged flushes, so that each of them sees a failed
// sync of the others.
class open_file {
public:
  // One that refers to no file yet. Made before the file is opened: what fails afterwards has nothing to undo.
  [[nodiscard]] static auto make(std::string_view path) -> counted<open_file>;

  inline void attach(unique_descriptor descriptor, os::file_status const& status,
                     os::descriptor_access access) noexcept {
    descriptor_ = std::move(descriptor);
    identity = {.device = status.device, .inode = status.inode};
    type = status.type;
    readable = access.read;
    writable = access.write;
  }

  [[nodiscard]] inline auto descriptor() const noexcept -> os::descriptor { return descriptor_.get(); }
  [[nodiscard]] inline auto release() noexcept -> os::descriptor { return descriptor_.release(); }
  [[nodiscard]] auto close() -> result<void>;
  [[nodiscard]] auto size() const -> result<std::uint64_t>;

  [[nodiscard, gnu::cold]] inline auto fail(int code, std::string_view operation, std::optional<byte_range> range = {},
                                            std::string_view hint = {}) const -> std::unexpected<error> {
    return failure(code, operation, path, range, hint);
  }
  [[nodiscard, gnu::cold]] inline auto fail(errc code, std::string_view operation, std::optional<byte_range> range = {},
                                            std::string_view hint = {}) const -> std::unexpected<error> {
    return failure(code, operation, path, range, hint);
  }

  // Brings `part` of the file to `level`. `mapped` is where the part lies in memory, where it does: then only the part
  // is written.
  [[nodiscard]] auto flush(durability level, os::interval part, std::span<std::byte> mapped) -> result<durability>;

  // The first failed sync that no rewrite has made good.
  [[nodiscard]] auto failed_sync() const -> std::optional<error>;

  // Syncs `part` once `dirty` has dirtied it again, and takes it out of what failed syncs may have lost. `past_cache`
  // writes parts to the disk directly, where nothing else helps; without it that is an error.
  using direct_writer = std::function<os::outcome<void>(std::span<os::interval const>)>;
  [[nodiscard]] auto rewrite(os::interval part, std::function<result<void>()> const& dirty,
                             direct_writer const& past_cache = {}) -> result<durability>;

  std::string_view const path; // ends with a NUL, which it does not count
  file_identity identity;
  os::file_type type = os::file_type::other;
  bool readable = false;
  bool writable = false;
  bool in_memory = false;
  bool through_link = false;         // the last component of the path was a symbolic link
  bool nonblocking = false;          // the descriptor has O_NONBLOCK, from the open
  unique_descriptor unsynced_parent; // of a name that is removed but not durably so

private:
  friend void retain(open_file& object) noexcept;
  friend void release(open_file* object) noexcept;
  friend auto is_shared(open_file const& object) noexcept -> bool;
  friend region;
  friend flush_steps;

  inline open_file(file_memory& home, std::string_view path) noexcept : path{path}, home_{home} {}
  class sync_in_progress;
  struct sync_history;
  struct forget { // out of line: most files go without having been synced
    [[gnu::cold]] void operator()(sync_history* syncs) const noexcept;
  };
  ~open_file();
  [[nodiscard]] auto loses_data(int code) const noexcept -> bool;
  [[nodiscard]] auto find_unwritten(os::interval part) const -> os::outcome<std::vector<os::interval>>;
  [[nodiscard]] auto write_past_cache(os::interval part, direct_writer const& past_cache) const -> os::outcome<void>;
  [[nodiscard]] auto describe_failure(int code, std::string_view operation,
                                      std::optional<byte_range> const& range) const -> error;

  std::atomic<unsigned> owners_{1};
  unique_descriptor descriptor_;
  file_memory& home_;
  mutable std::mutex mutex_;
  std::unique_ptr<sync_history, forget> syncs_; // from the first sync on
};

// A run of the address space that belongs to fmmap; unmapped with the last of its users.
class region {
public:
  // Of no memory yet. Made before anything is mapped, as an open_file is.
  [[nodiscard]] static inline auto make(std::size_t unit, os::map_flags flags) -> counted<region> {
    return counted{new region{unit, flags}};
  }

  // The same in the memory of the file that is to be mapped, where there is room.
  [[nodiscard]] static auto make(open_file const& beside, std::size_t unit, os::map_flags flags) -> counted<region>;

  region(region const&) = delete;
  auto operator=(region const&) -> region& = delete;
  [[gnu::always_inline]] inline ~region() { drop_failure(unmap(), "unmap"); }

  inline void attach(std::byte* base, std::size_t length) noexcept {
    base_ = base;
    length_ = length;
  }

  [[nodiscard]] inline auto base() const noexcept -> std::byte* { return base_; }
  [[nodiscard]] inline auto length() const noexcept -> std::size_t { return length_; }
  // The size of its pages.
  [[nodiscard]] inline auto unit() const noexcept -> std::size_t { return unit_; }

  [[nodiscard, gnu::always_inline]] inline auto unmap() -> os::outcome<void> {
    auto const length = std::exchange(length_, 0);
    if (keeper_ != 0) [[unlikely]] {
      return unmap_what_is_here(length);
    }
    return length == 0 ? os::outcome<void>{} : os::unmap(base_, length);
  }

  // Leaves the first `length` bytes to somebody else.
  void give_up_front(std::size_t length) noexcept;

  // Notes advice about pages, counted in bytes from the base, that goes with the memory, so that it can be given again
  // where that is moved to.
  void remember(int advice, os::interval pages);

  // Gives the advice that another region remembers, as far as it concerns pages of this one.
  [[nodiscard]] auto take_advice_of(region const& other) -> os::outcome<void>;

  // Gives the remembered advice again, for pages that have been mapped anew.
  [[nodiscard]] auto repeat_advice(os::interval pages) -> os::outcome<void>;

  [[nodiscard]] auto is_locked() const -> bool;

  // Locks of overlapping parts: the system forgets all locks of a page at the first unlock, so they are counted here.
  [[nodiscard]] auto lock(os::interval addresses, bool on_fault) -> os::outcome<void>;
  void unlock(os::interval addresses) noexcept;

  os::map_flags const flags; // what its memory was mapped with

private:
  friend void retain(region& object) noexcept;
  friend void release(region* object) noexcept;
  friend auto is_shared(region const& object) noexcept -> bool;

  inline region(std::size_t unit, os::map_flags flags, file_memory* home = nullptr) noexcept
      : flags{flags}, home_{home}, unit_{unit} {}
  [[nodiscard]] auto unmap_what_is_here(std::size_t length) noexcept -> os::outcome<void>;

  std::atomic<unsigned> owners_{1};
  file_memory* home_; // null where it has memory of its own
  std::byte* base_ = nullptr;
  std::size_t length_ = 0;
  std::size_t unit_;
  mutable std::mutex mutex_;
  std::vector<os::interval> locks_;
  struct given_advice {
    int advice;
    os::interval pages;
  };
  std::vector<given_advice> given_;
  int keeper_ = 0; // the process that has kept pages from its children, once one has
};

// The memory of an open file and of its path, with room for the region of one mapping of it, so that opening and mapping
// take one allocation. Freed by the one of the two that leaves last.
class file_memory {
public:
  enum tenant : unsigned { a_file = 1, a_region = 2 };

  // For a file, with a path of `path_size` characters.
  [[nodiscard]] static auto make(std::size_t path_size) -> file_memory&;

  [[nodiscard]] inline auto room_for_file() noexcept -> void* { return file_; }
  [[nodiscard]] inline auto room_for_path() noexcept -> char* { return reinterpret_cast<char*>(this + 1); }

  // Null where there is one already.
  [[nodiscard]] inline auto room_for_region() noexcept -> void* {
    auto here = tenants_.load(std::memory_order_relaxed);
    if (os::is_single_threaded()) {
      tenants_.store(here | a_region, std::memory_order_relaxed);
    } else {
      here = tenants_.fetch_or(a_region, std::memory_order_acquire);
    }
    return (here & a_region) != 0 ? nullptr : region_;
  }

  void leave(tenant who) noexcept;

private:
  std::atomic<unsigned> tenants_{a_file};
  alignas(region) std::byte region_[sizeof(region)];
  alignas(open_file) std::byte file_[sizeof(open_file)];
};

inline auto region::make(open_file const& beside, std::size_t unit, os::map_flags flags) -> counted<region> {
  auto* const room = beside.home_.room_for_region();
  if (room == nullptr) {
    return make(unit, flags);
  }
  return counted{::new (room) region{unit, flags, &beside.home_}};
}

// Whether it has more than one owner.
[[nodiscard]] auto is_shared(open_file const& object) noexcept -> bool;
[[nodiscard]] auto is_shared(region const& object) noexcept -> bool;

// What a mapping is asked to flush.
struct flush_request {
  counted<region> memory; // keeps `mapped` mapped
  counted<open_file> target;
  os::interval part; // of the file
  std::span<std::byte> mapped;
  durability level = durability::none;
};

[[nodiscard]] auto stage(flush_request const& what) -> flush_job;

// What implementation units may do with handles that users may not.
class handle_access {
public:
  inline static auto state(file const& handle) noexcept -> counted<open_file> const& { return handle.state_; }
  inline static auto take(file& handle) noexcept -> counted<open_file> { return std::move(handle.state_); }
  inline static auto wrap(counted<open_file> state) noexcept -> file { return file{std::move(state)}; }

  // Maps a file whose size the caller has just asked for.
  static auto map(counted<open_file> from, std::uint64_t file_size, map_options const& options) -> result<mapping>;

  // The same into `made`, a mapping of nothing that lies where it is to stay: one is too large to move for nothing. What
  // fails leaves it half made, to be destroyed.
  static auto map_into(mapping& made, counted<open_file> from, std::uint64_t file_size, map_options const& options)
      -> result<void>;

  // Of the file that is mapped.
  inline static auto path(mapping const& of) noexcept -> std::string_view { return of.file_->path; }

  // Makes bytes of a file code, by a descriptor that cannot write where the file can be opened again: then the system refuses to
  // make them writable. Elsewhere as `mapping::protect`.
  static auto make_executable(mapping& target) -> result<void>;

  // Changes the length of a mapping of a file that the caller has just resized.
  inline static void set_size(mapping& target, std::size_t size) noexcept { target.size_ = size; }
};

// What can be mapped at all: regular files and devices, open for reading.
[[nodiscard]] auto check_mappable(open_file const& from, byte_range range) -> result<void>;

// Removes a file, for whom it is no failure that its name is gone already.
[[nodiscard]] auto remove_if_named(file& target) noexcept -> result<void>;

// Brings pages in, for reading or for writing, or says why that cannot be.
[[nodiscard]] auto populate(std::byte* begin, std::size_t length, bool write) -> os::outcome<void>;

// Brings the pages of `bytes`, which begin at one, in for writing: where there is no space for a page, a store would be
// SIGBUS. Returns 0 or an errno. Before Linux 5.14 nothing can be done.
[[nodiscard]] auto make_writable(std::span<std::byte> bytes) -> int;

// Opens `path` as file::open does and tells its size, so that a caller that maps it need not ask again.
struct opened_file {
  counted<open_file> state;
  std::uint64_t size;
  bool created; // by this call
};

[[nodiscard]] auto open_path(os::descriptor directory, std::string const& path, open_options const& options,
                             bool exclusive) -> result<opened_file>;

// Opens a regular file that has just been found not to open without waiting, because somebody holds a lease on it, and
// waits. Anything else is EAGAIN: a FIFO is never waited for, whatever takes the name meanwhile.
[[nodiscard]] auto open_waiting(os::descriptor directory, char const* path, os::open_flags flags)
    -> os::outcome<os::descriptor>;

// A directory and the last component of a path in it.
struct parent_directory {
  unique_descriptor descriptor;
  std::string name;
};

// Opens the directory that `path` lies in, from `directory` on: for `sync_directory` when `to_sync`, else only to name files
// in it, which needs no permission to read it.
[[nodiscard]] auto open_parent(os::descriptor directory, std::string_view path, bool to_sync)
    -> os::outcome<parent_directory>;

// Makes the names in a directory durable, one of which is or was that of `file`. A directory that may not be read cannot be
// synced: all of its file system is, then.
[[nodiscard]] auto sync_directory(os::descriptor directory, os::descriptor file) -> os::outcome<void>;

// Transfers all of `bytes`, or as many as there are before the end of the file.
[[nodiscard]] auto read_fully(os::descriptor from, std::uint64_t offset, std::span<std::byte> bytes)
    -> os::outcome<std::size_t>;

[[nodiscard]] inline auto is_zero(std::span<std::byte const> bytes) -> bool {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

// Puts blocks behind `bytes` of a file `size` bytes long. Returns 0, or the errno of what stopped it; the size is then
// `size` again.
[[nodiscard]] auto allocate_blocks(open_file const& target, os::interval bytes, std::uint64_t size) -> int;

// Writes pages of a part of a file again, as they read. Returns 0 or an errno.
enum class pages_that : unsigned char { are_there, are_zero, hold_data };
[[nodiscard]] auto write_again(open_file const& target, os::interval part, pages_that which) -> int;

// Where data begins and ends, at or after `at`; empty when there is no more before `end`.
[[nodiscard]] auto next_data(os::descriptor from, std::uint64_t at, std::uint64_t end) -> os::outcome<os::interval>;

// Clears what was stored past the end of a file, in its last page, before it grew from `old` to `size` bytes: some file
// systems keep it, tmpfs among them, and it would show up as content. Through the descriptor and not in memory, where a
// page without a block is SIGBUS on a full disk. Returns 0, or an errno; the size is then `old` again.
[[nodiscard]] auto clear_tail(open_file const& target, std::uint64_t old, std::uint64_t size) -> int;

// The same for a write at `offset` that leaves a gap behind the end: the rest of the last page reads as zero before it is
// a part of the file. A write at the beginning leaves none; of any other only the size tells.
[[nodiscard]] auto clear_gap(open_file const& target, std::uint64_t offset, std::size_t length) -> os::outcome<void>;

// How much was written before an error, and the error's errno; 0 when there was none.
struct written {
  std::size_t bytes;
  int error;
};

[[nodiscard]] auto write_fully(os::descriptor to, std::uint64_t offset, std::span<std::byte const> bytes) -> written;

// What to say beside an error of a staged file's getting its name.
[[nodiscard]] auto naming_hint(int code) noexcept -> std::string_view;

// A new file that nobody sees until it is complete: it gets its name last, and leaves nothing when it does not.
class staged_file {
public:
  // `name` is the one it is to have in the directory.
  [[nodiscard]] static auto create(os::descriptor directory, std::string_view name, unsigned permissions)
      -> os::outcome<staged_file>;

  staged_file(staged_file&& other) noexcept = default;
  auto operator=(staged_file&& other) -> staged_file& = delete;
  ~staged_file();

  [[nodiscard]] inline auto descriptor() const noexcept -> os::descriptor { return descriptor_.get(); }

  // Gives the file its name, which must be free.
  [[nodiscard]] auto publish() -> os::outcome<void>;

  // Gives the file its name, taking it from whatever has it.
  [[nodiscard]] auto replace() -> os::outcome<void>;

private:
  staged_file(unique_descriptor descriptor, os::descriptor directory, std::string_view name, bool named);
  [[nodiscard]] auto create_named(unsigned permissions) -> os::outcome<void>;
  template <class Attempt>
  auto take_temporary_name(Attempt attempt) -> os::outcome<void>;

  unique_descriptor descriptor_;
  os::descriptor directory_;
  std::string name_;
  std::string temporary_name_;
  // Whether the directory holds the temporary name; moves with the file.
  std::unique_ptr<bool> named_;
};

} // namespace fmmap
