use allod_tensor::DType;
use std::fmt;

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal;)*) => {
        /// An element type of the safetensors format.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[expect(missing_docs, non_camel_case_types, reason = "the names are the documentation")]
        pub enum Dtype { $($variant),* }

        impl Dtype {
            /// The type called `name` in a header.
            pub fn from_name(name: &str) -> Option<Dtype> { match name { $($name => Some(Dtype::$variant),)* _ => None } }

            /// The name in a header.
            pub const fn name(self) -> &'static str { match self { $(Dtype::$variant => $name),* } }

            /// Bits of one element.
            pub const fn bits(self) -> usize { match self { $(Dtype::$variant => $bits),* } }
        }
    };
}

dtypes! {
    BOOL "BOOL" 8;
    F4 "F4" 4;
    F6_E2M3 "F6_E2M3" 6;
    F6_E3M2 "F6_E3M2" 6;
    U8 "U8" 8;
    I8 "I8" 8;
    F8_E5M2 "F8_E5M2" 8;
    F8_E4M3 "F8_E4M3" 8;
    F8_E8M0 "F8_E8M0" 8;
    F8_E4M3FNUZ "F8_E4M3FNUZ" 8;
    F8_E5M2FNUZ "F8_E5M2FNUZ" 8;
    I16 "I16" 16;
    U16 "U16" 16;
    F16 "F16" 16;
    BF16 "BF16" 16;
    I32 "I32" 32;
    U32 "U32" 32;
    F32 "F32" 32;
    C64 "C64" 64;
    F64 "F64" 64;
    I64 "I64" 64;
    U64 "U64" 64;
}

impl Dtype {
    /// The same type as GGUF knows it; `None` for types that only safetensors has.
    pub const fn tensor_type(self) -> Option<DType> {
        Some(match self {
            Dtype::I8 => DType::I8,
            Dtype::I16 => DType::I16,
            Dtype::I32 => DType::I32,
            Dtype::I64 => DType::I64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            _ => return None,
        })
    }

    /// The safetensors type of a plain GGUF type; `None` for quantized ones.
    pub const fn from_tensor_type(dtype: DType) -> Option<Dtype> {
        Some(match dtype {
            DType::I8 => Dtype::I8,
            DType::I16 => Dtype::I16,
            DType::I32 => Dtype::I32,
            DType::I64 => Dtype::I64,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            _ => return None,
        })
    }

    /// Bytes that a shape takes; `None` on overflow or when the last byte would be shared.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let bits = elements.checked_mul(self.bits())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
