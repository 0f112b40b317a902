// SPDX-License-Identifier: MIT OR Apache-2.0

/// Guarded stacks by the hundred thousand: for fibres, coroutines, threads and signal handlers.
export module fmmap.stack;

export import fmmap.core;

export import :stack_allocator;
export import :stack_at_hand;
export import :stack_pool;
export import :stack_resource;
export import :this_hand;
