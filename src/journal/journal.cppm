// SPDX-License-Identifier: MIT OR Apache-2.0

// Changes pages of a file all or none: a redo journal in a ring of the file itself.
//
// A transaction becomes a record in the ring, which is its own commit mark; what it changes is written in place when the
// record is durable, and the ring is used again when that is. An internal module, which knows nothing of what the pages
// mean: the persistent heap does.
export module fmmap.journal;

export import :format;
export import :transaction;
export import :log;
