//! TensorBoard's event files: records of length, checksum, protobuf, checksum.

use std::io::{self, Write};

/// CRC-32C, bit by bit reversed polynomial.
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

static TABLE: [u32; 256] = table();

/// The checksum of the format: CRC-32C, rotated and offset.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, b| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ b)]);
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn record(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(data)?;
    out.write_all(&masked_crc(data).to_le_bytes())
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn bytes(out: &mut Vec<u8>, field: u8, data: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

/// `Event { wall_time: 1, step: 2, … }`
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend_from_slice(&wall_time.to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    out
}

/// Writes what every event file begins with.
///
/// # Errors
/// What the writer says.
pub fn begin(out: &mut impl Write, wall_time: f64) -> io::Result<()> {
    let mut first = event(wall_time, 0);
    bytes(&mut first, 3, b"brain.Event:2");
    record(out, &first)
}

/// Writes scalars of a step.
///
/// # Errors
/// What the writer says.
pub fn scalars(out: &mut impl Write, wall_time: f64, step: u64, values: &[(String, f64)]) -> io::Result<()> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        bytes(&mut one, 1, tag.as_bytes());
        one.push(2 << 3 | 5);
        one.extend_from_slice(&(*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &one);
    }
    let mut data = event(wall_time, step);
    bytes(&mut data, 5, &summary);
    record(out, &data)
}
