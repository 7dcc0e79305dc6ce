//! Which instruction set the kernels use: detected once, `GPT2_ISA` overrides.

use std::sync::OnceLock;

/// An instruction set that the kernels have an entry for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain arrays, any processor.
    Scalar,
    /// AVX2 with fused multiply-add and half-precision conversion.
    Avx2,
    /// The same with AVX-VNNI's products of bytes.
    AvxVnni,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
}

impl Isa {
    /// The set in use: `GPT2_ISA=scalar|avx2|avxvnni|avx512` where the processor has
    /// it, else the best it has.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let best = Self::available()[0];
            let Ok(wanted) = std::env::var("GPT2_ISA") else {
                return best;
            };
            let found = Self::available()
                .iter()
                .copied()
                .find(|isa| isa.name() == wanted);
            found.unwrap_or_else(|| {
                tracing::warn!(
                    "GPT2_ISA={wanted} is not available here; using {}",
                    best.name()
                );
                best
            })
        })
    }

    /// The sets that this processor has, best first.
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let all = [Self::Avx512, Self::AvxVnni, Self::Avx2, Self::Scalar];
            all.into_iter().filter(|isa| isa.is_here()).collect()
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2,
            Self::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_here(self) -> bool {
        self == Self::Scalar
    }

    /// This set, or the next that has products of bytes: VNNI came later than
    /// AVX-512 itself.
    pub(super) fn with_byte_products(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 && !is_x86_feature_detected!("avx512vnni") {
            return Self::Avx2;
        }
        self
    }

    /// This set, or the next that has products of bf16.
    pub(super) fn with_bf16_products(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 && !is_x86_feature_detected!("avx512bf16") {
            return Self::Avx2;
        }
        self
    }

    /// The name that `GPT2_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
        }
    }
}

/// Runs `$kernel::<V>($args)` compiled for the instruction set `$isa`.
///
/// The generic body is inlined into one entry per set, so that the compiler
/// may use that set's registers throughout.
macro_rules! dispatch {
    ($isa:expr, $kernel:ident ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?) => {
        $crate::kernels::isa::dispatch!(
            "avx512f", $isa, $kernel[]($($arg: $ty),*) $(-> $ret)?
        )
    };
    // `$extra`: what the kernel needs of an AVX-512 processor besides the
    // common parts; the caller has narrowed `$isa` down to those that have it.
    (
        $extra:literal, $isa:expr,
        $kernel:ident [ $($generic:ty),* ] ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?
    ) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
        #[target_feature(enable = $extra)]
        // SAFETY: called only where `Isa::available` lists the set.
        unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: this entry enables what the vector type needs.
            unsafe { $kernel::<$crate::kernels::vector::Avx512, $($generic),*>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        // SAFETY: called only where `Isa::available` lists the set.
        unsafe fn avx_vnni($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: this entry enables what the vector type needs.
            unsafe { $kernel::<$crate::kernels::vector::AvxVnni, $($generic),*>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        // SAFETY: called only where `Isa::available` lists the set.
        unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: this entry enables what the vector type needs.
            unsafe { $kernel::<$crate::kernels::vector::Avx2, $($generic),*>($($arg),*) }
        }
        match $isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa` values come from `Isa::available`.
            $crate::kernels::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa` values come from `Isa::available`.
            $crate::kernels::isa::Isa::AvxVnni => unsafe { avx_vnni($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa` values come from `Isa::available`.
            $crate::kernels::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
            // SAFETY: the portable vectors need no instruction set.
            _ => unsafe { $kernel::<$crate::kernels::vector::Portable, $($generic),*>($($arg),*) },
        }
    }};
}
pub(super) use dispatch;
