// SPDX-License-Identifier: MIT OR Apache-2.0
export module fmmap;

export import fmmap.core;
export import fmmap.lock;
export import fmmap.pmr;
export import fmmap.exec;
export import fmmap.stack;
export import fmmap.async;
