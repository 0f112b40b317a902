// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

export module fmmap.dirty:detector;

import fmmap.core;
import :runs;

export namespace fmmap::dirty {

// How changed pages are found, best first.
enum class method : unsigned char {
  userfaultfd, // what has been written since it was last asked (Linux 6.7; default seccomp filters of containers forbid it)
  pagemap_scan, // what is not the file's page any more, by PAGEMAP_SCAN (Linux 6.7)
  pagemap,      // the same, by reading /proc/self/pagemap
  compare,      // nothing is known: all pages have to be looked at
};

// "userfaultfd", "pagemap_scan", "pagemap", "compare".
[[nodiscard]] auto to_string(method one) noexcept -> std::string_view;

// Tells which pages of memory that is mapped privately from files may have been changed, by stores or by the system: read(2)
// into the memory counts. What is written through a mapping of somebody else, or by a device to pages that were pinned for it
// (registered buffers of io_uring), is not told of.
//
// One thread at a time. In a forked child every function fails with `errc::forked`: what the system knows is the parent's.
class detector {
public:
  // One of the best method this process can use, not better than `best`. Each is tried on a page of its own before it is
  // taken; what does not work, for whatever reason, is passed over. Nothing of that is left behind.
  [[nodiscard]] static auto make(method best = method::userfaultfd) -> std::unique_ptr<detector>;

  detector(detector const&) = delete;
  auto operator=(detector const&) -> detector& = delete;
  virtual ~detector() = default;

  [[nodiscard]] virtual auto kind() const noexcept -> method = 0;

  // Whether `collect` lists what has changed since it was last called. If not, it lists everything that was ever changed, until
  // MADV_DONTNEED has made it the file's page again, or by `compare` all there is.
  [[nodiscard]] virtual auto is_incremental() const noexcept -> bool = 0;

  // Looks at this memory too from now on. Called again for what the mapping has grown by, and for what has been mapped anew.
  // The first `collect` after it lists all that is in memory by then, whether it has changed or not.
  //
  // Errors: `std::errc::invalid_argument` when it is not whole pages; what the system reports, `std::errc::device_or_resource_busy`
  // when somebody else tracks its faults. It is not looked at then.
  [[nodiscard]] virtual auto watch(page_range added) -> result<void> = 0;

  // Appends the runs of pages that may have changed, ascending, none touching another. Nobody writes to the memory meanwhile.
  //
  // Errors: what the system reports. Nothing is appended then, and the next call lists no less than this one would have.
  [[nodiscard]] virtual auto collect(std::vector<page_range>& changed) -> result<void> = 0;

protected:
  detector() = default;
};

// Those pages of private memory that are the process's own, and in memory at this moment; nothing where the system does not tell.
// What is swapped out is not told from what protects a page that is not there, and is left out.
[[nodiscard]] auto find_private_pages(page_range in) -> std::optional<std::vector<page_range>>;

} // namespace fmmap::dirty
