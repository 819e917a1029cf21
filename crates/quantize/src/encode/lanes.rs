//! The loops in which encoding spends its time. Sixteen blocks are encoded together, one to a lane: sums run over a
//! block's values in order and never over lanes, so a block's bytes depend neither on its neighbours nor on how wide
//! the machine's vectors are.

/// Blocks that are encoded together.
pub(super) const LANES: usize = 16;

/// A number for every block.
pub(super) type Lanes = [f32; LANES];

/// Values and weights of sixteen blocks of `N`: value `i` of all blocks stands in row `i`.
pub(super) struct Batch<const N: usize> {
    pub(super) x: [Lanes; N],
    pub(super) w: [Lanes; N],
}

/// Sums of `w`, `w x` and `w x²`.
pub(super) struct Moments {
    pub(super) w: Lanes,
    pub(super) x: Lanes,
    pub(super) xx: Lanes,
}

/// Weighted sums over a block's values and the codes that were chosen for them.
pub(super) struct Codes {
    /// Of `w q`.
    pub(super) q: Lanes,
    /// Of `w q²`.
    pub(super) qq: Lanes,
    /// Of `w x q`.
    pub(super) xq: Lanes,
}

impl<const N: usize> Batch<N> {
    /// From blocks one after the other.
    #[inline(always)]
    pub(super) fn new(x: &[f32], w: &[f32]) -> Batch<N> {
        let mut batch = Batch { x: [[0.0; LANES]; N], w: [[0.0; LANES]; N] };
        for (l, (x, w)) in x.as_chunks::<N>().0.iter().zip(w.as_chunks::<N>().0).enumerate() {
            for i in 0..N {
                (batch.x[i][l], batch.w[i][l]) = (x[i], w[i]);
            }
        }
        batch
    }

    #[inline(always)]
    pub(super) fn moments(&self) -> Moments {
        let mut m = Moments { w: [0.0; LANES], x: [0.0; LANES], xx: [0.0; LANES] };
        for (x, w) in self.x.iter().zip(&self.w) {
            for l in 0..LANES {
                let wx = w[l] * x[l];
                m.w[l] += w[l];
                m.x[l] += wx;
                m.xx[l] = wx.mul_add(x[l], m.xx[l]);
            }
        }
        m
    }

    /// Sums over the codes that `code` gives the values; it is told the lane.
    #[inline(always)]
    pub(super) fn codes(&self, code: impl Fn(usize, f32) -> f32) -> Codes {
        let mut c = Codes { q: [0.0; LANES], qq: [0.0; LANES], xq: [0.0; LANES] };
        for (x, w) in self.x.iter().zip(&self.w) {
            for l in 0..LANES {
                let q = code(l, x[l]);
                let wq = w[l] * q;
                c.q[l] += wq;
                c.qq[l] = wq.mul_add(q, c.qq[l]);
                c.xq[l] = wq.mul_add(x[l], c.xq[l]);
            }
        }
        c
    }

    /// Weighted sums of the squares of what `error` gives for the values; it is told the lane.
    #[inline(always)]
    pub(super) fn squares(&self, error: impl Fn(usize, f32) -> f32) -> Lanes {
        let mut sum = [0.0; LANES];
        for (x, w) in self.x.iter().zip(&self.w) {
            for l in 0..LANES {
                let e = error(l, x[l]);
                sum[l] = (w[l] * e).mul_add(e, sum[l]);
            }
        }
        sum
    }

    /// Codes of all values, blocks one after the other.
    #[inline(always)]
    pub(super) fn write(&self, out: &mut [u8], code: impl Fn(usize, f32) -> u8) {
        for (l, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            for (out, x) in out.iter_mut().zip(&self.x) {
                *out = code(l, x[l]);
            }
        }
    }
}

/// One function of every lane's number.
#[inline(always)]
pub(super) fn each(f: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for (l, out) in out.iter_mut().enumerate() {
        *out = f(l);
    }
    out
}

/// Every lane gets the sum over its super-block, which has `BLOCKS` lanes.
#[inline(always)]
pub(super) fn together<const BLOCKS: usize>(v: &Lanes) -> Lanes {
    let mut out = *v;
    for group in out.as_chunks_mut::<BLOCKS>().0 {
        *group = [group.iter().sum(); BLOCKS];
    }
    out
}

/// Every lane gets the result for its super-block, found from that block's first lane.
#[inline(always)]
pub(super) fn once<const BLOCKS: usize>(f: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for (g, group) in out.as_chunks_mut::<BLOCKS>().0.iter_mut().enumerate() {
        *group = [f(g * BLOCKS); BLOCKS];
    }
    out
}
