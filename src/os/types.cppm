// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>

// The types and values that system calls are spoken of in.
export module fmmap.os:types;

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
// a FIFO or for a lease unless `wait`) are added by the call.
struct open_flags {
  bool write = false;
  bool create = false;
  bool exclusive = false;
  bool unnamed = false; // O_TMPFILE
  bool wait = false;
  bool directory = false;
  bool path_only = false;   // O_PATH
  bool no_follow = false;   // the last component only
  bool no_symlinks = false; // any component: open_resolved only
  bool beneath = false;     // open_resolved only
  bool direct = false;      // O_DIRECT: past the page cache
  bool append = false;      // whatever is written goes to the end
};

inline constexpr unsigned seal_seal = 1;
inline constexpr unsigned seal_shrink = 2;
inline constexpr unsigned seal_grow = 4;
inline constexpr unsigned seal_write = 8;
inline constexpr unsigned seal_future_write = 16;

// A part of a file that has blocks.
struct file_extent {
  std::uint64_t begin;
  std::uint64_t end;
  bool unwritten; // reads as zero, whatever is in the blocks
};

struct protection {
  bool read = true;
  bool write = false;
  bool execute = false;
};

// How often memory was asked for that is writable and executable at once.
inline constinit std::atomic<std::uint64_t> asked_for_writable_code{0};

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

// What a lock of a file keeps out: exclusive ones, or all.
enum class locking : unsigned char { shared, exclusive };

// Bytes of a file that a lock is about.
struct lock_range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0; // 0: to the end, wherever that is

  auto operator==(lock_range const&) const -> bool = default;
};

// A lock that is in the way of another.
struct lock_in_the_way {
  locking mode;
  lock_range range;
  int process; // -1 for one of an open file description
};

// The first two numbers of a version, 6.12.
struct system_version {
  unsigned major;
  unsigned minor;

  auto operator<=>(system_version const&) const = default;
};

// What is asked of pages by PAGEMAP_SCAN, in values of `page_category`: those that have all of `all` and one of `any`, where
// `inverted` ones count as had when they are not. Runs are told apart by what they have of `reported`.
struct page_scan {
  std::uint64_t inverted = 0;
  std::uint64_t all = 0;
  std::uint64_t any = 0; // 0: need not have one
  std::uint64_t reported = 0;
  bool only_tracked = false; // an error where the memory is not registered for asynchronous write protection
  bool protect = false;      // protects what it finds
};

// Pages from one address to another, as PAGEMAP_SCAN writes it.
struct page_run {
  std::uint64_t begin;
  std::uint64_t end;
  std::uint64_t categories;
};

// How many runs a scan has found, and how far it has come.
struct scan_progress {
  std::size_t runs;
  std::uint64_t end;
};

// Bytes of a range of a file's page cache (cachestat, Linux 6.5).
struct cache_status {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
};

} // namespace fmmap::os

// Values of PAGEMAP_SCAN.
export namespace fmmap::os::page_category {
inline constexpr std::uint64_t written = 2; // not write-protected by userfaultfd
inline constexpr std::uint64_t of_file = 4; // or of shared anonymous memory
inline constexpr std::uint64_t present = 8;
inline constexpr std::uint64_t swapped = 16;
} // namespace fmmap::os::page_category

// Values of madvise(2), which name what fmmap::advice means.
export namespace fmmap::os::advice_value {
inline constexpr int normal = 0;
inline constexpr int random = 1;
inline constexpr int sequential = 2;
inline constexpr int will_need = 3;
inline constexpr int dont_need = 4;
inline constexpr int dont_need_locked = 24; // from Linux 5.18 on
inline constexpr int remove = 9;            // destructive, like dont_need of private memory
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
inline constexpr int guard_install = 102;
} // namespace fmmap::os::advice_value
