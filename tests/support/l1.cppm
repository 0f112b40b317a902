// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

#include "process.hpp"

// The power-loss model: a scenario runs once, and everything it does to its folder is recorded, by looking at the folder
// before and after each of its system calls. From the record come the histories: for every moment at which power could have
// failed, the images that could then be on the disk. The rules:
//
// 1. A page is durable when a successful fsync, fdatasync or msync(MS_SYNC) that was entered after the store has covered
//    it. Otherwise it has any version since its last durable one, each page independently, or a mixture of two of them in
//    sectors of 512 bytes, one of which may be torn itself. sync_file_range, madvise, munmap and close make nothing durable.
// 2. A size is a matter of its own: a file may have a new size without the new bytes, which are zeros then. One that grows
//    may be found at any page border between. fsync and fdatasync make the size durable, msync as far as its range reaches
//    (msync(2) of Linux is vfs_fsync_range with datasync). What shrinking has cut off stays cut off when a later size is
//    found: file systems order the two.
// 3. Names become durable by fsync of their directory, or by syncfs. Otherwise a change of a name may have happened or
//    not, independently of those of other names, after those of the same name. A rename is one change of two names. It may
//    be found without the content of the file.
// 4. A failed sync may have written any of its pages and has made all of them clean: no later sync makes durable what was
//    there when it failed. Names are different: what keeps a directory from being written stops the whole file system, so a
//    later sync that succeeds has written them.
//
// A scenario makes its calls on one thread. A store of the bytes that are already there is not seen.
export module fmmap.test.l1;

import fmmap.test.crash;

export namespace l1 {

struct report {
  std::string name;
  std::size_t crash_points = 0;
  std::size_t histories = 0;
  std::size_t bad = 0;
  std::size_t runs = 0;   // the first, and those in what a crash has left
  std::string first = {}; // of what is bad
};

[[nodiscard]] auto to_string(report const& r) -> std::string;

// FMMAP_SEED, or the one of every day.
[[nodiscard]] auto seed() -> std::uint64_t;

// How many histories of a moment are looked at when there are many.
struct effort {
  std::size_t all_up_to = 4096; // of them, every one; where there are more, some
  std::size_t one_in = 1;       // of the things that can be lost or kept, those that are lost or kept alone
  std::size_t samples = sanitized ? 400 : 2000;
  std::size_t torn_samples = sanitized ? 50 : 200;
  std::size_t runs_again = sanitized ? 4 : 16;
};

// Runs the scenario and judges all its histories; and so again in images of its crash points, for the operation has to cope
// with what a crash has left, and may be cut short there too. `sabotage` tells the seam which barriers to take away; then
// the scenario runs once.
[[nodiscard]] auto run(crash::scenario const& of, std::function<void()> const& sabotage = {}, effort const& spent = {})
    -> report;

// The different images that a power failure at the end of a scenario can leave, without those that tear a page.
[[nodiscard]] auto final_images(crash::scenario const& of) -> std::set<crash::image>;

} // namespace l1
