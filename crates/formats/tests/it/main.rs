mod codec;
mod llama2c;
mod read;
