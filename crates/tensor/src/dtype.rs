use std::fmt;

macro_rules! dtypes {
    ($($variant:ident $name:literal $id:literal $block:literal $bytes:literal;)*) => {
        /// An element type, named and numbered as in GGUF. Quantized types store blocks of several elements.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[expect(missing_docs, non_camel_case_types, reason = "the names are the documentation")]
        pub enum DType { $($variant),* }

        impl DType {
            /// Every type, in the order of GGUF's numbers.
            pub const ALL: &[DType] = &[$(DType::$variant),*];

            /// The number that stands for this type in a GGUF file.
            pub const fn gguf_id(self) -> u32 { match self { $(DType::$variant => $id),* } }

            /// The type behind a GGUF number; `None` for numbers that are unknown or were withdrawn.
            pub const fn from_gguf_id(id: u32) -> Option<DType> { match id { $($id => Some(DType::$variant),)* _ => None } }

            /// Elements in one block.
            pub const fn block(self) -> usize { match self { $(DType::$variant => $block),* } }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize { match self { $(DType::$variant => $bytes),* } }

            /// The usual name, such as `Q4_K`.
            pub const fn name(self) -> &'static str { match self { $(DType::$variant => $name),* } }
        }
    };
}

dtypes! {
    F32 "F32" 0 1 4;
    F16 "F16" 1 1 2;
    Q4_0 "Q4_0" 2 32 18;
    Q4_1 "Q4_1" 3 32 20;
    Q5_0 "Q5_0" 6 32 22;
    Q5_1 "Q5_1" 7 32 24;
    Q8_0 "Q8_0" 8 32 34;
    Q8_1 "Q8_1" 9 32 36;
    Q2_K "Q2_K" 10 256 84;
    Q3_K "Q3_K" 11 256 110;
    Q4_K "Q4_K" 12 256 144;
    Q5_K "Q5_K" 13 256 176;
    Q6_K "Q6_K" 14 256 210;
    Q8_K "Q8_K" 15 256 292;
    IQ2_XXS "IQ2_XXS" 16 256 66;
    IQ2_XS "IQ2_XS" 17 256 74;
    IQ3_XXS "IQ3_XXS" 18 256 98;
    IQ1_S "IQ1_S" 19 256 50;
    IQ4_NL "IQ4_NL" 20 32 18;
    IQ3_S "IQ3_S" 21 256 110;
    IQ2_S "IQ2_S" 22 256 82;
    IQ4_XS "IQ4_XS" 23 256 136;
    I8 "I8" 24 1 1;
    I16 "I16" 25 1 2;
    I32 "I32" 26 1 4;
    I64 "I64" 27 1 8;
    F64 "F64" 28 1 8;
    IQ1_M "IQ1_M" 29 256 56;
    BF16 "BF16" 30 1 2;
    TQ1_0 "TQ1_0" 34 256 54;
    TQ2_0 "TQ2_0" 35 256 66;
    MXFP4 "MXFP4" 39 32 17;
    NVFP4 "NVFP4" 40 64 36;
    Q1_0 "Q1_0" 41 128 18;
    Q2_0 "Q2_0" 42 64 18;
}

impl DType {
    /// Bits that one element takes, scales included.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block() as f64
    }

    /// Bytes of `elements` consecutive elements; `None` when no whole number of blocks holds them or on overflow.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block()) {
            return None;
        }
        (elements / self.block()).checked_mul(self.block_bytes())
    }

    /// True for types that store scaled blocks instead of single numbers.
    pub const fn is_quantized(self) -> bool {
        self.block() > 1
    }

    /// The type called `name`, in any case.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::ALL.iter().copied().find(|d| d.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
