// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <expected>
#include <iterator>
#include <limits>
#include <new>
#include <optional>
#include <span>

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/mman.h>
#include <linux/openat2.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

// The system calls of Linux. Every function is one of them with the types a caller wants, plus what the kernel headers of
// older systems do not declare. Nothing here retries, falls back or interprets: what a failure means is for the caller to
// decide. All are inline: after a system call the processor has forgotten what it knew of the program's calls and returns,
// and each one saved shows in what opening a file costs.
export module fmmap.os:system;

import :calls;
import :invoke;
import :types;

namespace fmmap::os {

// Newer than Debian 12's kernel headers.
inline constexpr unsigned mfd_noexec_seal = 8;
inline constexpr long number_of_cachestat = 451;

inline constexpr std::uint64_t uffd_feature_wp_async = 1U << 15U;
inline constexpr std::uint64_t pm_scan_wp_matching = 1;
inline constexpr std::uint64_t pm_scan_check_wpasync = 2;

struct pm_scan_arg {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

inline constexpr unsigned long pagemap_scan = _IOWR('f', 16, pm_scan_arg);

struct cachestat_range {
  std::uint64_t offset, length;
};

struct cachestat_counts { // pages
  std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

template <class T>
auto without_value(outcome<T> const& done) noexcept -> outcome<void> {
  if (!done) {
    return std::unexpected(done.error());
  }
  return {};
}

template <class Call>
auto perform(call which, Call real, subject about = {}) noexcept -> outcome<void> {
  return without_value(invoke(which, real, about));
}

// Offsets the system's signed type cannot hold would turn negative in the call.
inline auto too_large(std::uint64_t offset) noexcept -> bool {
  return offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
}

inline auto type_of(mode_t mode) noexcept -> file_type {
  if (S_ISREG(mode)) [[likely]] { // not by the switch, whose jump is guessed wrong after a system call
    return file_type::regular;
  }
  switch (mode & S_IFMT) {
  case S_IFDIR:
    return file_type::directory;
  case S_IFLNK:
    return file_type::symlink;
  case S_IFIFO:
    return file_type::fifo;
  case S_IFSOCK:
    return file_type::socket;
  case S_IFBLK:
    return file_type::block_device;
  case S_IFCHR:
    return file_type::character_device;
  default:
    return file_type::other;
  }
}

inline auto time_of(timespec const& t) noexcept -> timestamp {
  return {.seconds = t.tv_sec, .nanoseconds = static_cast<std::uint32_t>(t.tv_nsec)};
}

inline auto status_of(struct stat const& s) noexcept -> file_status {
  return {
      .device = s.st_dev,
      .inode = s.st_ino,
      .size = static_cast<std::uint64_t>(s.st_size),
      .allocated = static_cast<std::uint64_t>(s.st_blocks) * 512, // stat(2): always units of 512
      .links = s.st_nlink,
      .block_size = static_cast<std::uint64_t>(s.st_blksize),
      .accessed = time_of(s.st_atim),
      .modified = time_of(s.st_mtim),
      .changed = time_of(s.st_ctim),
      .permissions = s.st_mode & 07777U,
      .owner = s.st_uid,
      .group = s.st_gid,
      .type = type_of(s.st_mode),
  };
}

inline auto flags_of(open_flags wanted) noexcept -> int {
  // O_NONBLOCK: opening a FIFO must not wait for its other end. Of a regular file it means that an open does not wait for
  // whoever holds a lease on it. openat2 takes neither with O_PATH.
  int flags = O_CLOEXEC;
  flags |= wanted.path_only ? O_PATH : O_NOCTTY | (wanted.write ? O_RDWR : O_RDONLY);
  flags |= wanted.path_only || wanted.wait ? 0 : O_NONBLOCK;
  flags |= wanted.create ? O_CREAT : 0;
  flags |= wanted.exclusive ? O_EXCL : 0;
  flags |= wanted.unnamed ? O_TMPFILE : 0;
  flags |= wanted.directory ? O_DIRECTORY : 0;
  flags |= wanted.no_follow ? O_NOFOLLOW : 0;
  flags |= wanted.direct ? O_DIRECT : 0;
  flags |= wanted.append ? O_APPEND : 0;
  return flags;
}

inline auto protection_of(protection access) noexcept -> int {
  return (access.read ? PROT_READ : PROT_NONE) | (access.write ? PROT_WRITE : 0) | (access.execute ? PROT_EXEC : 0);
}

// Such memory is refused here, whoever asks for it.
inline auto is_writable_code(protection access) noexcept -> bool {
  auto const refused = access.write && access.execute;
  if (refused) [[unlikely]] {
    ++asked_for_writable_code;
  }
  return refused;
}

inline auto change_blocks(descriptor file, int mode, std::uint64_t offset, std::uint64_t length) noexcept
    -> outcome<void> {
  if (too_large(offset) || too_large(length)) {
    return std::unexpected(EFBIG);
  }
  // The system call, not posix_fallocate, which writes a byte into every block where the file system cannot allocate.
  return perform(call::fallocate,
                 [&] { return ::fallocate(file, mode, static_cast<off_t>(offset), static_cast<off_t>(length)); });
}

// Callers keep to ranges whose ends the system's type can hold.
inline auto lock_description(short type, lock_range bytes) noexcept -> struct flock {
  struct flock description{};
  description.l_type = type;
  description.l_whence = SEEK_SET;
  description.l_start = static_cast<off_t>(bytes.offset);
  description.l_len = static_cast<off_t>(bytes.length);
  return description;
}

inline auto
set_lock(descriptor file, short type, lock_range bytes, bool wait) noexcept -> outcome<void> {
  auto description = lock_description(type, bytes);
  return perform(call::fcntl, [&] { return ::fcntl(file, wait ? F_OFD_SETLKW : F_OFD_SETLK, &description); });
}

inline auto seek(descriptor file, std::uint64_t offset, int whence) noexcept -> outcome<std::uint64_t> {
  if (too_large(offset)) {
    return std::unexpected(ENXIO); // lseek(2): the offset is beyond the end of the file
  }
  auto const found = invoke(call::lseek, [&] { return ::lseek(file, static_cast<off_t>(offset), whence); });
  return found ? outcome<std::uint64_t>{static_cast<std::uint64_t>(*found)} : std::unexpected(found.error());
}

} // namespace fmmap::os

export namespace fmmap::os {

inline auto open(descriptor directory, char const* path, open_flags flags, unsigned permissions) noexcept
    -> outcome<descriptor> {
  return invoke(call::openat, [&] { return ::openat(directory, path, flags_of(flags), permissions); });
}

// Opens once more what a descriptor refers to, by way of /proc.
inline auto reopen(descriptor file, open_flags flags) noexcept -> outcome<descriptor> {
  char source[32];
  std::snprintf(source, sizeof source, "/proc/self/fd/%d", file);
  return invoke(call::openat, [&] { return ::openat(AT_FDCWD, source, flags_of(flags)); });
}

// openat2(2).
inline auto open_resolved(descriptor directory, char const* path, open_flags flags, unsigned permissions) noexcept
    -> outcome<descriptor> {
  auto const opening = static_cast<unsigned>(flags_of(flags));
  open_how how{};
  how.flags = opening;
  how.mode = (opening & static_cast<unsigned>(O_CREAT)) != 0 ? permissions : 0;
  how.resolve = (flags.no_symlinks ? RESOLVE_NO_SYMLINKS : 0U) | (flags.beneath ? RESOLVE_BENEATH : 0U);
  return invoke(call::openat2,
                [&] { return static_cast<int>(::syscall(SYS_openat2, directory, path, &how, sizeof how)); });
}

inline auto close(descriptor file) noexcept -> outcome<void> {
  return perform(call::close, [&] { return ::close(file); });
}

// Since its version 2.33 the C library asks for the status of an empty path, which takes the kernel a tenth longer. Where
// both have one structure, the older call does as well.
inline auto kernel_fstat(descriptor file, struct stat& s) noexcept -> int {
#if defined(__x86_64__) || defined(__aarch64__)
  return static_cast<int>(::syscall(SYS_fstat, file, &s));
#else
  return ::fstat(file, &s);
#endif
}

inline auto status(descriptor file) noexcept -> outcome<file_status> {
  struct stat s{};
  auto const done = invoke(call::fstat, [&] { return kernel_fstat(file, s); });
  return done ? outcome<file_status>{status_of(s)} : std::unexpected(done.error());
}

// Whether the file is on hugetlbfs.
inline auto is_huge_page_file(descriptor file) noexcept -> outcome<bool> {
  struct statfs s{};
  auto const done = invoke(call::fstatfs, [&] { return ::fstatfs(file, &s); });
  return done ? outcome<bool>{s.f_type == HUGETLBFS_MAGIC} : std::unexpected(done.error());
}

inline auto status_at(descriptor directory, char const* path, bool follow) noexcept -> outcome<file_status> {
  struct stat s{};
  auto const done =
      invoke(call::fstatat, [&] { return ::fstatat(directory, path, &s, follow ? 0 : AT_SYMLINK_NOFOLLOW); });
  return done ? outcome<file_status>{status_of(s)} : std::unexpected(done.error());
}

// When the file was created, where its file system keeps that.
inline auto birth_time(descriptor file) noexcept -> outcome<std::optional<timestamp>> {
  struct statx s{};
  auto const done =
      invoke(call::statx, [&] { return ::statx(file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BTIME, &s); });
  if (!done) {
    return std::unexpected(done.error());
  }
  if ((s.stx_mask & STATX_BTIME) == 0) {
    return std::nullopt;
  }
  return timestamp{.seconds = s.stx_btime.tv_sec, .nanoseconds = s.stx_btime.tv_nsec};
}

inline auto access_of(descriptor file) noexcept -> outcome<descriptor_access> {
  auto const flags = invoke(call::fcntl, [&] { return ::fcntl(file, F_GETFL); });
  if (!flags) {
    return std::unexpected(flags.error());
  }
  if ((*flags & O_PATH) != 0) {
    return descriptor_access{.read = false, .write = false};
  }
  auto const mode = *flags & O_ACCMODE;
  return descriptor_access{.read = mode != O_WRONLY, .write = mode != O_RDONLY, .append = (*flags & O_APPEND) != 0};
}

inline auto set_blocking(descriptor file) noexcept -> outcome<void> {
  auto const flags = invoke(call::fcntl, [&] { return ::fcntl(file, F_GETFL); });
  if (!flags) {
    return std::unexpected(flags.error());
  }
  return perform(call::fcntl, [&] { return ::fcntl(file, F_SETFL, *flags & ~O_NONBLOCK); });
}

inline auto set_close_on_exec(descriptor file) noexcept -> outcome<void> {
  return perform(call::fcntl, [&] { return ::fcntl(file, F_SETFD, FD_CLOEXEC); });
}

inline auto device_size(descriptor file) noexcept -> outcome<std::uint64_t> {
  std::uint64_t bytes = 0;
  auto const done = invoke(call::ioctl, [&] { return ::ioctl(file, BLKGETSIZE64, &bytes); });
  return done ? outcome<std::uint64_t>{bytes} : std::unexpected(done.error());
}

inline auto set_size(descriptor file, std::uint64_t size) noexcept -> outcome<void> {
  if (too_large(size)) {
    return std::unexpected(EFBIG);
  }
  return perform(call::ftruncate, [&] { return ::ftruncate(file, static_cast<off_t>(size)); });
}

inline auto set_permissions(descriptor file, unsigned permissions) noexcept -> outcome<void> {
  return perform(call::fchmod, [&] { return ::fchmod(file, permissions); });
}

inline auto set_owner(descriptor file, std::uint32_t owner, std::uint32_t group) noexcept -> outcome<void> {
  return perform(call::fchown, [&] { return ::fchown(file, owner, group); });
}

inline auto allocate(descriptor file, std::uint64_t offset, std::uint64_t length, bool keep_size) noexcept
    -> outcome<void> {
  return change_blocks(file, keep_size ? FALLOC_FL_KEEP_SIZE : 0, offset, length);
}

inline auto punch_hole(descriptor file, std::uint64_t offset, std::uint64_t length) noexcept -> outcome<void> {
  return change_blocks(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

inline auto next_data(descriptor file, std::uint64_t offset) noexcept -> outcome<std::uint64_t> {
  return seek(file, offset, SEEK_DATA);
}

inline auto next_hole(descriptor file, std::uint64_t offset) noexcept -> outcome<std::uint64_t> {
  return seek(file, offset, SEEK_HOLE);
}

// The first extent in [begin, end); an empty one at `end` where there is none (FS_IOC_FIEMAP).
inline auto next_extent(descriptor file, std::uint64_t begin, std::uint64_t end) noexcept -> outcome<file_extent> {
  alignas(fiemap) std::array<std::byte, sizeof(fiemap) + sizeof(fiemap_extent)> room{};
  auto* const request = ::new (room.data()) fiemap;
  request->fm_flags = 0;
  request->fm_reserved = 0;
  request->fm_mapped_extents = 0;
  request->fm_start = begin;
  request->fm_length = end - begin;
  request->fm_extent_count = 1;
  auto const done = invoke(call::ioctl, [&] { return ::ioctl(file, FS_IOC_FIEMAP, request); });
  if (!done) {
    return std::unexpected(done.error());
  }
  if (request->fm_mapped_extents == 0) {
    return file_extent{.begin = end, .end = end, .unwritten = false};
  }
  fiemap_extent extent{};
  std::memcpy(&extent, room.data() + sizeof(fiemap), sizeof extent);
  return file_extent{.begin = extent.fe_logical,
                     .end = extent.fe_logical + extent.fe_length,
                     .unwritten = (extent.fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0};
}

// Lets go of what is in memory of a range, where nobody maps it and it has been written back; the length 0 is up to the end.
inline auto drop_cached(descriptor file, std::uint64_t offset, std::uint64_t length) noexcept -> outcome<void> {
  return perform(call::posix_fadvise, [&] {
    errno = ::posix_fadvise(file, static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_DONTNEED);
    return errno == 0 ? 0 : -1;
  });
}

// By FICLONE: both files share the blocks.
inline auto clone(descriptor to, descriptor from) noexcept -> outcome<void> {
  return perform(call::ioctl, [&] { return ::ioctl(to, FICLONE, from); });
}

inline auto copy_range(descriptor from, std::uint64_t from_offset, descriptor to, std::uint64_t to_offset,
                       std::size_t length) noexcept -> outcome<std::size_t> {
  return invoke_transfer(call::copy_file_range, length, [&](std::size_t allowed) {
    auto source = static_cast<off64_t>(from_offset);
    auto target = static_cast<off64_t>(to_offset);
    return ::copy_file_range(from, &source, to, &target, allowed, 0);
  });
}

// poll(2), without a limit; the end of a pipe counts.
inline auto wait_readable(descriptor file) noexcept -> outcome<void> {
  pollfd waiting{.fd = file, .events = POLLIN, .revents = 0};
  return perform(call::poll, [&] { return ::poll(&waiting, 1, -1); });
}

inline auto read(descriptor file, std::span<std::byte> bytes) noexcept -> outcome<std::size_t> {
  return invoke_transfer(call::read, bytes.size(),
                         [&](std::size_t allowed) { return ::read(file, bytes.data(), allowed); });
}

inline auto read_at(descriptor file, std::uint64_t offset, std::span<std::byte> bytes) noexcept
    -> outcome<std::size_t> {
  return invoke_transfer(call::pread, bytes.size(), [&](std::size_t allowed) {
    return ::pread(file, bytes.data(), allowed, static_cast<off_t>(offset));
  });
}

// Where the descriptor stands, or at the end.
inline auto write(descriptor file, std::span<std::byte const> bytes) noexcept -> outcome<std::size_t> {
  return invoke_transfer(call::write, bytes.size(),
                         [&](std::size_t allowed) { return ::write(file, bytes.data(), allowed); });
}

inline auto write_at(descriptor file, std::uint64_t offset, std::span<std::byte const> bytes) noexcept
    -> outcome<std::size_t> {
  return invoke_transfer(call::pwrite, bytes.size(), [&](std::size_t allowed) {
    return ::pwrite(file, bytes.data(), allowed, static_cast<off_t>(offset));
  });
}

// The same, and what was written is durable when it returns, with the size where that has grown.
inline auto write_durably_at(descriptor file, std::uint64_t offset, std::span<std::byte const> bytes) noexcept
    -> outcome<std::size_t> {
  return invoke_transfer(call::pwritev2, bytes.size(),
                         [&](std::size_t allowed) {
                           iovec const part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = allowed};
                           return ::pwritev2(file, &part, 1, static_cast<off_t>(offset), RWF_DSYNC);
                         },
                         {.descriptor = file, .offset = offset, .length = bytes.size()});
}

inline auto sync(descriptor file) noexcept -> outcome<void> {
  return perform(call::fsync, [&] { return ::fsync(file); }, {.descriptor = file});
}

inline auto sync_data(descriptor file) noexcept -> outcome<void> {
  return perform(call::fdatasync, [&] { return ::fdatasync(file); }, {.descriptor = file});
}

// syncfs(2): all of the file system that the file is on.
inline auto sync_file_system(descriptor file) noexcept -> outcome<void> {
  return perform(call::syncfs, [&] { return ::syncfs(file); }, {.descriptor = file});
}

inline auto sync_range(descriptor file, std::uint64_t offset, std::uint64_t length, bool wait) noexcept
    -> outcome<void> {
  auto const flags = wait ? SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
                          : static_cast<unsigned>(SYNC_FILE_RANGE_WRITE);
  return perform(call::sync_file_range, [&] {
    return ::sync_file_range(file, static_cast<off64_t>(offset), static_cast<off64_t>(length), flags);
  });
}

inline auto read_link(descriptor directory, char const* path, std::span<char> target) noexcept -> outcome<std::size_t> {
  auto const length =
      invoke(call::readlinkat, [&] { return ::readlinkat(directory, path, target.data(), target.size()); });
  return length ? outcome<std::size_t>{static_cast<std::size_t>(*length)} : std::unexpected(length.error());
}

// What the system calls an open file.
inline auto read_name(descriptor file, std::span<char> name) noexcept -> outcome<std::size_t> {
  char source[32];
  std::snprintf(source, sizeof source, "/proc/self/fd/%d", file);
  return read_link(AT_FDCWD, source, name);
}

inline auto link_descriptor(descriptor file, descriptor directory, char const* name) noexcept -> outcome<void> {
  // open(2): AT_EMPTY_PATH needs a capability, the name under /proc does not.
  char source[32];
  std::snprintf(source, sizeof source, "/proc/self/fd/%d", file);
  return perform(call::linkat, [&] { return ::linkat(AT_FDCWD, source, directory, name, AT_SYMLINK_FOLLOW); });
}

inline auto rename(descriptor directory, char const* from, char const* to) noexcept -> outcome<void> {
  return perform(call::renameat, [&] { return ::renameat(directory, from, directory, to); });
}

// renameat2(2), RENAME_NOREPLACE.
inline auto rename_to_free(descriptor directory, char const* from, char const* to) noexcept -> outcome<void> {
  return perform(call::renameat2, [&] { return ::renameat2(directory, from, directory, to, RENAME_NOREPLACE); });
}

inline auto unlink(descriptor directory, char const* name) noexcept -> outcome<void> {
  return perform(call::unlinkat, [&] { return ::unlinkat(directory, name, 0); });
}

// flock(2). Without `wait`, a lock in the way is EWOULDBLOCK.
inline auto lock_file(descriptor file, locking mode, bool wait) noexcept -> outcome<void> {
  auto const operation = (mode == locking::exclusive ? LOCK_EX : LOCK_SH) | (wait ? 0 : LOCK_NB);
  return perform(call::flock, [&] { return ::flock(file, operation); });
}

inline auto unlock_file(descriptor file) noexcept -> outcome<void> {
  return perform(call::flock, [&] { return ::flock(file, LOCK_UN); });
}

// A lock of the open file description (F_OFD_SETLK). Without `wait`, a lock in the way is EAGAIN.
inline auto lock_bytes(descriptor file, locking mode, lock_range bytes, bool wait) noexcept -> outcome<void> {
  return set_lock(file, mode == locking::exclusive ? F_WRLCK : F_RDLCK, bytes, wait);
}

inline auto unlock_bytes(descriptor file, lock_range bytes) noexcept -> outcome<void> {
  return set_lock(file, F_UNLCK, bytes, false);
}

// One of the locks that an exclusive lock of `bytes` would have to wait for (F_OFD_GETLK); empty when there is none.
inline auto find_lock(descriptor file, lock_range bytes) noexcept -> outcome<std::optional<lock_in_the_way>> {
  auto found = lock_description(F_WRLCK, bytes);
  auto const done = invoke(call::fcntl, [&] { return ::fcntl(file, F_OFD_GETLK, &found); });
  if (!done) {
    return std::unexpected(done.error());
  }
  if (found.l_type == F_UNLCK) {
    return std::nullopt;
  }
  return lock_in_the_way{
      .mode = found.l_type == F_WRLCK ? locking::exclusive : locking::shared,
      .range = {.offset = static_cast<std::uint64_t>(found.l_start), .length = static_cast<std::uint64_t>(found.l_len)},
      .process = found.l_pid};
}

// As many entries of a directory as there is room for, as getdents64(2) lays them out; none at the end.
inline auto read_directory(descriptor directory, std::span<std::byte> entries) noexcept -> outcome<std::size_t> {
  auto const got =
      invoke(call::getdents64, [&] { return ::syscall(SYS_getdents64, directory, entries.data(), entries.size()); });
  return got ? outcome<std::size_t>{static_cast<std::size_t>(*got)} : std::unexpected(got.error());
}

inline auto memory_file(char const* name, bool sealable) noexcept -> outcome<descriptor> {
  auto const create = [&](unsigned extra) {
    return invoke(call::memfd_create,
                  [&] { return ::memfd_create(name, MFD_CLOEXEC | (sealable ? MFD_ALLOW_SEALING : 0U) | extra); });
  };
  // Linux 6.3; an older kernel refuses the flag it does not know.
  auto const sealed_against_exec = create(mfd_noexec_seal);
  return sealed_against_exec || sealed_against_exec.error() != EINVAL ? sealed_against_exec : create(0);
}

inline auto seals(descriptor file) noexcept -> outcome<unsigned> {
  auto const found = invoke(call::fcntl, [&] { return ::fcntl(file, F_GET_SEALS); });
  return found ? outcome<unsigned>{static_cast<unsigned>(*found)} : std::unexpected(found.error());
}

inline auto add_seals(descriptor file, unsigned seals) noexcept -> outcome<void> {
  return perform(call::fcntl, [&] { return ::fcntl(file, F_ADD_SEALS, seals); });
}

[[gnu::always_inline]] inline auto map(void* address, std::size_t length, protection access, map_flags flags,
                                       descriptor file, std::uint64_t offset) noexcept -> outcome<std::byte*> {
  if (too_large(offset)) {
    return std::unexpected(EOVERFLOW);
  }
  if (is_writable_code(access)) [[unlikely]] {
    return std::unexpected(EACCES);
  }
  int bits = flags.shared ? MAP_SHARED : MAP_PRIVATE;
  bits |= flags.anonymous ? MAP_ANONYMOUS : 0;
  bits |= flags.stack ? MAP_STACK : 0;
  bits |= flags.populate ? MAP_POPULATE : 0;
  bits |= flags.no_reserve ? MAP_NORESERVE : 0;
  bits |= flags.huge ? MAP_HUGETLB | MAP_HUGE_2MB : 0; // not the machine's default size
  bits |= flags.replace ? MAP_FIXED : 0;
  bits |= flags.exactly ? MAP_FIXED_NOREPLACE : 0;
  auto const placed = invoke(call::mmap, [&] [[gnu::always_inline]] { // MAP_FAILED is the address -1
    return reinterpret_cast<std::intptr_t>(
        ::mmap(address, length, protection_of(access), bits, file, static_cast<off_t>(offset)));
  });
  return placed ? outcome<std::byte*>{reinterpret_cast<std::byte*>(*placed)} : std::unexpected(placed.error());
}

// mremap(2), over what is at `to`.
inline auto move_map(void* from, std::size_t length, void* to) noexcept -> outcome<void> {
  return perform(call::mremap, [&] {
    return reinterpret_cast<std::intptr_t>(::mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to));
  });
}

inline auto unmap(void* address, std::size_t length) noexcept -> outcome<void> {
  return perform(call::munmap, [&] { return ::munmap(address, length); });
}

inline auto protect(void* address, std::size_t length, protection access) noexcept -> outcome<void> {
  if (is_writable_code(access)) [[unlikely]] {
    return std::unexpected(EACCES);
  }
  return perform(call::mprotect, [&] { return ::mprotect(address, length, protection_of(access)); });
}

inline auto advise(void* address, std::size_t length, int advice) noexcept -> outcome<void> {
  return perform(call::madvise, [&] { return ::madvise(address, length, advice); });
}

// membarrier(2), of the threads of this process: each executes a serializing instruction before it goes on.
inline auto register_to_synchronize_code() noexcept -> outcome<void> {
  return perform(call::membarrier,
                 [] { return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0); });
}

// EPERM before it is registered.
inline auto synchronize_code() noexcept -> outcome<void> {
  return perform(call::membarrier,
                 [] { return ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0); });
}

// Whether an error of `sync_range` says that there is no such call, or none for such a file.
constexpr auto is_range_sync_missing(int code) noexcept -> bool {
  return code == ENOSYS || code == EINVAL || code == ESPIPE || code == EOPNOTSUPP;
}

// msync(2), MS_SYNC.
inline auto sync_memory(void* address, std::size_t length) noexcept -> outcome<void> {
  return perform(call::msync, [&] { return ::msync(address, length, MS_SYNC); },
                 {.address = address, .length = length});
}

inline auto resident_pages(void* address, std::size_t length, unsigned char* pages) noexcept -> outcome<void> {
  return perform(call::mincore, [&] { return ::mincore(address, length, pages); });
}

// By number: the sanitizers' mlock and munlock do nothing.
inline auto lock_memory(void* address, std::size_t length, bool on_fault) noexcept -> outcome<void> {
  return perform(call::mlock, [&] {
    return on_fault ? ::syscall(SYS_mlock2, address, length, MLOCK_ONFAULT) : ::syscall(SYS_mlock, address, length);
  });
}

inline auto unlock_memory(void* address, std::size_t length) noexcept -> outcome<void> {
  return perform(call::munlock, [&] { return ::syscall(SYS_munlock, address, length); });
}

// userfaultfd(2), for faults of user mode, which is all that an ordinary user may have.
inline auto open_fault_tracker() noexcept -> outcome<descriptor> {
  return invoke(call::userfaultfd,
                [&] { return static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)); });
}

// Begins with such a descriptor: the system itself lifts the write protection of a page that is written (UFFDIO_API).
inline auto enable_write_tracking(descriptor tracker) noexcept -> outcome<void> {
  uffdio_api wanted{};
  wanted.api = UFFD_API;
  wanted.features = uffd_feature_wp_async;
  return perform(call::ioctl, [&] { return ::ioctl(tracker, UFFDIO_API, &wanted); });
}

// UFFDIO_REGISTER; protects nothing yet.
inline auto track_writes(descriptor tracker, void const* address, std::size_t length) noexcept -> outcome<void> {
  uffdio_register wanted{};
  wanted.range = {.start = reinterpret_cast<std::uintptr_t>(address), .len = length};
  wanted.mode = UFFDIO_REGISTER_MODE_WP;
  return perform(call::ioctl, [&] { return ::ioctl(tracker, UFFDIO_REGISTER, &wanted); });
}

// Runs of pages from `begin` on that are what is asked for, as many as there is room for (PAGEMAP_SCAN, Linux 6.7). With room
// for more than 512, it may tell too low an end.
inline auto scan_pages(descriptor pagemap, std::uint64_t begin, std::uint64_t end, page_scan const& wanted,
                       std::span<page_run> found) noexcept -> outcome<scan_progress> {
  pm_scan_arg about{};
  about.size = sizeof about;
  about.flags = (wanted.protect ? pm_scan_wp_matching : 0) | (wanted.only_tracked ? pm_scan_check_wpasync : 0);
  about.start = begin;
  about.end = end;
  about.vec = reinterpret_cast<std::uintptr_t>(found.data());
  about.vec_len = found.size();
  about.category_inverted = wanted.inverted;
  about.category_mask = wanted.all;
  about.category_anyof_mask = wanted.any;
  about.return_mask = wanted.reported;
  auto const runs = invoke(call::ioctl, [&] { return ::ioctl(pagemap, pagemap_scan, &about); });
  return runs ? outcome<scan_progress>{{.runs = static_cast<std::size_t>(*runs), .end = about.walk_end}}
              : std::unexpected(runs.error());
}

// RLIMIT_MEMLOCK in bytes; UINT64_MAX when unlimited.
inline auto locked_memory_limit() noexcept -> outcome<std::uint64_t> {
  rlimit limit{};
  auto const done = invoke(call::getrlimit, [&] { return ::getrlimit(RLIMIT_MEMLOCK, &limit); });
  return done ? outcome<std::uint64_t>{limit.rlim_cur} : std::unexpected(done.error());
}

// The process, whose number a forked child does not share. Never fails.
inline auto process_id() noexcept -> int { return ::getpid(); }
inline auto effective_user() noexcept -> std::uint32_t { return ::geteuid(); }
// Whether there is nobody that memory could have to be shared with. Not always true when it could be.
inline auto is_single_threaded() noexcept -> bool { return ::__libc_single_threaded != 0; }

// uname(2): of the kernel. What is not a version is 0.0.
inline auto kernel_version() noexcept -> outcome<system_version> {
  utsname about{};
  auto const done = invoke(call::uname, [&] { return ::uname(&about); });
  if (!done) {
    return std::unexpected(done.error());
  }
  system_version version{.major = 0, .minor = 0};
  auto const* const end = std::end(about.release);
  auto const* const point = std::from_chars(about.release, end, version.major).ptr;
  if (point != end && *point == '.') {
    std::from_chars(std::next(point), end, version.minor);
  }
  return version;
}

// The memory of the machine, in bytes.
inline auto physical_memory() noexcept -> std::uint64_t {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// The system's page size in bytes, read once.
inline auto page_size() noexcept -> std::size_t {
  static auto const size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

// A point in time of the steady clock, in nanoseconds.
inline auto time_at(std::int64_t nanoseconds) noexcept -> timespec {
  constexpr std::int64_t second = 1'000'000'000;
  return {.tv_sec = nanoseconds / second, .tv_nsec = nanoseconds % second};
}

// Sleeps until a point in time of the steady clock, in nanoseconds.
inline auto sleep_until(std::int64_t when) noexcept -> outcome<void> {
  auto const until = time_at(when);
  return perform(call::clock_nanosleep, [&] {
    errno = ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr); // returns the error
    return errno == 0 ? 0 : -1;
  });
}

// Lets other threads go first.
inline void yield() noexcept {
  (void)invoke(call::sched_yield, [] { return ::sched_yield(); }); // never fails
}

inline auto cache(descriptor file, std::uint64_t offset, std::uint64_t length) noexcept -> outcome<cache_status> {
  cachestat_range range{.offset = offset, .length = length};
  cachestat_counts pages{};
  auto const done = invoke(call::cachestat,
                           [&] { return static_cast<int>(::syscall(number_of_cachestat, file, &range, &pages, 0)); });
  if (!done) {
    return std::unexpected(done.error());
  }
  return cache_status{
      .cached = pages.cached * page_size(),
      .dirty = pages.dirty * page_size(),
      .writeback = pages.writeback * page_size(),
  };
}

} // namespace fmmap::os
