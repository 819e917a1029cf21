mod llama2c;
mod read;
