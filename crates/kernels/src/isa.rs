//! Which instruction set the kernels run on: found out once, at run time.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__cpuid;
use std::{fmt, str::FromStr, sync::OnceLock};

/// A tier of instructions. Every kernel gives the same bytes on each of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Plain Rust: the definition of every result.
    Scalar,
    /// AVX2 with FMA and F16C (Intel since 2013, AMD since 2015).
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VBMI and VNNI (Intel since Ice Lake, AMD since Zen 4).
    Avx512,
}

impl Isa {
    /// Every tier, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// The tier to use: what `ALLOD_ISA` names, if this machine has it, else the best there is.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let asked = std::env::var("ALLOD_ISA").ok().and_then(|name| name.parse().ok());
            match asked {
                Some(isa) if Isa::is_available(isa) => isa,
                _ => Isa::available().last().unwrap_or(Isa::Scalar),
            }
        })
    }

    /// The tiers this machine has, slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// True when this machine has the tier.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The name that `ALLOD_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

/// Whether the processor is AMD's Zen 4: it reads the weights of one input row faster where it is not told what comes next, if
/// little else is done between loads. Zen 5 was seen to want to be told; others were not looked at.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_zen_4() -> bool {
    /// "AuthenticAMD" in the order in which processors say it.
    const AMD: (u32, u32, u32) = (0x6874_7541, 0x6974_6e65, 0x444d_4163);
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let (vendor, version) = (__cpuid(0), __cpuid(1).eax);
        let family = (version >> 8 & 0xf) + (version >> 20 & 0xff);
        // Zen 3 is of the same family, but has no AVX-512.
        (vendor.ebx, vendor.edx, vendor.ecx) == AMD && family == 0x19 && Isa::Avx512.is_available()
    })
}

/// A computation in plain Rust that [`Isa::run`] compiles for each tier. Its bytes are the same on all of them, since
/// Rust neither reorders nor contracts floating-point operations. What `run` calls must be `#[inline(always)]` to take
/// part.
pub trait Job {
    /// What it gives.
    type Out;
    /// The computation; `#[inline(always)]`.
    fn run(self) -> Self::Out;
}

impl Isa {
    /// Runs a job with this tier's instructions.
    pub fn run<J: Job>(self, job: J) -> J::Out {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn wide<J: Job>(job: J) -> J::Out {
                job.run()
            }
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
            fn widest<J: Job>(job: J) -> J::Out {
                job.run()
            }
            #[expect(unsafe_code, reason = "instructions chosen at run time")]
            // SAFETY: an `Isa` above `Scalar` names features that this machine has.
            unsafe {
                match self {
                    Isa::Scalar => {}
                    Isa::Avx2 => return wide(job),
                    Isa::Avx512 => return widest(job),
                }
            }
        }
        job.run()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No tier has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownIsa(String);

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no instruction set {:?}: scalar, avx2 and avx512 are known", self.0)
    }
}
impl std::error::Error for UnknownIsa {}

impl FromStr for Isa {
    type Err = UnknownIsa;
    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name)).ok_or_else(|| UnknownIsa(name.into()))
    }
}
