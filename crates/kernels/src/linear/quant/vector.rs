//! 64 bytes: four columns of 16 rows, on every instruction set.
#![expect(unsafe_code, reason = "reads chunks of panels, whose sizes were checked, without checking again")]

/// What unpacking needs of a vector. Shifts and masks go byte by byte.
pub(super) trait Vector: Copy {
    /// 64 bytes from memory.
    ///
    /// # Safety
    /// They must be readable, and the machine must have the tier's instructions.
    unsafe fn load(from: *const u8) -> Self;
    /// To memory.
    fn store(self, to: &mut [u8; 64]);
    /// The same byte everywhere.
    fn splat(byte: u8) -> Self;
    /// Bits of both.
    fn and(self, other: Self) -> Self;
    /// Bits of either.
    fn or(self, other: Self) -> Self;
    /// Bits of one of the two.
    fn xor(self, other: Self) -> Self;
    /// Byte sums, without their carry.
    fn add(self, other: Self) -> Self;
    /// Bits moved `n` down within 16 bits; the byte above moves in, so a mask must follow.
    fn shr(self, n: u32) -> Self;
    /// As [`Vector::shr`], up.
    fn shl(self, n: u32) -> Self;
    /// Bytes to entries of a table; they must be below 16.
    fn lookup(self, table: &[u8; 16]) -> Self;
    /// In each row, bytes `i` and `j` as 16-bit integers less `offset`.
    fn widen(self, i: u8, j: u8, offset: i16) -> Self;
    /// Half-precision numbers of 16 rows.
    ///
    /// # Safety
    /// As [`Vector::load`], for 32 bytes.
    unsafe fn halves(from: *const u8) -> [f32; 16];

    /// 16 in each byte that has a bit in common with `own`, else 0.
    fn sixteens(self, own: Self) -> Self;

    /// Each byte moved `n` down, then `mask`.
    #[inline(always)]
    fn bits(self, n: u32, mask: u8) -> Self {
        self.shr(n).and(Self::splat(mask))
    }

    /// `mask` of each byte, moved `n` up.
    #[inline(always)]
    fn bits_up(self, n: u32, mask: u8) -> Self {
        self.and(Self::splat(mask)).shl(n)
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain([u8; 64]);

impl Plain {
    fn words(self, f: impl Fn(u16) -> u16) -> Plain {
        let mut out = self;
        for b in out.0.as_chunks_mut::<2>().0 {
            *b = f(u16::from_le_bytes(*b)).to_le_bytes();
        }
        out
    }

    fn zip(self, other: Plain, f: impl Fn(u8, u8) -> u8) -> Plain {
        Plain(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Plain {
    unsafe fn load(from: *const u8) -> Plain {
        // SAFETY: readable by contract.
        Plain(unsafe { from.cast::<[u8; 64]>().read() })
    }
    fn store(self, to: &mut [u8; 64]) {
        *to = self.0;
    }
    fn splat(byte: u8) -> Plain {
        Plain([byte; 64])
    }
    fn and(self, other: Plain) -> Plain {
        self.zip(other, |a, b| a & b)
    }
    fn or(self, other: Plain) -> Plain {
        self.zip(other, |a, b| a | b)
    }
    fn xor(self, other: Plain) -> Plain {
        self.zip(other, |a, b| a ^ b)
    }
    fn add(self, other: Plain) -> Plain {
        self.zip(other, u8::wrapping_add)
    }
    fn shr(self, n: u32) -> Plain {
        self.words(|w| w >> n)
    }
    fn shl(self, n: u32) -> Plain {
        self.words(|w| w << n)
    }
    fn lookup(self, table: &[u8; 16]) -> Plain {
        Plain(self.0.map(|b| table[usize::from(b)]))
    }
    fn widen(self, i: u8, j: u8, offset: i16) -> Plain {
        let mut out = self;
        for (out, row) in out.0.as_chunks_mut::<4>().0.iter_mut().zip(self.0.as_chunks::<4>().0) {
            let [a, b] = [i, j].map(|at| (i16::from(row[usize::from(at)]) - offset).to_le_bytes());
            *out = [a[0], a[1], b[0], b[1]];
        }
        out
    }
    fn sixteens(self, own: Plain) -> Plain {
        self.zip(own, |a, b| if a & b == 0 { 0 } else { 16 })
    }
    unsafe fn halves(from: *const u8) -> [f32; 16] {
        // SAFETY: readable by contract.
        let halves = unsafe { from.cast::<[[u8; 2]; 16]>().read() };
        halves.map(|h| half::f16::from_le_bytes(h).to_f32())
    }
}
