//! One body, compiled for every instruction set.
//!
//! Rust neither reorders nor contracts floating-point operations, so a body written without intrinsics gives the same
//! bytes whether it runs one element at a time or is vectorized. [`twin!`] therefore needs no second source: the
//! scalar function *is* the vector one, compiled again with wider instructions.

/// Defines `fn name(isa: Isa, args…)`, whose body is compiled for every tier.
macro_rules! twin {
    ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$attr])*
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
                fn widest($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[expect(unsafe_code, reason = "instructions chosen at run time")]
                // SAFETY: an `Isa` above `Scalar` names features that this machine has.
                unsafe {
                    match isa {
                        $crate::isa::Isa::Scalar => {}
                        $crate::isa::Isa::Avx2 => return wide($($arg),*),
                        $crate::isa::Isa::Avx512 => return widest($($arg),*),
                    }
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use twin;
