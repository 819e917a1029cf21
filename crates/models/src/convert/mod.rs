//! From a Hugging Face folder to GGUF and back. Both read a [`WeightSource`](allod_formats::WeightSource), so either
//! also rewrites what is in its own format already.

mod folder;
mod gguf;
mod view;

pub use folder::{FolderOptions, to_safetensors};
pub(crate) use folder::{folder_name, folder_names};
pub use gguf::{GgufOptions, to_gguf};
pub use view::AsGguf;
