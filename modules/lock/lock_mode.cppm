// SPDX-License-Identifier: MIT OR Apache-2.0
export module fmmap.lock:lock_mode;

export namespace fmmap {

/// What a lock keeps out.
enum class lock_mode : unsigned char {
  /// Exclusive locks.
  shared,
  /// All locks. Needs a file that is open for writing, unless the kind is `flock`.
  exclusive,
};

/// The kinds of file locks that Linux has. A file may have locks of several; docs/locks.md says which know of each other.
enum class lock_kind : unsigned char {
  /// Of an open file description and a range of bytes: F_OFD_SETLK, fcntl_locking(2).
  open_file_description,
  /// Of an open file description and the whole file: flock(2). Needs no right to write, and cannot be upgraded.
  flock,
  /// Of a process and a range of bytes: F_SETLK, fcntl_locking(2). What other programs hold: fmmap makes none, because closing
  /// any descriptor of the file drops them.
  process,
};

} // namespace fmmap
