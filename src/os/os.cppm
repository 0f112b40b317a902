// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

// The one place where fmmap calls the system.
//
// An internal module: implementation units import it, interface units never do. Every function is one system call with
// the types a caller wants, plus what the kernel headers of older systems do not declare. Nothing here retries, falls
// back or interprets: what a failure means is for the caller to decide.
//
// The installed library calls straight through. Tests link a second build, in which every call passes the table of
// invoke_table.cppm and can be counted, failed, shortened, delayed, killed at, recorded or declared absent.
export module fmmap.os;

export import :calls;
export import :invoke;
export import :pages;

export namespace fmmap::os {

using descriptor = int;

inline constexpr descriptor no_descriptor = -1;
inline constexpr descriptor working_directory = -100;      // AT_FDCWD
inline constexpr std::uint64_t largest_offset = INT64_MAX; // the system's offsets are signed

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

struct timestamp {
  std::int64_t seconds;
  std::uint32_t nanoseconds;
};

struct file_status {
  std::uint64_t device;
  std::uint64_t inode;
  std::uint64_t size;
  std::uint64_t allocated; // bytes
  std::uint64_t links;
  std::uint64_t block_size;
  timestamp accessed, modified, changed;
  std::uint32_t permissions, owner, group;
  file_type type;
};

// What a descriptor was opened for.
struct descriptor_access {
  bool read;
  bool write;
  bool append = false;
};

// What an open asks for; the flags every open of fmmap carries (close-on-exec, no controlling terminal, no blocking on
// a FIFO) are added by the call.
struct open_flags {
  bool write = false;
  bool create = false;
  bool exclusive = false;
  bool unnamed = false; // O_TMPFILE
  bool directory = false;
  bool path_only = false;   // O_PATH
  bool no_follow = false;   // the last component only
  bool no_symlinks = false; // any component: open_resolved only
  bool beneath = false;     // open_resolved only
};

auto open(descriptor directory, char const* path, open_flags flags, unsigned permissions) noexcept
    -> outcome<descriptor>;
auto open_resolved(descriptor directory, char const* path, open_flags flags, unsigned permissions) noexcept
    -> outcome<descriptor>; // openat2
auto close(descriptor file) noexcept -> outcome<void>;
auto status(descriptor file) noexcept -> outcome<file_status>;
auto is_huge_page_file(descriptor file) noexcept -> outcome<bool>; // on hugetlbfs
auto status_at(descriptor directory, char const* path, bool follow) noexcept -> outcome<file_status>;
auto access_of(descriptor file) noexcept -> outcome<descriptor_access>;
auto set_blocking(descriptor file) noexcept -> outcome<void>;
auto set_close_on_exec(descriptor file) noexcept -> outcome<void>;
auto device_size(descriptor file) noexcept -> outcome<std::uint64_t>;
auto set_size(descriptor file, std::uint64_t size) noexcept -> outcome<void>;
auto set_permissions(descriptor file, unsigned permissions) noexcept -> outcome<void>;
auto set_owner(descriptor file, std::uint32_t owner, std::uint32_t group) noexcept -> outcome<void>;
auto allocate(descriptor file, std::uint64_t offset, std::uint64_t length, bool keep_size) noexcept -> outcome<void>;
auto punch_hole(descriptor file, std::uint64_t offset, std::uint64_t length) noexcept -> outcome<void>;
auto next_data(descriptor file, std::uint64_t offset) noexcept -> outcome<std::uint64_t>;
auto next_hole(descriptor file, std::uint64_t offset) noexcept -> outcome<std::uint64_t>;
auto clone(descriptor to, descriptor from) noexcept -> outcome<void>; // FICLONE
auto copy_range(descriptor from, std::uint64_t from_offset, descriptor to, std::uint64_t to_offset,
                std::size_t length) noexcept -> outcome<std::size_t>;
auto wait_readable(descriptor file) noexcept -> outcome<void>; // poll, without a limit; the end of a pipe counts
auto read(descriptor file, std::span<std::byte> bytes) noexcept -> outcome<std::size_t>;
auto read_at(descriptor file, std::uint64_t offset, std::span<std::byte> bytes) noexcept -> outcome<std::size_t>;
auto write_at(descriptor file, std::uint64_t offset, std::span<std::byte const> bytes) noexcept -> outcome<std::size_t>;
auto sync(descriptor file) noexcept -> outcome<void>;
auto sync_data(descriptor file) noexcept -> outcome<void>;
auto sync_range(descriptor file, std::uint64_t offset, std::uint64_t length, bool wait) noexcept -> outcome<void>;
auto read_link(descriptor directory, char const* path, std::span<char> target) noexcept -> outcome<std::size_t>;
auto link_descriptor(descriptor file, descriptor directory, char const* name) noexcept -> outcome<void>;
auto rename(descriptor directory, char const* from, char const* to) noexcept -> outcome<void>;
auto unlink(descriptor directory, char const* name) noexcept -> outcome<void>;
auto try_lock_file(descriptor file) noexcept -> outcome<void>; // flock, exclusive, not waiting

auto memory_file(char const* name, bool sealable) noexcept -> outcome<descriptor>;
auto seals(descriptor file) noexcept -> outcome<unsigned>;
auto add_seals(descriptor file, unsigned seals) noexcept -> outcome<void>;

inline constexpr unsigned seal_seal = 1;
inline constexpr unsigned seal_shrink = 2;
inline constexpr unsigned seal_grow = 4;
inline constexpr unsigned seal_write = 8;
inline constexpr unsigned seal_future_write = 16;

struct protection {
  bool read = true;
  bool write = false;
  bool execute = false;
};

struct map_flags {
  bool shared = true;
  bool anonymous = false;
  bool stack = false;
  bool populate = false;
  bool no_reserve = false;
  bool huge = false;    // MAP_HUGETLB
  bool replace = false; // MAP_FIXED: over a reservation of the caller's own
  bool exactly = false; // MAP_FIXED_NOREPLACE: at the address or not at all
};

auto map(void* address, std::size_t length, protection access, map_flags flags, descriptor file,
         std::uint64_t offset) noexcept -> outcome<std::byte*>;
auto move_map(void* from, std::size_t length, void* to) noexcept -> outcome<void>; // mremap, over what is at `to`
auto unmap(void* address, std::size_t length) noexcept -> outcome<void>;
auto protect(void* address, std::size_t length, protection access) noexcept -> outcome<void>;
auto advise(void* address, std::size_t length, int advice) noexcept -> outcome<void>;
auto sync_memory(void* address, std::size_t length) noexcept -> outcome<void>; // msync(MS_SYNC)
auto resident_pages(void* address, std::size_t length, unsigned char* pages) noexcept -> outcome<void>;
auto lock_memory(void* address, std::size_t length, bool on_fault) noexcept -> outcome<void>;
auto unlock_memory(void* address, std::size_t length) noexcept -> outcome<void>;
auto locked_memory_limit() noexcept -> outcome<std::uint64_t>; // RLIMIT_MEMLOCK, UINT64_MAX when unlimited

// Bytes of a range of a file's page cache (cachestat, Linux 6.5).
struct cache_status {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
};

auto cache(descriptor file, std::uint64_t offset, std::uint64_t length) noexcept -> outcome<cache_status>;

// The system's page size in bytes, read once.
auto page_size() noexcept -> std::size_t;

} // namespace fmmap::os

// Values of madvise(2), which name what fmmap::advice means.
export namespace fmmap::os::advice_value {
inline constexpr int normal = 0;
inline constexpr int random = 1;
inline constexpr int sequential = 2;
inline constexpr int will_need = 3;
inline constexpr int dont_need = 4;
inline constexpr int remove = 9; // destructive, like dont_need of private memory
inline constexpr int dont_fork = 10;
inline constexpr int do_fork = 11;
inline constexpr int mergeable = 12;
inline constexpr int unmergeable = 13;
inline constexpr int huge_page = 14;
inline constexpr int no_huge_page = 15;
inline constexpr int dont_dump = 16;
inline constexpr int do_dump = 17;
inline constexpr int wipe_on_fork = 18;
inline constexpr int keep_on_fork = 19;
inline constexpr int cold = 20;
inline constexpr int page_out = 21;
inline constexpr int populate_read = 22;
inline constexpr int populate_write = 23;
inline constexpr int collapse = 25;
} // namespace fmmap::os::advice_value
