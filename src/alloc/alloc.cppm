// SPDX-License-Identifier: MIT OR Apache-2.0

// Hands out ranges of a space: the one allocation engine under mapped resources, the persistent heap and code arenas.
//
// An internal module: implementation units import it, interface units never do. It counts in offsets from the start of the
// space, keeps its books in ordinary memory, and never touches what it hands out.
export module fmmap.alloc;

export import :allocator;
export import :books;
export import :checks;
export import :magazines;
export import :mutex;
export import :size_classes;
export import :space;
