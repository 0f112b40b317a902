// SPDX-License-Identifier: MIT OR Apache-2.0

/// Opening, flushing, committing, resizing, locking without blocking the thread that asks, for any coroutine.
export module fmmap.async;

export import fmmap.core;
export import fmmap.lock;

export import :executor;
export import :file_operations;
export import :io_engine;
export import :operation;
export import :sync_wait;
export import :task;
export import :write_behind;
