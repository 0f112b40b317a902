// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

export module fmmap.core:file;

import :counted;
import :durability;
import :error;
import :range;

namespace fmmap {
class handle_access; // defined in src/core/state.cppm
} // namespace fmmap

export namespace fmmap {

/// What a file or mapping is for.
enum class access : unsigned char {
  /// Bytes are read.
  read_only,
  /// Bytes are read and written, and what is written reaches the file.
  read_write,
  /// Bytes are read and written, and what is written stays in memory. A file needs to be readable only.
  copy_on_write,
};

/// What an open does about symbolic links.
enum class symlinks : unsigned char {
  /// Follows them.
  follow,
  /// Refuses one as the last component of the path.
  refuse_last,
  /// Refuses one anywhere in the path.
  refuse_all,
};

struct open_options {
  fmmap::access access = fmmap::access::read_only;
  /// Creates the file when it is missing; needs `access::read_write`. The target of a symbolic link is not created.
  bool create = false;
  /// Of a created file, narrowed by the process's umask.
  unsigned permissions = 0600;
  fmmap::symlinks symlinks = fmmap::symlinks::follow;
  /// The path may not leave the directory it starts from, by "..", an absolute path or a link.
  bool beneath = false;
  /// Opens directories, devices, FIFOs and sockets too. Reads and writes of them may block; opening never does. Opening a
  /// regular file waits only for whoever holds a lease on it (fcntl(2), F_SETLEASE), as a file server may.
  bool any_type = false;
  /// After creating the file, makes its name durable.
  bool sync_directory = false;
};

struct memory_options {
  /// Allows `file::seal`.
  bool sealable = false;
};

/// What a sealed file in memory refuses for good.
struct file_seals {
  bool shrink = false;
  bool grow = false;
  /// Every write. Refused by the system while a writable mapping exists.
  bool write = false;
  /// Writes through descriptors and mappings made from now on.
  bool future_write = false;
  /// Further seals.
  bool seal = false;

  auto operator==(file_seals const&) const -> bool = default;
};

enum class file_type : unsigned char {
  regular,
  directory,
  symlink,
  fifo,
  socket,
  block_device,
  character_device,
  other
};

/// What tells one file of a machine from every other: the device it is on and its number there.
struct file_identity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;

  auto operator<=>(file_identity const&) const = default;
};

/// What the system knows of a file, at the moment it was asked.
struct file_metadata {
  using time = std::chrono::sys_time<std::chrono::nanoseconds>;

  std::uint64_t size = 0;            ///< in bytes
  std::uint64_t allocated_bytes = 0; ///< less than `size` where the file has holes
  std::uint64_t links = 0;           ///< names
  std::uint64_t block_size = 0;      ///< preferred for input and output, in bytes
  unsigned permissions = 0;
  std::uint32_t owner = 0;
  std::uint32_t group = 0;
  file_type type = file_type::other;
  time accessed;
  time modified;
  time status_changed;
  std::optional<time> created; ///< where the file system keeps it
  file_identity identity;
};

enum class clone_method : unsigned char {
  /// The copy shares blocks with the original until one of them is written.
  reflink,
  /// Bytes were copied.
  copy,
};

struct clone_options {
  unsigned permissions = 0600;
  /// Of the copy's bytes and its name, before the call returns.
  durability level = durability::none;
};

/// An open file, by handle: after the open nothing depends on its path or on the working directory, except `remove`.
///
/// The descriptor is closed on exec. Offsets and sizes are in bytes and may pass 2^32.
///
/// Thread safety: const members may be called from several threads at once; others need exclusive use of the object.
/// Fork: the child's handle refers to the same open file description, whose offset no call uses for a regular file; each
/// process closes its own. Exec: the descriptor is closed. Exit without destruction: nothing is synced. What a child of a
/// process with several threads may call is in docs/processes.md.
class file {
public:
  /// Opens the file at `path`.
  ///
  /// Errors: `errc::not_a_regular_file`, `errc::symbolic_link`, `errc::invalid_options`, or what open(2) reports.
  [[nodiscard]] static auto open(std::filesystem::path const& path, open_options options = {}) -> result<file>;

  /// Opens `path` from the directory that `directory` is a handle of, opened with `any_type`.
  ///
  /// Errors: as `open`; `std::errc::not_a_directory`.
  [[nodiscard]] static auto open_at(file const& directory, std::filesystem::path const& path, open_options options = {})
      -> result<file>;

  /// Creates a file that must not exist yet, for reading and writing. `options.access` and `options.create` are implied.
  ///
  /// Errors: `std::errc::file_exists`, or as `open`. A failed call leaves no file.
  [[nodiscard]] static auto create_new(std::filesystem::path const& path, open_options options = {}) -> result<file>;

  /// Creates a file without a name on the file system of `directory`; it is gone when its last handle is, in whichever
  /// process.
  ///
  /// Errors: what open(2) reports.
  [[nodiscard]] static auto temporary(std::filesystem::path const& directory) -> result<file>;

  /// Creates a file in memory. `name` shows up in /proc only.
  ///
  /// Errors: what memfd_create(2) reports. Such a file cannot be made durable: `sync` is `errc::not_durable`.
  [[nodiscard]] static auto in_memory(std::string_view name, memory_options options = {}) -> result<file>;

  /// Takes over an open descriptor and sets it to close on exec. `path` is what errors call it.
  ///
  /// Errors: `errc::not_a_regular_file` unless `any_type`; `errc::invalid_options` for a descriptor in append mode, where
  /// writes would not go where they are told. After an error the descriptor is still the caller's.
  [[nodiscard]] static auto adopt(int descriptor, std::string_view path = {}, bool any_type = false) -> result<file>;

  /// A handle to nothing, as is one that was moved from or closed: what is called on it is `errc::closed`.
  file() noexcept = default;
  file(file&& other) noexcept = default;
  auto operator=(file&& other) noexcept -> file& = default;
  ~file() = default;

  [[nodiscard]] inline auto is_open() const noexcept -> bool { return static_cast<bool>(state_); }

  /// As it was opened; empty for a file without a name.
  [[nodiscard]] auto path() const noexcept -> std::string_view;

  [[nodiscard]] auto identity() const noexcept -> file_identity;

  /// `access::read_only` or `access::read_write`.
  [[nodiscard]] auto access() const noexcept -> fmmap::access;

  /// The descriptor, still this handle's; -1 when closed. That of a regular file may carry O_NONBLOCK, which Linux does not
  /// heed in its reads and writes.
  [[nodiscard]] auto native_handle() const noexcept -> int;

  /// The size now, whoever changed it.
  [[nodiscard]] auto size() const -> result<std::uint64_t>;

  [[nodiscard]] auto metadata() const -> result<file_metadata>;

  /// Makes the file `size` bytes long. New bytes read as zero and have no blocks behind them: see `allocate`.
  ///
  /// Errors: `errc::read_only`, or what ftruncate(2) reports; the file is then as before.
  [[nodiscard]] auto resize(std::uint64_t size) -> result<void>;

  /// Puts real blocks behind `range`, growing the file to its end: a later write there cannot fail for want of space on
  /// file systems that write in place (docs/durability.md says which).
  ///
  /// Where the file system cannot allocate, zeros are written into the holes instead; where it does not tell its holes
  /// either, over every page that reads as zero. Nobody may write the range meanwhile there.
  ///
  /// Errors: `errc::read_only`; `errc::out_of_range` when the numbers of `range` overflow;
  /// `std::errc::no_space_on_device` and what fallocate(2) reports. The size is then as before, unless somebody else has
  /// made the file longer meanwhile: what others write is not cut off.
  [[nodiscard]] auto allocate(byte_range range) -> result<void>;

  /// Gives the blocks behind `range` back; its bytes read as zero. The size stays, and a range past the end is cut.
  ///
  /// Errors: `errc::read_only`, or what fallocate(2) reports.
  [[nodiscard]] auto punch_hole(byte_range range) -> result<void>;

  /// The parts of `range` that hold data, in order; the rest are holes. Without support by the file system all is data.
  ///
  /// Errors: `errc::out_of_range` when `range` reaches past the end, or what lseek(2) reports.
  [[nodiscard]] auto data_ranges(byte_range range = whole) const -> result<std::vector<byte_range>>;

  /// Copies the file to `path`, which must not exist, sharing blocks where the file system can. The copy is as long as
  /// what could be read: shorter than `size` said for a file of sysfs, or for one that is made shorter meanwhile.
  ///
  /// Returns how. Errors: `std::errc::file_exists`; `std::errc::operation_not_permitted` where the file system has no hard
  /// links; `std::errc::device_or_resource_busy` as `replace_file`; or what the system reports. No file is then left at
  /// `path`.
  [[nodiscard]] auto clone_to(std::filesystem::path const& path, clone_options options = {}) const
      -> result<clone_method>;

  /// Reads bytes from `offset` on. Returns how many: fewer than asked only at the end of the file.
  [[nodiscard]] auto read_at(std::uint64_t offset, std::span<std::byte> bytes) const -> result<std::size_t>;

  /// Writes all of `bytes` at `offset`, growing the file where they reach past its end. A gap between the end and `offset`
  /// reads as zero, whatever has been stored there through a mapping of the last page.
  ///
  /// Errors: `errc::read_only`, or what pwrite(2) reports. The error's range is what was not written; what lies before it
  /// was, a part of the gap as zeros included.
  [[nodiscard]] auto write_at(std::uint64_t offset, std::span<std::byte const> bytes) -> result<void>;

  /// Brings the file's bytes to at least `level` and returns the level reached.
  ///
  /// Blocks until done. A failure is sticky: every later sync and flush of this open file, through mappings too, reports
  /// the first error again until `rewrite` has written what may be lost.
  ///
  /// Fork: both processes remember a failure from before. A later one only the process that met it does, and the system tells
  /// but one of the two: let one process sync. Exec: forgotten.
  ///
  /// Errors: `errc::not_durable` for a file in memory; `std::errc::io_error`, `std::errc::no_space_on_device` and what
  /// else the system reports. Source: fsync(2).
  [[nodiscard]] auto sync(durability level = durability::data) -> result<durability>;

  /// Writes the bytes of `range` again as they read now and syncs them, and with that ends what a failed sync began, as
  /// far as `range` goes. Holes stay holes. Nobody may write the bytes meanwhile; `mapping::rewrite` has no such limit.
  ///
  /// Where the file system has lost track of which blocks it has written (ext4 does, of allocated ones), they are written
  /// past the page cache, from a copy in memory.
  ///
  /// Errors: as `write_at` and `sync`; the file stays failed.
  [[nodiscard]] auto rewrite(byte_range range = whole) -> result<durability>;

  /// Removes the file's present name, makes that durable, and leaves the file open. Other hard links stay.
  ///
  /// The name is looked up from the handle, so a rename or a change of the working directory since the open does not
  /// matter. May be called again after a failure: it goes on from where it failed.
  ///
  /// Errors: `errc::symbolic_link` when it was opened by a path that ended in one; `errc::path_reused` when the name now belongs
  /// to another file; `std::errc::no_such_file_or_directory` when the file has no name; what the system reports.
  [[nodiscard]] auto remove() -> result<void>;

  /// Refuses for good what `seals` names. Errors: what fcntl(F_ADD_SEALS) reports.
  [[nodiscard]] auto seal(file_seals seals) -> result<void>;

  [[nodiscard]] auto seals() const -> result<file_seals>;

  /// Gives the descriptor up to the caller, without O_NONBLOCK unless it was adopted with it.
  ///
  /// What only the handle knows is not lost with it: a failed sync that no `rewrite` has made good is reported again, and a
  /// `remove` that could not be made durable is made so.
  ///
  /// Errors: `errc::in_use` while a mapping, view or job shares it; as `sync` and `remove`; what fcntl(2) reports. After an
  /// error it is still the handle's.
  [[nodiscard]] auto release() -> result<int>;

  /// Closes the handle and reports what close(2) does. Nothing is synced. While mappings, views or jobs share the
  /// descriptor it stays open until the last of them goes.
  [[nodiscard]] auto close() -> result<void>;

private:
  friend handle_access;
  inline explicit file(counted<open_file> state) noexcept : state_{std::move(state)} {}

  counted<open_file> state_;
};

struct replace_options {
  /// Of the new bytes and, from `durability::data` on, of the name.
  durability level = durability::data;
  /// Of a file that did not exist; one that did keeps its permissions and owner.
  unsigned permissions = 0600;
};

/// Replaces the content of `path` in one step: readers see the old file or the new one, whole, and so does whoever looks
/// after a crash.
///
/// `fill` is given the new content, `size` zero bytes with blocks behind them. A symbolic link is followed. Open handles
/// keep the old content. A crash in the middle leaves the old file, and may leave one called .NAME.fmmap-new; the next call
/// for the same path clears that. Where something has this name that is not such a file, or that may not be removed, or that
/// another call is still filling, a number is appended; what a crash leaves under that name is cleared by the next call that
/// comes to it.
///
/// Fork: a child forked in `fill` shares its bytes and must not return from it. Exec, exit in `fill`: as a crash.
///
/// Errors: `errc::not_a_regular_file` when `path` leads to something else; `std::errc::no_space_on_device`;
/// `std::errc::operation_not_permitted` when the owner cannot be kept; `std::errc::device_or_resource_busy` when a hundred
/// such names are taken; and what else the system reports. The old file is then untouched. What `fill` throws passes
/// through, and nothing is replaced.
[[nodiscard]] auto replace_file(std::filesystem::path const& path, std::size_t size,
                                std::function<void(std::span<std::byte>)> const& fill, replace_options options = {})
    -> result<void>;

} // namespace fmmap

template <>
struct std::hash<fmmap::file_identity> {
  inline auto operator()(fmmap::file_identity const& id) const noexcept -> std::size_t {
    return std::hash<std::uint64_t>{}(id.inode ^ (id.device * 0x9e37'79b9'7f4a'7c15));
  }
};
