//! What the declarations of kernels share: parameters, bindings, the usual workgroup and the loop over rows.

use rayon::prelude::*;

use crate::cancel::Watch;
use crate::recording::Access;

/// Invocations of a workgroup, for kernels that have no reason for another number.
pub(crate) const WORKGROUP: u32 = 64;

/// Calls `row` with the number of each row of `width` entries and the row, on all cores, while the work is wanted; the
/// rows after that stay as they were.
pub(crate) fn each_row<T: Send>(watch: &Watch, rows: &mut [T], width: usize, row: impl Fn(usize, &mut [T]) + Sync) {
    rows.par_chunks_exact_mut(width).enumerate().for_each(|(at, entries)| {
        if !watch.stops() {
            row(at, entries);
        }
    });
}

/// The bindings of a kernel that reads the first `read` of N and writes the others.
pub(crate) const fn bindings<const N: usize>(read: usize) -> [Access; N] {
    let mut bindings = [Access::Write; N];
    let mut at = 0;
    while at < read {
        bindings[at] = Access::Read;
        at += 1;
    }
    bindings
}

/// Declares a kernel's `Params`: the Rust side of the shader's struct of the same name, and its field table.
macro_rules! params {
    ($($(#[$doc:meta])* $field:ident: $ty:ty,)*) => {
        /// The shader's `Params`.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params {
            $($(#[$doc])* pub $field: $ty,)*
        }

        impl Params {
            /// Where each field lies.
            pub const FIELDS: &'static [$crate::recording::ParamField] = &[$($crate::recording::ParamField {
                name: stringify!($field),
                offset: std::mem::offset_of!(Params, $field),
                bytes: std::mem::size_of::<$ty>(),
            }),*];
        }
    };
}
pub(crate) use params;
